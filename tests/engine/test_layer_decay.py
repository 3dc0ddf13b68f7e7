"""Layer decay: tables against golden files for T to XL in V1's types, and the rules of the official code. Exact."""

from pathlib import Path

import pytest
import torch
from families import optimizer_groups
from torch import nn

from convnext_backbone import ConvNeXt, lr_scale
from convnext_backbone.engine.layer_decay import layer_id

GOLDEN = Path(__file__).parents[1] / 'golden'
# arch, decay type, rate: the published detection and segmentation settings.
TABLES = [
    (arch, decay_type, rate)
    for decay_type, rates in (
        ('layer_wise', dict(tiny=0.7, small=0.7, base=0.8, large=0.7, xlarge=0.7)),
        ('stage_wise', dict.fromkeys(('tiny', 'small', 'base', 'large', 'xlarge'), 0.9)),
    )
    for arch, rate in rates.items()
]


class Detector(nn.Module):
    """A stand-in for a detector: a backbone and a head."""

    def __init__(self, arch='tiny', **kwargs):
        super().__init__()
        with torch.device('meta'):
            self.backbone = ConvNeXt(arch, **kwargs)
            self.head = nn.Linear(4, 4)


def module_of(name: str) -> str:
    """The row of a golden table for a parameter: a block, a downsampling layer, or the rest."""
    parts = name.removeprefix('backbone.').split('.')
    length = {'stages': 3, 'downsample_layers': 2}.get(parts[0])
    return '.'.join(parts[:length]) if length else 'norms and heads'


@pytest.mark.parametrize(('arch', 'decay_type', 'rate'), TABLES)
def test_golden_table(arch, decay_type, rate):
    model = Detector(arch)
    groups = optimizer_groups(model, base_lr=1.0, decay_rate=rate, decay_type=decay_type)
    scales = {name: group['lr'] for group in groups for name in group['param_names']}
    lines = dict.fromkeys(f'{module_of(name)} {scales[name]:.6f}' for name, _ in model.named_parameters())
    golden = (GOLDEN / f'layer_decay_{arch}_{decay_type}_{rate}.txt').read_text().splitlines()
    assert sorted(lines) == sorted(golden)


