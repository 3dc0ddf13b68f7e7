"""The README and docs are true: their code runs, their commands parse, their links, paths and numbers hold. Exact."""

import argparse
import ast
import importlib.metadata
import os
import re
import runpy
import shlex
import sys
from pathlib import Path

import pytest
import torch
from conftest import REPOSITORY
from mmengine.registry import HOOKS, MODELS, OPTIM_WRAPPER_CONSTRUCTORS, init_default_scope
from test_architecture import WINGS

from convnext_backbone import ConvNeXt
from convnext_backbone.config.check_data import check_data
from convnext_backbone.config.load import load_config
from convnext_backbone.weights.download import cached_path
from convnext_backbone.weights.key_maps import KEY_MAPS

PACKAGE = REPOSITORY / 'convnext_backbone'
PAGES = {
    str(path.relative_to(REPOSITORY)): path.read_text(encoding='utf-8')
    for path in (*REPOSITORY.glob('*.md'), *sorted(REPOSITORY.glob('docs/*.md')))
}
README, WEIGHTS, ZOO = PAGES['README.md'], PAGES['docs/weights.md'], PAGES['docs/zoo.md']
FENCE = re.compile(r'^```(\w*) ?(\S*)\n(.*?)^```$', re.M | re.S)
BLOCKS = [(page, *block) for page, text in PAGES.items() for block in FENCE.findall(text)]
INLINE = {page: re.findall(r'`([^`]+)`', FENCE.sub('', text)) for page, text in PAGES.items()}


# ---- Python ----------------------------------------------------------------------------------------------------------

CONFIGS = [(page, name) for page, language, name, _ in BLOCKS if language == 'python' and name]


@pytest.mark.parametrize(
    'page', {page: None for page, language, name, _ in BLOCKS if language == 'python' and not name}
)
def test_the_python_of_a_page_runs_and_has_the_values_that_its_comments_say(page, tmp_path, monkeypatch):
    """From top to bottom, as in a notebook; each expression but a print has its value beside it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(torch.hub, '_hub_dir', str(tmp_path / 'hub'))
    names = {}
    for block in (code for of, language, name, code in BLOCKS if of == page and language == 'python' and not name):
        for url in re.findall(r"'(https://\S+)'", block):
            write_official_checkpoint(url)
        lines = block.splitlines()
        for statement in ast.parse(block).body:
            code = ast.get_source_segment(block, statement)
            if not isinstance(statement, ast.Expr) or code.startswith('print('):
                exec(code, names)
                continue
            beside, below = (*lines[statement.end_lineno - 1 :], '')[:2]
            comment = beside.partition('  # ')[2] or below.removeprefix('# ')
            assert eval(code, names) == ast.literal_eval(comment)


def write_official_checkpoint(url: str) -> None:
    """Puts a classifier in the official code's form into the cache of downloads."""
    v2, arch = re.search(r'/convnext(v2)?_([a-z]+)_', url).groups()
    state = ConvNeXt(arch, use_grn=bool(v2), out_norm=False).state_dict()
    channels = [*state.values()][-1].shape[0]
    state |= {'norm.weight': torch.ones(channels), 'norm.bias': torch.zeros(channels)}
    state |= {'head.weight': torch.zeros(1000, channels), 'head.bias': torch.zeros(1000)}
    cached_path(url).parent.mkdir(parents=True, exist_ok=True)
    torch.save({'model': state}, cached_path(url))


@pytest.fixture
def checkout(tmp_path, monkeypatch, shapes) -> Path:
    """A working directory with the repository's configs, and drawn shapes in data/."""
    (tmp_path / 'configs').symlink_to(REPOSITORY / 'configs')
    (tmp_path / 'data').mkdir()
    (tmp_path / 'data/shapes').symlink_to(shapes)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(('page', 'name'), CONFIGS)
def test_a_config_of_a_page_loads_fits_its_data_and_builds_its_model(page, name, checkout):
    for of, _, other, code in BLOCKS:
        if of == page and other:
            (checkout / other).write_text(code)
    trained = re.search(rf'tools/train\.py {name} --data-root (\S+)', PAGES[page])
    cfg = load_config(name, data_root=trained and trained[1])
    if trained:
        check_data(cfg)
    with HOOKS.switch_scope_and_registry(cfg.default_scope) as hooks:
        assert all(hooks.get(hook['type']) for hook in cfg.get('custom_hooks', []))
    assert OPTIM_WRAPPER_CONSTRUCTORS.get(cfg.optim_wrapper.get('constructor', 'DefaultOptimWrapperConstructor'))
    init_default_scope(cfg.default_scope)
    with torch.device('meta'):
        model = MODELS.build(cfg.model)
    assert type(model.backbone) is ConvNeXt
    if 'in_channels' in cfg.model.get('neck', {}):
        assert tuple(cfg.model.neck.in_channels) == model.backbone.out_channels


