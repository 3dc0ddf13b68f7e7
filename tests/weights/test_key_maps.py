"""Loading from every weights format: the maps, or the weights, equal those of the other library."""

import copy
import re

import pytest
import torch
from conftest import REPOSITORY
from families import CHANNELS, FAMILIES, IMAGES, LEFT_OVER, SMALL, WRITTEN, assert_equal, blank, written
from mmengine.config import Config
from mmengine.model import PretrainedInit
from mmengine.registry import MODELS, init_default_scope
from torch import Tensor

from convnext_backbone import ArgumentError, CheckpointMismatch, ConvNeXt, load_backbone
from convnext_backbone.weights.detect import find_backbones, to_canonical


@pytest.mark.parametrize('family', FAMILIES)
def test_maps_match_those_of_the_library(family, tmp_path):
    dialect, make, arguments = FAMILIES[family]
    with torch.no_grad():
        theirs, maps = make(**arguments)
    torch.save(theirs.state_dict(), tmp_path / 'x.pth')
    backbone = blank(family)
    report = load_backbone(backbone, tmp_path / 'x.pth')
    assert report.dialect == dialect and report.weights == 'plain'
    for own, other in zip(backbone.eval()(IMAGES), maps, strict=True):
        assert (own - other).norm() <= 1e-5 * other.norm()


@pytest.mark.parametrize('family', WRITTEN)
def test_weights_match_those_of_a_library_that_is_not_installed(family, tmp_path):
    source, state = written(family)
    torch.save(dict(model=state), tmp_path / 'x.pth')
    backbone = blank(family)
    report = load_backbone(backbone, tmp_path / 'x.pth')
    assert report.dialect == WRITTEN[family][2] and set(report.dropped) == set(LEFT_OVER)
    assert_equal(backbone, source)


def file_of(family: str) -> dict[str, Tensor]:
    """Contents of a file in a weights format."""
    if family in WRITTEN:
        return written(family)[1]
    _, make, arguments = FAMILIES[family]
    return make(**arguments)[0].state_dict()


@pytest.mark.parametrize(
    'wrap',
    [
        lambda state: {'state_dict': {f'module.backbone.{name}': value for name, value in state.items()}},
        lambda state: {f'_orig_mod.module.{name}': value for name, value in state.items()},
        lambda state: {f'module._orig_mod.{name}': value for name, value in state.items()},
        lambda state: {'epoch': 3, 'model': {'state_dict': {f'student.{name}': v for name, v in state.items()}}},
        lambda state: {f'visual.trunk.{name}': value for name, value in state.items()},
        lambda state: {
            'pytorch-lightning_version': '2',
            'state_dict': {f'net.encoder.{n}': v for n, v in state.items()},
        },
        lambda state: {'ema_state_dict': {f'module.{name}': value for name, value in state.items()}},
        lambda state: {re.sub(r'(stages\.\d\.\d)', r'\1._orig_mod', name): value for name, value in state.items()},
        lambda state: {
            re.sub(r'(stages\.\d)', r'\1._fsdp_wrapped_module._checkpoint_wrapped_module', n): v
            for n, v in state.items()
        },
    ],
)
def test_prefixes_of_wrappers_are_found(wrap, tmp_path):
    source, state = written('official')
    torch.save(wrap(state), tmp_path / 'x.pth')
    backbone = ConvNeXt(SMALL, out_norm=False)
    load_backbone(backbone, tmp_path / 'x.pth')
    assert_equal(backbone, source)


@pytest.mark.parametrize('family', [*FAMILIES, *WRITTEN])
def test_every_weights_format_loads_with_a_prefix(family, tmp_path):
    """Inside an image-text model."""
    state = file_of(family)
    torch.save(state, tmp_path / 'bare.pth')
    others = {
        'logit_scale': torch.tensor(1.0),
        'visual.head.proj.weight': torch.ones(4, 32),
        'text.ids': torch.arange(3),
    }
    wrapped = {f'visual.trunk.{name}': tensor for name, tensor in state.items()} | others
    torch.save({'state_dict': {f'module.{name}': tensor for name, tensor in wrapped.items()}}, tmp_path / 'x.pth')
    one, other = blank(family), blank(family)
    load_backbone(one, tmp_path / 'bare.pth')
    report = load_backbone(other, tmp_path / 'x.pth')
    assert_equal(one, other)
    assert {f'module.{name}' for name in others} <= set(report.dropped)