def official_layer(name: str, layers: int) -> int:
    """The official code's layer-wise rule (its mmcv_custom), which takes the number of layers from the config."""
    kind, *numbers = name.split('.')
    if kind == 'downsample_layers':
        return {'0': 0, '1': 2, '2': 3, '3': layers}[numbers[0]]
    if kind == 'stages':
        return {'0': 1, '1': 2, '2': 3 + int(numbers[1]) // 3, '3': layers}[numbers[0]]
    return layers + 1


@pytest.mark.parametrize(('arch', 'layers'), [('tiny', 6), ('small', 12), ('base', 12), ('large', 12), ('xlarge', 12)])
def test_layer_ids_are_the_official_ones(arch, layers):
    with torch.device('meta'):
        backbone = ConvNeXt(arch)
    for name, _ in backbone.named_parameters():
        assert layer_id(name, backbone.depths) == official_layer(name, layers)


def number_blocks(depths: tuple[int, ...]) -> dict[str, int]:
    """ConvNeXt V2's type 'single', by hand: blocks are counted from 1, each with the layer that leads to its stage."""
    numbers, count = {}, 0
    for stage, depth in enumerate(depths):
        numbers[f'downsample_layers.{stage}.'] = count + 1
        for block in range(depth):
            count += 1
            numbers[f'stages.{stage}.{block}.'] = count
    return numbers


@pytest.mark.parametrize('arch', ['atto', 'nano', 'tiny', 'base', 'huge'])
def test_each_block_is_a_layer_of_its_own_in_v2s_single(arch):
    with torch.device('meta'):
        backbone = ConvNeXt(arch, use_grn=True)
    numbers, blocks = number_blocks(backbone.depths), sum(backbone.depths)
    seen = set()
    for name, _ in backbone.named_parameters():
        (expected,) = [n for start, n in numbers.items() if name.startswith(start)] or [blocks + 1]
        assert layer_id(name, backbone.depths, 'single') == expected, name
        assert lr_scale(name, backbone.depths, 0.9, 'single') == pytest.approx(0.9 ** (blocks + 1 - expected))
        seen.add(expected)
    assert seen == {*range(1, blocks + 2)} and layer_id(None, backbone.depths, 'single') == blocks + 1


@pytest.mark.parametrize('arch', ['base', 'large', 'huge'])
def test_the_groups_of_v2_are_the_layers_of_v1(arch):
    with torch.device('meta'):
        backbone = ConvNeXt(arch, use_grn=True)
    for name, _ in backbone.named_parameters():
        assert layer_id(name, backbone.depths, 'group') == official_layer(name, 12)


@pytest.mark.parametrize('decay_type', ['layer_wise', 'stage_wise', 'single', 'group'])
@pytest.mark.parametrize('depth', [1, 2, 3, 6, 8, 9, 27, 36, 100])
def test_scale_is_at_most_one_and_never_falls_towards_the_head(depth, decay_type):
    depths = (2, 2, depth, 2)
    blocks = [f'stages.{i}.{j}.gamma' for i in range(4) for j in range(depths[i])]
    scales = [lr_scale(name, depths, 0.7, decay_type) for name in blocks]
    assert scales == sorted(scales) and max(scales) < 1
    assert lr_scale('norm3.weight', depths, 0.7, decay_type) == lr_scale(None, depths, 0.7, decay_type) == 1


class Student(nn.Module):
    def __init__(self, detector):
        super().__init__()
        self.student = nn.ModuleDict(dict(detector=detector))


def test_the_backbone_is_found_wherever_it_sits():
    plain, deep = Detector(), Student(Detector())
    scales = {n: g['lr_scale'] for g in optimizer_groups(plain, decay_rate=0.7) for n in g['param_names']}
    deep_scales = {n: g['lr_scale'] for g in optimizer_groups(deep, decay_rate=0.7) for n in g['param_names']}
    assert deep_scales == {f'student.detector.{name}': scale for name, scale in scales.items()}
    assert scales['backbone.stages.0.0.gamma'] == pytest.approx(0.7**6)
    assert scales['head.weight'] == scales['backbone.norm0.weight'] == 1


def test_each_of_two_backbones_counts_its_own_depth():
    model = nn.ModuleDict(dict(small=Detector('small'), tiny=Detector('tiny')))
    scales = {n: g['lr_scale'] for g in optimizer_groups(model, decay_rate=0.7) for n in g['param_names']}
    assert scales['tiny.backbone.downsample_layers.0.0.weight'] == pytest.approx(0.7**7)
    assert scales['small.backbone.downsample_layers.0.0.weight'] == pytest.approx(0.7**13)


def test_every_trainable_parameter_is_in_one_group_and_frozen_ones_in_none():
    model = Detector('tiny', frozen_stages=2)
    names = [name for group in optimizer_groups(model, decay_rate=0.7) for name in group['param_names']]
    assert sorted(names) == sorted(name for name, p in model.named_parameters() if p.requires_grad)


def test_no_weight_decay_on_vectors_biases_and_grn():
    model = Detector('atto', use_grn=True)
    for group in optimizer_groups(model, decay_rate=0.9):
        for name, param in zip(group['param_names'], group['params'], strict=True):
            exempt = param.ndim == 1 or name.endswith('bias') or '.grn.' in name
            assert group['weight_decay'] == (0 if exempt else 0.05), name


def test_custom_keys_multiply():
    groups = optimizer_groups(Detector(), decay_rate=0.7, custom_keys={'head': dict(lr_mult=0.1, decay_mult=2.0)})
    head = next(g for g in groups if 'head.weight' in g['param_names'])
    assert (head['lr'], head['weight_decay']) == (pytest.approx(1e-5), pytest.approx(0.1))


def test_the_longest_custom_key_holds_and_of_two_the_first_by_the_alphabet_as_in_mmengine():
    keys = dict(head=dict(lr_mult=0.3), bias=dict(lr_mult=0.1), weight=dict(lr_mult=0.5))
    groups = optimizer_groups(Detector(), decay_rate=0.7, custom_keys=keys)
    rates = {name: group['lr'] for group in groups for name in group['param_names']}
    assert rates['head.weight'] == pytest.approx(0.5e-4) and rates['head.bias'] == pytest.approx(0.1e-4)


def test_the_table_is_logged_once(capfd, tmp_path):
    from mmengine.logging import MMLogger

    MMLogger.get_instance('layer_decay', log_file=str(tmp_path / 'log'))
    optimizer_groups(Detector(), decay_rate=0.7)
    text = (tmp_path / 'log').read_text()
    assert text.count('Layer decay: layer_wise, rate 0.7') == 1
    assert 'layer_0_decay' in text and '8.235e-06' in text  # 1e-4 * 0.7 ** 7


@pytest.mark.parametrize(
    ('paramwise', 'named'),
    [
        (dict(decay_rate=0.7, num_layers=6), ['num_layers', 'remove']),
        (dict(decay_rate=1.2), ['decay_rate', '1.2']),
        (dict(decay_type='layer_wise'), ['decay_rate']),
        (dict(decay_rate=0.7, decay_type='layerwise'), ['layerwise', 'layer_wise', 'stage_wise', 'single', 'group']),
        (dict(decay_rate=0.7, bias_lr_mult=2), ['bias_lr_mult']),
    ],
)
def test_wrong_settings_are_named(paramwise, named):
    with pytest.raises(ValueError) as raised:
        optimizer_groups(Detector(), **paramwise)
    assert all(word in str(raised.value) for word in named)


def test_a_model_without_convnext_is_refused():
    with pytest.raises(ValueError, match='no ConvNeXt in Linear'):
        optimizer_groups(nn.Linear(2, 2), decay_rate=0.7)
