"""What the README says is so. Exact."""

import ast
import re

import pytest
import torch
from conftest import REPOSITORY
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope

from convnext_backbone import ConvNeXt

README = (REPOSITORY / 'README.md').read_text()
CONFIG, WEIGHTS, USE = re.findall(r'```python\n(.*?)```', README, re.S)
TREE = README[README.index('\nconvnext_backbone/\n') : README.index('## Licence')]


def test_the_lines_for_a_config_of_ones_own_make_a_detector(tmp_path):
    config = tmp_path / 'own.py'
    config.write_text(f"_base_ = ['mmdet::mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py']\n{CONFIG}")
    cfg = Config.fromfile(config)
    init_default_scope('mmdet')
    detector = MODELS.build(cfg.model)
    assert type(detector.backbone) is ConvNeXt
    assert tuple(detector.neck.in_channels) == detector.backbone.out_channels


def test_the_lines_of_use_give_what_their_comments_say():
    names, lines, checked = {}, USE.splitlines(), 0
    for statement in ast.parse(USE).body:
        code = ast.get_source_segment(USE, statement)
        if not isinstance(statement, ast.Expr):
            exec(code, names)
            continue
        said = [line.split('# ')[1] for line in lines[statement.lineno - 1 : statement.lineno + 1] if '# ' in line][0]
        assert eval(code, names) == ast.literal_eval(said)
        checked += 1
    assert checked == 2


def test_each_source_of_weights_has_its_line():
    """The names in an address are those of the arguments beside it."""
    rows = re.findall(r"^\| .+? \| `(arch='(\w+)'.*?)` \| `((?:https|hf)://\S+)`", README, re.M)
    assert len(rows) == 10
    for arguments, arch, address in rows:
        backbone = eval(f'dict({arguments})')
        assert re.search(rf'convnext(v2)?[_-]{arch}[_.-]', address) and ('v2' in address) == ('use_grn' in backbone)
        with torch.device('meta'):
            assert ConvNeXt(**backbone).state_dict()
    assert rows[0][2] in WEIGHTS and re.search(r"arch='(\w+)'", WEIGHTS)[1] == rows[0][1]


def test_links_lead_somewhere():
    targets = [target for target in re.findall(r'\]\(([^)]+)\)', README) if not target.startswith('http')]
    headings = {'#' + heading.lower().replace(' ', '-') for heading in re.findall(r'^##+ (.+)$', README, re.M)}
    assert targets and [t for t in targets if t not in headings and not (REPOSITORY / t).exists()] == []


@pytest.mark.parametrize('folder', ['convnext_backbone', 'tools'])
def test_the_file_tree_names_every_module(folder):
    part = re.search(rf'\n{folder}/\n((?:  .*\n)+)', TREE)[1]
    modules = {path.name for path in (REPOSITORY / folder).glob('*.py')} - {'__init__.py'}
    assert set(re.findall(r'[\w]+\.py', part)) == modules


@pytest.mark.parametrize(('stack', 'column'), [('openmmlab', 0), ('onedl', 1)])
def test_the_table_of_versions_is_the_constraints(stack, column):
    constraints = set((REPOSITORY / f'constraints/{stack}.txt').read_text().replace('===', '==').splitlines())
    rows = re.findall(
        r'^\| (?:engine|without operators|detection|segmentation) \| (\S+ \S+) \| (\S+ \S+) \|$', README, re.M
    )
    assert len(rows) == 4 and {row[column].replace(' ', '==') for row in rows} <= constraints
    (versions,) = re.findall(r'^\| torch / torchvision / timm \|(.*)\|(.*)\|$', README, re.M)
    for name, version in zip(('torch', 'torchvision', 'timm'), versions[column].split('/'), strict=True):
        assert f'{name}=={version.strip()}' in constraints
