"""Architecture: which wing may import which, where a line belongs, and how long a module may be. Exact.

docs/architecture.md has the same table, and the picture that tools/analysis/draw_architecture.py draws of the imports.
"""

import ast
import runpy
import sys
from graphlib import TopologicalSorter

import pytest
from conftest import REPOSITORY

PACKAGE = REPOSITORY / 'convnext_backbone'
# What each wing knows, and which others it may import.
WINGS = {
    'ops': ("mmcv's operators out of torch and torchvision", ''),
    'utils': ('errors, checks of values, files, images, command line', ''),
    'models': ('the networks, as the papers have them', 'utils'),
    'datasets': ('files -> batches', 'utils'),
    'evaluation': ('scores', 'utils'),
    'visualization': ('arrays -> pictures', 'utils'),
    'weights': ('weights files -> the tensors of a model', 'models utils'),
    'config': ('file and flags -> the config that runs', 'datasets utils'),
    'engine': ('training runs: runner, hooks, resume', 'datasets evaluation weights models utils'),
    'analysis': ('what a model costs', 'config models utils'),
    'apis': (
        'what people do with a trained model',
        'config engine evaluation weights visualization datasets models utils',
    ),
    'deploy': (
        'a trained model as one file that runs without the MM libraries',
        'apis config datasets models ops utils visualization',
    ),
}
LONGEST = 300  # lines of a module
RUNNER = 'deploy/__main__.py', 450  # which people copy elsewhere: it is one file that imports nothing of ours
UTILS = 450  # lines of utils in all: it is for what several wings share
MODULES = sorted(path.relative_to(PACKAGE) for path in PACKAGE.rglob('*.py'))
imported_wings = runpy.run_path(str(REPOSITORY / 'tools/analysis/draw_architecture.py'))['imported_wings']


@pytest.mark.parametrize('module', [str(path) for path in MODULES if len(path.parts) > 1])
def test_a_module_imports_only_what_its_wing_may(module):
    wing = module.split('/')[0]
    assert wing in WINGS, f'{module} is in no wing of {", ".join(WINGS)}: a new wing needs a reason, and a row here.'
    forbidden = imported_wings(PACKAGE / module) - set(WINGS[wing][1].split())
    assert not forbidden, (
        f'{module} imports {", ".join(sorted(forbidden))}, but {wing} ({WINGS[wing][0]}) may import '
        f'{WINGS[wing][1] or "nothing of ours"}: the line belongs in a wing that may import both, or what it needs in '
        f'one that {wing} may import.'
    )


def test_no_module_is_outside_a_wing():
    outside = [str(path) for path in MODULES if len(path.parts) == 1 and path.name != '__init__.py']
    wings = '\n'.join(f'  {wing}: {knows}' for wing, (knows, _) in WINGS.items())
    assert not outside, f'{", ".join(outside)} belong in the wing that knows their subject:\n{wings}'
    assert {path.parts[0] for path in MODULES if len(path.parts) > 1} == set(WINGS)


def test_the_table_has_no_cycle():
    order = list(TopologicalSorter({wing: allowed.split() for wing, (_, allowed) in WINGS.items()}).static_order())
    assert set(order) == set(WINGS)


@pytest.mark.parametrize('module', [str(path) for path in MODULES])
def test_a_module_is_short(module):
    lines = len((PACKAGE / module).read_text(encoding='utf-8').splitlines())
    longest = RUNNER[1] if module == RUNNER[0] else LONGEST
    assert lines <= longest, f'{module} has {lines} lines, more than {longest}: divide it by what its parts know.'


def test_the_runner_of_exported_models_is_one_file():
    imported = {
        name.partition('.')[0]
        for node in ast.walk(ast.parse((PACKAGE / RUNNER[0]).read_text(encoding='utf-8')))
        for name in (
            [node.module or '.'] if isinstance(node, ast.ImportFrom) else [a.name for a in getattr(node, 'names', [])]
        )
    }
    assert imported - sys.stdlib_module_names == {'numpy', 'PIL', 'onnxruntime'}


def test_utils_stay_small():
    lines = {path.name: len(path.read_text(encoding='utf-8').splitlines()) for path in (PACKAGE / 'utils').glob('*.py')}
    assert sum(lines.values()) <= UTILS, (
        f'utils has {lines}, more than {UTILS} in all: what one wing uses belongs there.'
    )