def test_each_source_of_weights_has_its_line():
    """The names in an address are those of the arguments beside it."""
    rows = re.findall(r"^\| .+? \| `(arch='(\w+)'.*?)` \| `((?:https|hf)://\S+)`", WEIGHTS, re.M)
    assert len(rows) == 10
    for arguments, arch, address in rows:
        backbone = eval(f'dict({arguments})')
        assert re.search(rf'convnext(v2)?[_-]{arch}[_.-]', address) and ('v2' in address) == ('use_grn' in backbone)
        with torch.device('meta'):
            assert ConvNeXt(**backbone).state_dict()
    assert rows[0][2] in README and f"ConvNeXt('{rows[0][1]}')" in README
    assert 'nine formats' in README and len({key_map.name for key_map in KEY_MAPS}) == 9


# ---- Commands --------------------------------------------------------------------------------------------------------


def commands_of(script: str) -> list[str]:
    """The commands of a shell script."""
    lines = (shlex.split(line, comments=True) for line in script.replace('\\\n', ' ').splitlines())
    return [command for line in lines for command in shlex.join(line).split(" '&&' ") if command]


# Those of shell blocks and those in a line, each once.
COMMANDS = [
    *dict.fromkeys(
        [command for _, language, _, code in BLOCKS if language == 'bash' for command in commands_of(code)]
        + [
            shlex.join(shlex.split(span))
            for spans in INLINE.values()
            for span in spans
            if re.match(r'(python|pip install|pytest|make|tools/\S+\.sh) ', span)
        ]
    )
]
TAKE_NOTHING = ('tests/golden/compare_ops.py', 'tools/analysis/draw_architecture.py')  # and do all at once


class Parsed(Exception):
    """A command line was accepted; the program goes no further."""


@pytest.fixture
def parse_command(monkeypatch):
    """Starts a program in this process, up to where it has parsed its command line."""
    depth = 0  # of parsers that call each other

    def until_parsed(parse):
        def wrapped(*args, **kwargs):
            nonlocal depth
            depth += 1
            result = parse(*args, **kwargs)
            depth -= 1
            if not depth:
                raise Parsed
            return result

        return wrapped

    def start(run, program: str, arguments: list[str]) -> None:
        monkeypatch.setattr(sys, 'argv', [program, *arguments])
        with pytest.raises((Parsed, SystemExit)) as end:
            run(program, run_name='__main__')
        assert end.type is Parsed or not end.value.code, f'{program} {shlex.join(arguments)}'

    for name in ('parse_args', 'parse_known_args'):
        monkeypatch.setattr(argparse.ArgumentParser, name, until_parsed(getattr(argparse.ArgumentParser, name)))
    return start


@pytest.mark.parametrize('command', COMMANDS)
def test_a_command_is_one_that_its_program_takes(command, parse_command, monkeypatch):
    words = shlex.split(command)
    variables = [word.partition('=')[0] for word in words if re.match(r'[A-Z_]+=', word)]
    program, *arguments = [word for word in words if not re.match(r'[A-Z_]+=', word)]
    for word in arguments:
        if re.match(r'(configs|constraints|docs|tests|tools|convnext_backbone)/', word):
            assert (REPOSITORY / word.partition('::')[0]).exists(), word
    makefile = (REPOSITORY / 'Makefile').read_text()
    extras = importlib.metadata.metadata('convnext-backbone').get_all('Provides-Extra')
    if program == 'make':
        assert all(re.search(rf'^{target}:', makefile, re.M) for target in arguments)
        assert all(re.search(rf'^{name} \?=', makefile, re.M) for name in variables)
    elif program.startswith('pip'):
        assert {extra for word in arguments for extra in re.findall(r'^\.\[(\w+)\]', word)} <= {*extras}
    elif program == 'python' and arguments[0] == '-m':
        parse_command(runpy.run_module, arguments[1], arguments[2:])
    elif program == 'python' and arguments[0] in TAKE_NOTHING:
        assert len(arguments) == 1
    elif program == 'python':
        script = REPOSITORY / arguments[0]
        monkeypatch.syspath_prepend(script.parent)
        parse_command(runpy.run_path, str(script), arguments[1:])
    elif program.endswith('.sh'):
        script = (REPOSITORY / program).read_text()
        assert os.access(REPOSITORY / program, os.X_OK) and all(name in script for name in variables)
        first_flag = {'dist_train.sh': 2, 'slurm_train.sh': 3}[Path(program).name]
        assert len(arguments) >= first_flag
        monkeypatch.syspath_prepend(REPOSITORY / 'tools')
        parse_command(runpy.run_path, str(REPOSITORY / 'tools/train.py'), ['CONFIG', *arguments[first_flag:]])
    else:
        assert program in ('cd', 'git', 'npm', 'pytest', 'source'), program