def two(plain: str, averaged: str, **others) -> tuple[ConvNeXt, ConvNeXt, dict]:
    """A file with two sets of weights at the given paths."""
    sources, checkpoint = [], dict(others)
    for path, factor in ((plain, 1), (averaged, 2)):
        source, state = written('official')
        source.load_state_dict({name: factor * tensor for name, tensor in source.state_dict().items()})
        key, _, prefix = path.partition('/')
        checkpoint.setdefault(key, {}).update({prefix + name: factor * tensor for name, tensor in state.items()})
        sources.append(source)
    return *sources, checkpoint


@pytest.mark.parametrize('ema', [False, True])
@pytest.mark.parametrize(
    ('plain', 'averaged'),
    [
        ('model/', 'model_ema/'),
        ('state_dict/', 'state_dict_ema/'),
        ('model/module.', 'ema/module.'),
        ('model/student.backbone.', 'model/teacher.backbone.'),
        # mmengine's EMAHook swaps the two when it saves: mmengine/hooks/ema_hook.py
        ('ema_state_dict/module.backbone.', 'state_dict/backbone.'),
    ],
)
def test_ema_chooses_between_plain_and_averaged_weights(plain, averaged, ema, tmp_path):
    one, other, checkpoint = two(plain, averaged)
    if 'ema_state_dict' in checkpoint:
        checkpoint['ema_state_dict']['steps'] = torch.tensor(7)
    torch.save(checkpoint, tmp_path / 'x.pth')
    backbone = ConvNeXt(SMALL, out_norm=False)
    report = load_backbone(backbone, tmp_path / 'x.pth', ema=ema)
    assert report.weights == ('averaged' if ema else 'plain')
    assert_equal(backbone, other if ema else one)


@pytest.mark.parametrize('kind', ['Pretrained', PretrainedInit])
@pytest.mark.parametrize('in_list', [False, True])
def test_init_cfg_loads_strictly_and_last(kind, in_list, tmp_path):
    _, other, checkpoint = two('model/', 'model_ema/')
    torch.save(checkpoint, tmp_path / 'x.pth')
    init_cfg = dict(type=kind, checkpoint=str(tmp_path / 'x.pth'), ema=True)
    constant = dict(type='Constant', layer='Conv2d', val=7.0)
    backbone = ConvNeXt(SMALL, out_norm=False, init_cfg=[init_cfg, constant] if in_list else init_cfg)
    backbone.init_weights()
    assert_equal(backbone, other)
    backbone = ConvNeXt('atto', init_cfg=[init_cfg] if in_list else init_cfg)
    with pytest.raises(CheckpointMismatch):
        backbone.init_weights()


def test_other_initializers_are_mmengines():
    backbone = ConvNeXt(SMALL, init_cfg=dict(type='Constant', layer='Conv2d', val=7.0))
    backbone.init_weights()
    assert (backbone.stages[0][0].dwconv.weight == 7).all() and backbone.stages[0][0].pwconv1.weight.std() > 0


@pytest.mark.parametrize('init_cfg', [dict(type='Pretrained'), dict(type='Pretrained', checkpoint='x.pth', emma=True)])
def test_an_invalid_key_of_init_cfg_raises(init_cfg):
    with pytest.raises(ArgumentError, match='takes checkpoint, and maybe prefix and ema'):
        ConvNeXt(SMALL, init_cfg=init_cfg).init_weights()


@pytest.mark.parametrize('scope', ['mmdet', 'mmseg'])
def test_a_detector_or_segmentor_does_not_reinitialize_the_backbone(scope, tmp_path):
    """Neither the init_cfg of the model nor a second call changes the loaded weights."""
    source, state = written('mmpretrain')
    torch.save(state, tmp_path / 'x.pth')
    init_cfg = dict(type='Pretrained', checkpoint=str(tmp_path / 'x.pth'))
    backbone = dict(type='ConvNeXt', arch=SMALL, out_norm=False, init_cfg=init_cfg)
    if scope == 'mmdet':
        model = Config.fromfile(REPOSITORY / 'configs/demo/cascade_convnext_atto_shapes.py').model
        model.neck.in_channels = list(CHANNELS)
    else:
        head = dict(type='FCNHead', in_channels=CHANNELS[3], in_index=3, channels=8, num_classes=2)
        model = dict(type='EncoderDecoder', decode_head=head, test_cfg=dict(mode='whole'))
    model.update(backbone=backbone, init_cfg=dict(type='Normal', layer=['Conv2d', 'Linear', 'LayerNorm'], std=3.0))
    init_default_scope(scope)
    model = MODELS.build(model)
    for _ in range(2):
        model.init_weights()
        assert_equal(model.backbone, source)


