"""Interface of the backbone, for every architecture where that is fast, for one V1 and one V2 otherwise."""

import copy
import io
import pickle

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from convnext_backbone import ARCHS, ConvNeXt
from convnext_backbone.models.grn import GRN
from convnext_backbone.models.layers import DropPath

# Millions of parameters with the classifier of 1000 classes: paper, table 9; V2's table 9 for the small ones and huge.
MILLIONS = dict(
    tiny=28.59, small=50.22, base=88.59, large=197.77, xlarge=350.20, atto=3.7, femto=5.2, pico=9.1, nano=15.6, huge=660
)
VERSIONS = pytest.mark.parametrize('use_grn', [False, True], ids=['V1', 'V2'])


def classifier_parameters(backbone: ConvNeXt) -> int:
    """The parameters of the classifier around a backbone: its final norm and a linear layer, no norm on the stages."""
    last = backbone.channels[-1]
    return sum(p.numel() for p in backbone.parameters()) + 2 * last + last * 1000 + 1000


@pytest.mark.parametrize('arch', ARCHS)
def test_every_arch_returns_maps_of_its_channels_and_strides(arch):
    with torch.device('meta'):
        backbone = ConvNeXt(arch)
        maps = backbone(torch.empty(2, 3, 224, 160))
    assert backbone.out_channels == backbone.channels == ARCHS[arch][1]
    assert backbone.depths == tuple(len(stage) for stage in backbone.stages) == ARCHS[arch][0]
    assert backbone.strides == (4, 8, 16, 32)
    assert [tuple(m.shape) for m in maps] == [
        (2, c, 224 // s, 160 // s) for c, s in zip(backbone.channels, backbone.strides, strict=True)
    ]


@pytest.mark.parametrize('arch', MILLIONS)
def test_parameter_counts_match_the_papers(arch):
    with torch.device('meta'):
        count = classifier_parameters(
            ConvNeXt(arch, use_grn=MILLIONS[arch] in (3.7, 5.2, 9.1, 15.6, 660), out_norm=False)
        )
    assert count / 1e6 == pytest.approx(
        MILLIONS[arch], abs=0.005 if arch in ('tiny', 'small', 'base', 'large', 'xlarge') else 0.5
    )


@pytest.mark.parametrize(
    ('short', 'name'), [('t', 'tiny'), ('s', 'small'), ('b', 'base'), ('l', 'large'), ('xl', 'xlarge')]
)
def test_short_names(short, name):
    with torch.device('meta'):
        assert ConvNeXt(short).channels == ARCHS[name][1]


def test_parameter_names_are_the_official_ones():
    names = set(ConvNeXt('atto').state_dict())
    block = {
        f'stages.2.5.{part}.{kind}' for part in ('dwconv', 'norm', 'pwconv1', 'pwconv2') for kind in ('weight', 'bias')
    }
    assert (
        block | {'stages.2.5.gamma', 'norm3.weight', 'downsample_layers.0.0.weight', 'downsample_layers.3.1.bias'}
        <= names
    )
    v2 = set(ConvNeXt('atto', use_grn=True).state_dict())
    assert {'stages.2.5.grn.gamma', 'stages.2.5.grn.beta'} <= v2
    assert not any(name.count('.') == 3 and name.endswith('.gamma') for name in v2)


def test_custom_arch_does_not_change_the_callers_sequences():
    arch = dict(depths=[1, 2, 1, 1], channels=[8, 16, 24, 32])
    out_indices = [-1, 0]
    backbone = ConvNeXt(arch, out_indices=out_indices)
    assert arch == dict(depths=[1, 2, 1, 1], channels=[8, 16, 24, 32])
    assert out_indices == [-1, 0]
    assert (backbone.out_channels, backbone.strides) == ((32, 8), (32, 4))
    assert [m.shape[1] for m in backbone(torch.randn(1, 3, 32, 32))] == [32, 8]


def test_unused_stages_are_not_built():
    backbone = ConvNeXt('atto', out_indices=(0, 1))
    maps = backbone(torch.randn(1, 3, 64, 64))
    sum(m.square().sum() for m in maps).backward()
    assert all(p.grad is not None for p in backbone.parameters())
    assert len(backbone.stages) == 2


def test_without_out_norm_there_are_no_output_norms():
    assert not any(name.startswith('norm') for name in ConvNeXt('atto', out_norm=False).state_dict())


@pytest.mark.parametrize('frozen', range(5))
def test_frozen_stages_freeze_the_stem_and_the_first_stages(frozen):
    backbone = ConvNeXt('atto', frozen_stages=frozen, drop_path_rate=0.5)
    assert backbone.train() is backbone and backbone.eval() is backbone
    backbone.train()
    for i in range(4):
        parts = [*backbone.downsample_layers[i].parameters(), *backbone.stages[i].parameters()]
        assert all(p.requires_grad == (i >= frozen) for p in parts)
        assert all(m.training == (i >= frozen) for m in backbone.stages[i].modules())
    assert all(getattr(backbone, f'norm{i}').weight.requires_grad for i in range(4))
    out = backbone(torch.randn(1, 3, 64, 64))
    sum(m.sum() for m in out).backward()
    assert all((p.grad is not None) == p.requires_grad for p in backbone.parameters())


@VERSIONS
def test_activation_checkpointing_gives_the_same_gradients(use_grn):
    torch.manual_seed(0)
    plain = ConvNeXt('atto', use_grn=use_grn, drop_path_rate=0.5, layer_scale_init_value=1.0)
    cheap = ConvNeXt('atto', use_grn=use_grn, drop_path_rate=0.5, layer_scale_init_value=1.0, with_cp=True)
    cheap.load_state_dict(plain.state_dict())
    images = torch.randn(4, 3, 64, 64)
    gradients = []
    for backbone in (plain, cheap):
        torch.manual_seed(1)  # the same samples are dropped
        sum(m.square().sum() for m in backbone(images)).backward()
        gradients.append([p.grad for p in backbone.parameters()])
    torch.testing.assert_close(*gradients, rtol=0, atol=0)


def test_activation_checkpointing_saves_fewer_activations(monkeypatch):
    def kept(with_cp: bool) -> int:
        sizes = []
        backbone = ConvNeXt('atto', with_cp=with_cp)
        with torch.autograd.graph.saved_tensors_hooks(lambda t: sizes.append(t.numel()) or t, lambda t: t):
            backbone(torch.randn(1, 3, 64, 64))
        return sum(sizes)

    assert kept(True) < 0.5 * kept(False)


@pytest.mark.parametrize('size', [(32, 32), (33, 47), (65, 130), (100, 75)])
def test_any_image_size_from_32_pixels(size):
    maps = ConvNeXt('atto')(torch.randn(1, 3, *size))
    assert [tuple(m.shape[2:]) for m in maps] == [(size[0] // s, size[1] // s) for s in (4, 8, 16, 32)]


@pytest.mark.parametrize('in_channels', [1, 4, 13])
def test_other_numbers_of_input_channels(in_channels):
    assert len(ConvNeXt('atto', in_channels=in_channels)(torch.randn(1, in_channels, 32, 32))) == 4


@pytest.mark.parametrize('out_norm', [True, False])
def test_output_keeps_the_memory_format_of_the_input(out_norm):
    torch.manual_seed(0)
    backbone = ConvNeXt('atto', out_norm=out_norm)
    images = torch.randn(2, 3, 64, 96)
    first = backbone(images)
    last = backbone(images.contiguous(memory_format=torch.channels_last))
    assert all(m.is_contiguous() for m in first)
    assert all(m.is_contiguous(memory_format=torch.channels_last) for m in last)
    torch.testing.assert_close(first, last, rtol=1e-4, atol=1e-5)


@VERSIONS
def test_inputs_at_the_limit_of_fp16_stay_finite_under_autocast(use_grn):
    torch.manual_seed(0)
    backbone = ConvNeXt('atto', use_grn=use_grn)
    with torch.autocast('cpu', dtype=torch.float16):
        maps = backbone(torch.full((1, 3, 64, 64), 60000.0) * torch.randn(1, 3, 64, 64).sign())
    assert all(m.isfinite().all() for m in maps)


@VERSIONS
def test_bf16_outputs_are_close_to_fp32(use_grn):
    torch.manual_seed(0)
    backbone = ConvNeXt('atto', use_grn=use_grn)
    images = torch.randn(1, 3, 64, 64)
    exact = backbone(images)
    rough = copy.deepcopy(backbone).bfloat16()(images.bfloat16())
    for a, b in zip(exact, rough, strict=True):
        assert b.dtype == torch.bfloat16 and b.isfinite().all()
        assert (a - b).norm() / a.norm() < 0.1


def test_grn_does_not_overflow_in_fp16():
    grn = GRN(8)
    nn.init.ones_(grn.gamma)
    x = torch.full((1, 64, 64, 8), 30000.0)  # the norm over the map, 1.9e6, is no fp16 number
    torch.testing.assert_close(grn.half()(x.half() / 4).float(), grn.float()(x / 4), rtol=1e-2, atol=0)


@pytest.mark.parametrize('shape', [(32,), (1, 32), (1, 1, 1, 32)])
def test_grn_loads_all_stored_shapes(shape):
    grn = GRN(32)
    stored = dict(gamma=torch.randn(shape), beta=torch.randn(shape))
    grn.load_state_dict(stored)
    torch.testing.assert_close(grn.gamma.data, stored['gamma'].flatten(), rtol=0, atol=0)


def test_drop_path_drops_whole_samples_and_keeps_the_mean():
    torch.manual_seed(0)
    out = DropPath(0.4).train()(torch.ones(20000, 3))
    dropped = (out == 0).all(1)
    assert torch.equal(dropped, (out == 0).any(1))
    torch.testing.assert_close(out[~dropped], torch.full_like(out[~dropped], 1 / 0.6))
    assert float(dropped.float().mean()) == pytest.approx(0.4, abs=0.02)


def test_drop_path_rates_rise_linearly_to_the_last_block():
    rates = [block.drop_path.rate for stage in ConvNeXt('tiny', drop_path_rate=0.4).stages for block in stage]
    assert rates == pytest.approx([0.4 * i / 17 for i in range(18)])


def test_initialization_matches_the_paper():
    torch.manual_seed(0)
    backbone = ConvNeXt('atto')
    linear = backbone.stages[3][0].pwconv1
    assert linear.weight.std().item() == pytest.approx(0.02, rel=0.02)
    assert not linear.bias.any() and not backbone.downsample_layers[0][0].bias.any()
    assert torch.equal(backbone.stages[0][0].gamma.data, torch.full((40,), 1e-6))


@VERSIONS
def test_torch_compile(use_grn):
    torch.manual_seed(0)
    backbone = ConvNeXt(dict(depths=(1, 1, 1, 1), channels=(8, 16, 24, 32)), use_grn=use_grn).eval()
    images = torch.randn(1, 3, 64, 64)
    compiled = torch.compile(backbone, fullgraph=True, backend='aot_eager')
    torch.testing.assert_close(compiled(images), backbone(images))


@VERSIONS
def test_torch_export_with_dynamic_sizes(use_grn):
    torch.manual_seed(0)
    backbone = ConvNeXt(dict(depths=(1, 1, 1, 1), channels=(8, 16, 24, 32)), use_grn=use_grn).eval()
    side = torch.export.Dim('side', min=2, max=64) * 32
    program = torch.export.export(backbone, (torch.randn(2, 3, 64, 64),), dynamic_shapes=({2: side, 3: side},))
    images = torch.randn(2, 3, 128, 128)
    torch.testing.assert_close(program.module()(images), backbone(images))


def test_deepcopy_and_pickle():
    torch.manual_seed(0)
    backbone = ConvNeXt('atto', use_grn=True, frozen_stages=1, out_indices=(1, 3))
    images = torch.randn(1, 3, 64, 64)
    file = io.BytesIO()
    torch.save(backbone, file)
    file.seek(0)
    for twin in (
        copy.deepcopy(backbone),
        pickle.loads(pickle.dumps(backbone)),
        torch.load(file, weights_only=False),
    ):
        torch.testing.assert_close(twin(images), backbone(images), rtol=0, atol=0)


def test_trains():
    """The backbone and a linear layer learn to classify two textures in a few steps."""
    torch.manual_seed(0)
    model = nn.Sequential(ConvNeXt('atto', out_indices=(3,), layer_scale_init_value=1.0))
    head = nn.Linear(320, 2)
    optimizer = torch.optim.AdamW([*model.parameters(), *head.parameters()], lr=1e-3)
    rows = torch.arange(32).remainder(4).lt(2).float().expand(3, 32, 32)
    images = torch.stack([rows, rows.mT] * 4) + 0.3 * torch.randn(8, 3, 32, 32)
    labels = torch.tensor([0, 1] * 4)
    for _ in range(12):
        loss = F.cross_entropy(head(model(images)[0].mean((2, 3))), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.1


@pytest.mark.parametrize(
    ('arguments', 'named'),
    [
        (dict(arch='tinny'), ["'tinny'", "'tiny'"]),
        (dict(arch='convnext'), ["'convnext'", 'tiny', 'atto']),
        (dict(arch=dict(depths=[1, 1], channels=[8, 16])), ['depths', '[1, 1]', 'four']),
        (dict(arch=dict(depths=[1, 1, 1, 1])), ['channels']),
        (dict(out_indices=(0, 4)), ['out_indices', '(0, 4)', '0 to 3']),
        (dict(out_indices=(-5,)), ['out_indices', '-5']),
        (dict(out_indices=()), ['out_indices']),
        (dict(out_indices=(3, -1)), ['out_indices', 'twice']),
        (dict(frozen_stages=5), ['frozen_stages', '5', '0 to 4']),
        (dict(frozen_stages=-1), ['frozen_stages', '-1']),
        (dict(in_channels=0), ['in_channels', '0']),
        (dict(drop_path_rate=1.0), ['drop_path_rate', '1.0']),
    ],
)
def test_invalid_arguments_raise_with_name_value_and_remedy(arguments, named):
    with pytest.raises(ValueError) as raised:
        ConvNeXt(**{'arch': 'atto', **arguments})
    assert all(word in str(raised.value) for word in named)


@pytest.mark.parametrize(
    ('shape', 'named'),
    [
        ((1, 4, 64, 64), ['(1, 4, 64, 64)', '3', 'in_channels']),
        ((1, 3, 31, 64), ['31x64', '32']),
        ((3, 64, 64), ['(3, 64, 64)']),
    ],
)
def test_invalid_inputs_raise_with_their_shape(shape, named):
    with pytest.raises(ValueError) as raised:
        ConvNeXt('atto')(torch.zeros(shape))
    assert all(word in str(raised.value) for word in named)