# ---- Paths, links and numbers ----------------------------------------------------------------------------------------


@pytest.mark.parametrize('page', PAGES)
def test_each_path_that_a_page_names_exists(page):
    """Of the repository, or of a module by its wing."""
    top = rf'(configs|constraints|docs|tests|tools|convnext_backbone)/|({"|".join(WINGS)})/\w+\.py$'
    for span in INLINE[page]:
        if re.match(top, span) and not re.search(r'\s', span):
            found = [*matches(REPOSITORY, span), *matches(PACKAGE, span)]
            assert found, f'{page} names {span}'


def matches(root: Path, pattern: str) -> list[Path]:
    """The files of a pattern with {a,b} and <name>."""
    if braces := re.search(r'\{([^}]*)\}', pattern):
        parts = [matches(root, pattern.replace(braces[0], part)) for part in braces[1].split(',')]
        return sum(parts, []) if all(parts) else []
    return [*root.glob(re.sub('<[^>]*>', '*', pattern))]


def anchors(page: str) -> set[str]:
    """What a link can point to, by GitHub's rule."""
    headings = re.findall(r'^#+ (.+)$', FENCE.sub('', page), re.M)
    return {re.sub(r'[^\w\- ]', '', heading.lower()).replace(' ', '-') for heading in headings}


@pytest.mark.parametrize('page', PAGES)
def test_links_lead_somewhere(page):
    text = re.sub(r'`[^`]*`', '', FENCE.sub('', PAGES[page]))
    for link in re.findall(r'\]\(([^)]+)\)', text):
        if not link.startswith('http'):
            path, _, anchor = link.partition('#')
            target = (REPOSITORY / page).parent / path if path else REPOSITORY / page
            assert target.exists(), f'{page} links to {link}'
            assert not anchor or anchor in anchors(target.read_text(encoding='utf-8')), f'{page} links to {link}'


def test_every_page_can_be_reached_from_the_readme():
    linked = {link.partition('#')[0] for link in re.findall(r'\]\(([^)]+)\)', README)}
    assert set(PAGES) - {'README.md'} <= linked


@pytest.mark.parametrize(('stack', 'column'), [('openmmlab', 0), ('onedl', 1)])
def test_the_table_of_versions_is_the_constraints(stack, column):
    constraints = set((REPOSITORY / f'constraints/{stack}.txt').read_text().replace('===', '==').splitlines())
    rows = re.findall(
        r'^\| (?:engine|mmcv, without operators|detection|segmentation) \| (\S+ \S+) \| (\S+ \S+) \|$', README, re.M
    )
    assert len(rows) == 4 and {row[column].replace(' ', '==') for row in rows} <= constraints
    (versions,) = re.findall(r'^\| torch / torchvision / timm \|(.*)\|(.*)\|$', README, re.M)
    for name, version in zip(('torch', 'torchvision', 'timm'), versions[column].split('/'), strict=True):
        assert f'{name}=={version.strip()}' in constraints


def test_the_versions_that_were_tested_begin_where_the_package_does():
    rows = re.findall(r'^\| (2\.\d+)\.\d+\S* \| \S+ \| \S+ \| (3\.\d+) \|', PAGES['docs/versions.md'], re.M)
    torches, pythons = (sorted({tuple(map(int, row[i].split('.'))) for row in rows}) for i in (0, 1))
    ends = [f'{major}.{minor}' for versions in (torches, pythons) for major, minor in (versions[0], versions[-1])]
    assert 'torch {} to {} and Python {} to {} '.format(*ends) in ' '.join(README.split())
    metadata = importlib.metadata.metadata('convnext-backbone')
    assert f'torch>={ends[0]}' in metadata.get_all('Requires-Dist') and metadata['Requires-Python'] == f'>={ends[2]}'


def test_the_short_zoo_is_a_part_of_the_zoo():
    rows = re.findall(r'^(\| \[\w+\]\()(configs/.*) \|$', README, re.M)
    assert len(rows) == 12
    assert all(f'{start}../{rest} | ' in ZOO for start, rest in rows)


def test_the_architecture_page_has_the_table_of_the_wings_and_their_imports():
    page = PAGES['docs/architecture.md']
    rows = re.findall(r'^\| `(\w+)` \| (.+?) \| (.*)\|$', page, re.M)
    assert {wing: (knows, allowed.replace('`', '').strip()) for wing, knows, allowed in rows} == WINGS
    update = runpy.run_path(str(REPOSITORY / 'tools/analysis/draw_architecture.py'))['update']
    assert page == update(page), 'The sources have changed: run python tools/analysis/draw_architecture.py'


def test_the_pages_are_short():
    assert 150 <= len(README.splitlines()) <= 200 and len(PAGES['CONTRIBUTING.md'].splitlines()) <= 120
