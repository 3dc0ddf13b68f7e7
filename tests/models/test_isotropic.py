"""The isotropic ConvNeXt: parity with timm's blocks behind a stem, sizes of the paper, checkpoints."""

import copy
from collections import OrderedDict

import pytest
import torch
from families import SMALL, assert_equal, optimizer_groups, randomized
from mmengine.registry import MODELS, init_default_scope
from test_parity import IN_TIMM, TOLERANCE, random_state, relative_error
from timm.models.convnext import ConvNeXtBlock as TimmBlock
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from convnext_backbone import (
    ArgumentError,
    CheckpointMismatch,
    ConvNeXt,
    ConvNeXtIsotropic,
    load_backbone,
    lr_scale,
    read_checkpoint,
)
from convnext_backbone.models.archs import ISOTROPIC
from convnext_backbone.weights.convert import TARGETS, convert_checkpoint, empty_state, write_checkpoint
from convnext_backbone.weights.infer_arch import Architecture

# Blocks, channels, millions of parameters of the classifier of 1000 classes, and its billions of multiply-adds at 224.
PAPER = dict(small=(18, 384, 22, 4.3), base=(18, 768, 87, 16.9), large=(36, 1024, 306, 59.7))
TWO = dict(depths=(2,), channels=(8,))  # blocks
BUILDS = pytest.mark.parametrize(
    'arguments', [{}, dict(use_grn=True), dict(layer_scale_init_value=1.0)], ids=['plain', 'V2', 'layer scale']
)


def timm_model(arch: str, **block: object) -> nn.Sequential:
    """An independent implementation: timm's blocks behind the official code's stem."""
    depth, width, *_ = PAPER[arch]
    blocks = nn.Sequential(*(TimmBlock(width, **block) for _ in range(depth)))
    return nn.Sequential(OrderedDict(stem=nn.Conv2d(3, width, kernel_size=16, stride=16), blocks=blocks))


def timm_name(name: str) -> str:
    for ours, theirs in IN_TIMM:
        name = name.replace(ours, theirs)
    return name


def gradients(model: nn.Module, loss: Tensor, names: list[str]) -> list[Tensor]:
    parameters = dict(model.named_parameters())
    return torch.autograd.grad(loss, [parameters[name] for name in names])


@pytest.mark.parametrize('arch', ['small', *(pytest.param(arch, marks=pytest.mark.slow) for arch in ('base', 'large'))])
def test_outputs_and_gradients_equal_timm_with_and_without_layer_scale(arch):
    """Gradients of all parameters without layer scale; with it, of layer scale and of the stem."""
    with torch.device('meta'):
        blank = ConvNeXtIsotropic(arch, layer_scale_init_value=1.0, out_norm=False)
    state = random_state(blank)
    images = torch.randn(2, 3, 48, 32)
    for layer_scale in (0.0, 1.0):
        with torch.device('meta'):
            ours = ConvNeXtIsotropic(arch, layer_scale_init_value=layer_scale, out_norm=False)
            theirs = timm_model(arch, ls_init_value=layer_scale or None)
        own_state = {name: state[name] for name in ours.state_dict()}
        ours.load_state_dict(own_state, assign=True)
        theirs.load_state_dict({timm_name(name): tensor for name, tensor in own_state.items()}, assign=True)
        (out,), expected = ours(images), theirs(images)
        assert out.shape == (2, *ours.channels, 3, 2) and relative_error(out, expected) < TOLERANCE
        names = [name for name in own_state if not layer_scale or name.startswith('stem') or name.endswith('gamma')]
        weight = torch.randn(out.shape)
        found = gradients(ours, (out * weight).sum(), names)
        wanted = gradients(theirs, (expected * weight).sum(), [timm_name(name) for name in names])
        errors = dict(zip(names, map(relative_error, found, wanted), strict=True))
        assert max(errors.values()) < TOLERANCE, max(errors, key=errors.get)