def test_a_small_backbone_beside_a_large_one_is_chosen_by_its_prefix(tmp_path):
    """As in a distillation, whose teacher has several times as many blocks."""
    source, state = written('official')
    more = {re.sub(r'^(stages\.\d)\.0', rf'\1.{j}', name): v for j in range(20) for name, v in state.items()}
    student, large = ({prefix + n: v for n, v in own.items()} for prefix, own in (('student.', state), ('net.', more)))
    torch.save({**student, **large}, tmp_path / 'x.pth')
    backbone = ConvNeXt(SMALL, out_norm=False)
    load_backbone(backbone, tmp_path / 'x.pth', prefix='student')
    assert_equal(backbone, source)


def test_an_ambiguous_or_impossible_choice_raises(tmp_path):
    _, _, checkpoint = two('model/first.', 'model/second.')
    torch.save(checkpoint, tmp_path / 'x.pth')
    backbone = ConvNeXt(SMALL, out_norm=False)
    with pytest.raises(CheckpointMismatch, match=r'several backbones.*model\.first\., model\.second\.'):
        load_backbone(backbone, tmp_path / 'x.pth')
    load_backbone(backbone, tmp_path / 'x.pth', prefix='second.')
    with pytest.raises(CheckpointMismatch, match='no averaged weights'):
        load_backbone(backbone, tmp_path / 'x.pth', ema=True)
    with pytest.raises(CheckpointMismatch, match=r"under prefix='third'.*known are official"):
        load_backbone(backbone, tmp_path / 'x.pth', prefix='third')


@pytest.mark.parametrize('in_channels', [1, 2, 4, 6])
def test_the_stem_adapts_as_in_timm(in_channels, tmp_path):
    from timm.models import adapt_input_conv

    source, state = written('official')
    torch.save(state, tmp_path / 'x.pth')
    backbone = ConvNeXt(SMALL, in_channels=in_channels, out_norm=False)
    report = load_backbone(backbone, tmp_path / 'x.pth')
    assert report.adapted == [f'downsample_layers.0.0.weight from 3 to {in_channels} input channels']
    expected = adapt_input_conv(in_channels, source.downsample_layers[0][0].weight.detach())
    assert torch.equal(backbone.downsample_layers[0][0].weight, expected)


@pytest.mark.parametrize('change', ['removed', 'renamed', 'reshaped'])
@pytest.mark.parametrize('family', [*FAMILIES, *WRITTEN])
def test_every_single_tensor_that_does_not_fit_is_refused(family, change, monkeypatch):
    """One after the other; the model is unchanged."""
    state = file_of(family)
    backbone = blank(family)
    before = copy.deepcopy(backbone)
    current = state
    monkeypatch.setattr('convnext_backbone.weights.load.read_checkpoint', lambda source: current)
    ((prefix, key_map),) = find_backbones(state).items()
    own = before.state_dict().keys()
    needed = [name for name in state if to_canonical({name: state[name]}, prefix, key_map, 'x')[0].keys() & own]
    assert len(needed) == len(own)
    for name in needed:
        current = dict(state)
        tensor = current.pop(name)
        if change == 'renamed':
            current[f'{name}_'] = tensor
        elif change == 'reshaped':
            current[name] = torch.cat([tensor, tensor])
        with pytest.raises(CheckpointMismatch):
            load_backbone(backbone, 'x.pth')
    assert_equal(backbone, before)


def test_the_config_line_that_fits_is_named(tmp_path):
    torch.save(ConvNeXt('femto', use_grn=True).state_dict(), tmp_path / 'x.pth')
    with pytest.raises(CheckpointMismatch) as raised:
        load_backbone(ConvNeXt('atto'), tmp_path / 'x.pth')
    assert "backbone=dict(type='ConvNeXt', arch='femto', use_grn=True)" in str(raised.value)
    assert len(str(raised.value).splitlines()) < 24