@pytest.mark.parametrize('arch', PAPER)
def test_sizes_match_the_paper(arch):
    """Of the classifier: backbone, norm after pooling and linear layer."""
    depth, width, parameters, multiply_adds = PAPER[arch]
    with torch.device('meta'):
        backbone = ConvNeXtIsotropic(arch, out_norm=False)
        classifier = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, 1000))
        with FlopCounterMode(display=False) as counter:
            (out,) = backbone(torch.empty(1, 3, 224, 224))
            classifier(out.mean((2, 3)))
    count = sum(p.numel() for p in [*backbone.parameters(), *classifier.parameters()])
    assert count / 1e6 == pytest.approx(parameters, abs=0.5)
    assert counter.get_total_flops() / 2e9 == pytest.approx(multiply_adds, abs=0.1)
    assert (backbone.depths, backbone.channels) == ISOTROPIC[arch] == ((depth,), (width,))
    assert backbone.out_channels == (width,) and backbone.strides == (16,) and out.shape == (1, width, 14, 14)


@pytest.mark.parametrize(('short', 'name'), [('s', 'small'), ('b', 'base'), ('L', 'large')])
def test_short_names(short, name):
    with torch.device('meta'):
        assert ConvNeXtIsotropic(short).depths == ISOTROPIC[name][0]


@pytest.mark.parametrize('size', [(16, 16), (17, 31), (40, 65)])
def test_any_image_size_from_16_pixels(size):
    (out,) = ConvNeXtIsotropic(TWO)(torch.randn(1, 3, *size))
    assert out.shape == (1, 8, size[0] // 16, size[1] // 16)


def test_the_output_norm_is_a_layer_norm_over_the_channels():
    torch.manual_seed(0)
    backbone = randomized(ConvNeXtIsotropic(TWO))
    images = torch.randn(2, 3, 32, 48)
    (normed,) = backbone(images)
    backbone.out_norm = False
    (raw,) = backbone(images)
    expected = nn.functional.layer_norm(
        raw.permute(0, 2, 3, 1), (8,), backbone.norm0.weight, backbone.norm0.bias, eps=1e-6
    )
    torch.testing.assert_close(normed, expected.permute(0, 3, 1, 2))


def test_it_is_registered_for_every_scope():
    init_default_scope('mmdet')
    assert type(MODELS.build(dict(type='ConvNeXtIsotropic', arch=TWO))) is ConvNeXtIsotropic


def test_drop_path_rates_rise_linearly_to_the_last_block():
    with torch.device('meta'):
        rates = [block.drop_path.rate for block in ConvNeXtIsotropic('large', drop_path_rate=0.5).blocks]
    assert rates == pytest.approx([0.5 * i / 35 for i in range(36)])


def test_initialization_is_the_official_one():
    torch.manual_seed(0)
    backbone = ConvNeXtIsotropic(dict(depths=[1], channels=[96]))
    assert backbone.blocks[0].gamma is None
    assert backbone.stem.weight.std().item() == pytest.approx(0.02, rel=0.02)
    assert backbone.blocks[0].pwconv1.weight.std().item() == pytest.approx(0.02, rel=0.02)
    assert not backbone.stem.bias.any() and not backbone.blocks[0].pwconv2.bias.any()


@pytest.mark.parametrize('frozen', [0, 1])
def test_frozen_stages_freeze_stem_and_blocks(frozen):
    backbone = ConvNeXtIsotropic(TWO, frozen_stages=frozen, drop_path_rate=0.5)
    assert backbone.train() is backbone and backbone.eval() is backbone
    backbone.train()
    for part in (backbone.stem, backbone.blocks):
        assert all(p.requires_grad == (not frozen) for p in part.parameters())
        assert all(m.training == (not frozen) for m in part.modules())
    backbone(torch.randn(1, 3, 32, 32))[0].sum().backward()
    assert backbone.norm0.weight.grad is not None and all(
        (p.grad is not None) == p.requires_grad for p in backbone.parameters()
    )


@BUILDS
def test_activation_checkpointing_gives_the_same_gradients_and_saves_fewer_activations(arguments):
    torch.manual_seed(0)
    plain = ConvNeXtIsotropic(dict(depths=(4,), channels=(64,)), drop_path_rate=0.5, **arguments)
    cheap = copy.deepcopy(plain)
    cheap.with_cp = True
    images = torch.randn(4, 3, 64, 64)
    found, kept = [], []
    for backbone in (plain, cheap):
        sizes = []
        torch.manual_seed(1)  # the same samples are dropped
        with torch.autograd.graph.saved_tensors_hooks(lambda t, s=sizes: s.append(t.numel()) or t, lambda t: t):
            (out,) = backbone(images)
        out.square().sum().backward()
        kept.append(sum(sizes))
        found.append([p.grad for p in backbone.parameters()])
    torch.testing.assert_close(*found, rtol=0, atol=0)
    assert kept[1] < 0.5 * kept[0]


def test_torch_compile():
    backbone = ConvNeXtIsotropic(TWO).eval()
    images = torch.randn(1, 3, 32, 32)
    compiled = torch.compile(backbone, fullgraph=True, backend='aot_eager')
    torch.testing.assert_close(compiled(images), backbone(images))


@pytest.mark.parametrize(
    ('arguments', 'sentence'),
    [
        (
            dict(arch='tiny'),
            "arch='tiny' is unknown: Known are small, base, large and the short forms s, b, l, or "
            'dict(depths=..., channels=...).',
        ),
        (dict(arch='bse'), "did you mean 'base'?"),
        (
            dict(arch=dict(depths=18, channels=384)),
            "arch['depths']=18 is wrong: it takes a list of one positive integer.",
        ),
        (dict(arch=dict(depths=[2], channels=[8, 8])), "arch['channels']=[8, 8] is wrong"),
        (dict(arch=dict(depths=[2], channels=[0])), "arch['channels']=[0] is wrong"),
        (dict(frozen_stages=2), 'frozen_stages=2 is out of range: it takes an integer from 0 to 1.'),
        (dict(in_channels=0), 'in_channels=0 is out of range: it takes an integer from 1 to 65536.'),
        (dict(drop_path_rate=1.0), 'drop_path_rate=1.0 is out of range: it takes a number in [0, 1).'),
    ],
)
def test_invalid_arguments_raise(arguments, sentence):
    with pytest.raises(ArgumentError) as raised:
        ConvNeXtIsotropic(**{'arch': TWO, **arguments})
    assert sentence in str(raised.value)


@pytest.mark.parametrize(
    ('shape', 'sentence'),
    [
        ((1, 4, 64, 64), 'The input has the shape (1, 4, 64, 64), but this backbone takes (N, 3, H, W)'),
        ((3, 64, 64), 'The input has the shape (3, 64, 64)'),
        ((1, 3, 15, 64), 'The input is 15x64 pixels, but both sides must have at least 16'),
    ],
)
def test_invalid_inputs_raise(shape, sentence):
    with pytest.raises(ArgumentError) as raised:
        ConvNeXtIsotropic(TWO)(torch.zeros(shape))
    assert sentence in str(raised.value)


def official(arguments: dict) -> tuple[ConvNeXtIsotropic, dict[str, Tensor]]:
    """A backbone, and the contents of a file of facebookresearch/ConvNeXt: models/convnext_isotropic.py."""
    backbone = randomized(ConvNeXtIsotropic(TWO, out_norm=False, **arguments))
    classifier = {
        'norm.weight': torch.randn(8), 'norm.bias': torch.randn(8),
        'head.weight': torch.randn(5, 8), 'head.bias': torch.randn(5),
    }  # fmt: skip
    # facebookresearch/ConvNeXt-V2: the vectors of GRN are (1, 1, 1, 4C).
    stored = {n: t[None, None, None] if '.grn.' in n else t.clone() for n, t in backbone.state_dict().items()}
    return backbone, stored | classifier


def assert_same(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    assert one.keys() == other.keys()
    assert [name for name in one if not torch.equal(one[name], other[name])] == []


@BUILDS
@pytest.mark.parametrize(
    'wrap',
    [
        lambda state: {'model': state},
        lambda state: {'state_dict': {f'module.backbone.{name}': tensor for name, tensor in state.items()}},
    ],
    ids=['official', 'wrapped'],
)
def test_an_official_classifier_loads(wrap, arguments, tmp_path):
    source, state = official(arguments)
    torch.save(wrap(state), tmp_path / 'x.pth')
    init_cfg = dict(type='Pretrained', checkpoint=str(tmp_path / 'x.pth'))
    backbone = ConvNeXtIsotropic(TWO, out_norm=False, init_cfg=init_cfg, **arguments)
    backbone.init_weights()
    assert_equal(backbone, source)
    report = load_backbone(ConvNeXtIsotropic(TWO, **arguments), tmp_path / 'x.pth')
    assert report.new == ['norm0.weight', 'norm0.bias'] and not report.missing
    assert {'norm.weight', 'head.bias'} <= {name.removeprefix('module.backbone.') for name in report.dropped}
    assert (report.dialect, report.classes, report.in_channels) == ('official', 5, 3)
    assert report.arch == f'isotropic, depths [2], channels [8], {"V2" if "use_grn" in arguments else "V1"}'


@BUILDS
@pytest.mark.parametrize('suffix', ['.pth', '.safetensors'])
def test_conversion_round_trip_is_bit_exact(arguments, suffix, tmp_path):
    source, state = official(arguments)
    torch.save({'model': state}, tmp_path / 'official.pth')
    tensors, report = convert_checkpoint(tmp_path / 'official.pth', 'canonical')
    assert_same({name: tensors[name] for name in source.state_dict()}, source.state_dict())
    assert tensors.keys() == state.keys()
    assert eval(report.config.removeprefix('backbone=')) == dict(
        type='ConvNeXtIsotropic',
        arch=dict(depths=[2], channels=[8]),
        **(dict(layer_scale_init_value=1e-6) if 'layer_scale_init_value' in arguments else arguments),
    )
    write_checkpoint(tensors, tmp_path / f'canonical{suffix}', 'canonical')
    back, _ = convert_checkpoint(tmp_path / f'canonical{suffix}', 'official')
    assert_same(back, state)


@pytest.mark.parametrize('to', ['canonical', 'official'])
def test_the_backbone_of_a_detector_keeps_its_norm(to, tmp_path):
    own = randomized(ConvNeXtIsotropic(TWO)).state_dict()
    torch.save({'state_dict': {f'backbone.{name}': tensor for name, tensor in own.items()}}, tmp_path / 'x.pth')
    tensors, report = convert_checkpoint(tmp_path / 'x.pth', to)
    assert_same(tensors, own)
    assert not report.dropped


@pytest.mark.parametrize('to', sorted(TARGETS.keys() - {'canonical', 'official'}))
def test_libraries_without_such_a_model_are_refused(to, tmp_path):
    torch.save(official({})[1], tmp_path / 'x.pth')
    with pytest.raises(CheckpointMismatch) as raised:
        convert_checkpoint(tmp_path / 'x.pth', to)
    assert str(raised.value) == (
        f'The checkpoint {tmp_path / "x.pth"} (isotropic, depths [2], channels [8], V1) has one stage, as isotropic '
        f'models have, and {to} has no such ConvNeXt: choose another --to.'
    )


@pytest.mark.parametrize('name', ['stem.weight', 'stem.bias', 'blocks.1.pwconv1.weight', 'blocks.0.norm.bias'])
def test_an_incomplete_file_is_refused(name, tmp_path):
    backbone, state = official({})
    before = copy.deepcopy(backbone)
    for change in ('removed', 'reshaped'):
        current = dict(state)
        current[name] = torch.cat([current[name]] * 2)
        if change == 'removed':
            del current[name]
        torch.save(current, tmp_path / 'x.pth')
        with pytest.raises(CheckpointMismatch):
            convert_checkpoint(tmp_path / 'x.pth')
        with pytest.raises(CheckpointMismatch, match=f'{"missing" if change == "removed" else "mismatched"}: {name}'):
            load_backbone(backbone, tmp_path / 'x.pth')
    assert_equal(backbone, before)


@pytest.mark.parametrize('isotropic', [True, False], ids=['isotropic into stages', 'stages into isotropic'])
def test_the_other_kind_is_refused_with_the_config_line_that_fits(isotropic, tmp_path):
    stages, one = ConvNeXt(SMALL), ConvNeXtIsotropic(TWO)
    source, target = (one, stages) if isotropic else (stages, one)
    before = copy.deepcopy(target)
    torch.save(source.state_dict(), tmp_path / 'x.pth')
    with pytest.raises(CheckpointMismatch) as raised:
        load_backbone(target, tmp_path / 'x.pth')
    arguments = "Isotropic', arch={'depths': [2], 'channels': [8]})" if isotropic else "', arch={'depths': [1, 1, 2, 1]"
    assert f"The config line that fits: backbone=dict(type='ConvNeXt{arguments}" in str(raised.value)
    assert ('which is isotropic, depths [2]' in str(raised.value)) != isotropic
    assert_equal(target, before)


@pytest.mark.parametrize('layer_scale', [0.0, 1e-6])
@pytest.mark.parametrize('arch', PAPER)
def test_architectures_of_the_paper_are_inferred(arch, layer_scale):
    with torch.device('meta'):
        own = ConvNeXtIsotropic(arch, layer_scale_init_value=layer_scale, in_channels=4).state_dict()
    found = Architecture.of(own)
    assert str(found) == f'isotropic {arch}, V1'
    scale = f', layer_scale_init_value={layer_scale}' if layer_scale else ''
    assert found.config_line() == f"backbone=dict(type='ConvNeXtIsotropic', arch='{arch}', in_channels=4{scale})"
    assert {name: tensor.shape for name, tensor in empty_state(found).items()} == {
        name: tensor.shape for name, tensor in own.items() if not name.startswith('norm0.')
    }


def detector(**arguments: object) -> nn.ModuleDict:
    return nn.ModuleDict(dict(backbone=ConvNeXtIsotropic(TWO, **arguments), head=nn.Linear(8, 4)))


@pytest.mark.parametrize('decay_type', ['layer_wise', 'stage_wise'])
def test_the_learning_rate_is_the_same_everywhere_and_vectors_have_no_weight_decay(decay_type):
    model = detector(use_grn=True)
    groups = optimizer_groups(model, decay_rate=1.0, decay_type=decay_type)
    assert sorted(n for g in groups for n in g['param_names']) == sorted(n for n, _ in model.named_parameters())
    assert {group['lr'] for group in groups} == {1e-4}
    for group in groups:
        assert all(group['weight_decay'] == (0 if p.ndim == 1 else 0.05) for p in group['params'])


def test_layer_decay_is_refused():
    sentence = r'^decay_rate=0.7 is not defined for an isotropic ConvNeXt: set it to 1\.$'
    with pytest.raises(ArgumentError, match=sentence):
        optimizer_groups(detector(layer_scale_init_value=1.0), decay_rate=0.7)
    with pytest.raises(ArgumentError, match=sentence):
        lr_scale('stem.weight', (18,), 0.7)


def test_a_saved_backbone_loads_into_itself(tmp_path):
    source = randomized(ConvNeXtIsotropic(TWO))
    torch.save(source.state_dict(), tmp_path / 'x.pth')
    backbone = ConvNeXtIsotropic(TWO)
    assert not load_backbone(backbone, tmp_path / 'x.pth').new
    assert_equal(backbone, source)
    assert read_checkpoint(tmp_path / 'x.pth').keys() == backbone.state_dict().keys()


@pytest.mark.parametrize('in_channels', [1, 2, 4])
def test_the_stem_adapts_as_in_timm(in_channels, tmp_path):
    from timm.models import adapt_input_conv

    source, state = official({})
    torch.save(state, tmp_path / 'x.pth')
    backbone = ConvNeXtIsotropic(TWO, in_channels=in_channels, out_norm=False)
    report = load_backbone(backbone, tmp_path / 'x.pth')
    assert report.adapted == [f'stem.weight from 3 to {in_channels} input channels']
    assert torch.equal(backbone.stem.weight, adapt_input_conv(in_channels, source.stem.weight.detach()))


def test_tensors_of_stages_are_unexpected(tmp_path):
    torch.save(official({})[1] | {'downsample_layers.1.0.weight': torch.ones(8)}, tmp_path / 'x.pth')
    with pytest.raises(CheckpointMismatch, match=r'unexpected: downsample_layers.1.0.weight'):
        load_backbone(ConvNeXtIsotropic(TWO), tmp_path / 'x.pth')
