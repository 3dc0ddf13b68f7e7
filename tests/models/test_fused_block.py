"""The fused block equals the plain block up to rounding, and steps aside for hooks, transforms and tracing."""

import copy
import runpy
import types

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from convnext_backbone import ConvNeXt, ConvNeXtBlock, ConvNeXtIsotropic
from convnext_backbone.models import fused_block, layers
from convnext_backbone.models.depthwise_grad import depthwise_weight_grad
from convnext_backbone.models.grn import GRN, grn_
from convnext_backbone.models.layers import PatchConv2d
from convnext_backbone.models.precision import working_dtype

VERSIONS = pytest.mark.parametrize('use_grn', [False, True], ids=['V1', 'V2'])
# Instruction sets of the CPU, by which the library of the matrix products is chosen.
CAPABILITIES = pytest.mark.parametrize('capability', ['AVX2', 'AVX512'])
SMALL = dict(depths=(1, 2, 1, 1), channels=(8, 16, 24, 32))


def make_block(use_grn: bool, rate: float = 0.0, **arguments) -> ConvNeXtBlock:
    """A block with random weights."""
    torch.manual_seed(0)
    block = ConvNeXtBlock(8, rate, 1.0, use_grn, **arguments).train()
    for parameter in block.parameters():
        nn.init.normal_(parameter, std=0.5)
    return block


def results(block: nn.Module, x: torch.Tensor, seed: int = 0) -> list[torch.Tensor]:
    """Output and all gradients, in float64."""
    x = x.clone().requires_grad_()
    block.zero_grad()
    torch.manual_seed(seed)  # of stochastic depth
    out = block(x)
    weights = torch.arange(out.numel(), dtype=out.dtype).view(out.shape).sin()
    (out * weights).sum().backward()
    return [t.detach().double() for t in (out, x.grad, *(p.grad for p in block.parameters()))]


def several_results(block: nn.Module, inputs: torch.Tensor) -> list[torch.Tensor]:
    """:func:`results` of several batches, stacked."""
    return [torch.stack(parts) for parts in zip(*(results(block, x) for x in inputs), strict=True)]


def assert_near(found: list[torch.Tensor], expected: list[torch.Tensor], tolerance: float) -> None:
    """Compare by norms, relative to the expected one."""
    for one, other in zip(found, expected, strict=True):
        assert (one - other).norm() <= tolerance * other.norm()


@VERSIONS
@CAPABILITIES
@pytest.mark.parametrize('rate', [0.0, 0.5])
@pytest.mark.parametrize('rows', [1, 7, 40, 2048])
@pytest.mark.parametrize('shape', [(3, 8, 5, 6), (1, 8, 1, 1), (4, 8, 9, 3), (2, 8, 40, 3)])
def test_output_and_gradients_match_the_plain_block_in_float64(use_grn, capability, rate, rows, shape, monkeypatch):
    monkeypatch.setattr(torch.backends.cpu, 'get_cpu_capability', lambda: capability)
    monkeypatch.setattr(fused_block, 'tile_rows', lambda expand: rows)
    block = make_block(use_grn, rate)
    plain = make_block(use_grn, rate, fused=False).double()
    x = torch.randn(shape)
    for seed in range(3):
        assert_near(results(block, x, seed), results(plain, x.double(), seed), tolerance=1e-5)


@VERSIONS
@CAPABILITIES
def test_flops_are_counted(use_grn, capability, monkeypatch):
    monkeypatch.setattr(torch.backends.cpu, 'get_cpu_capability', lambda: capability)
    counts = []
    for fused_ in (True, False):
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            make_block(use_grn, fused=fused_)(torch.randn(2, 8, 5, 6))
        counts.append(counter.get_total_flops())
    assert counts[0] == counts[1] == 2 * 2 * 30 * (49 * 8 + 2 * 4 * 8 * 8)


@VERSIONS
def test_gradients_of_a_backbone_match_the_plain_blocks(use_grn):
    torch.manual_seed(0)
    arguments = dict(use_grn=use_grn, drop_path_rate=0.5, layer_scale_init_value=1.0, out_norm=False)
    model = ConvNeXt(SMALL, out_indices=(3,), **arguments)
    plain = ConvNeXt(SMALL, out_indices=(3,), fused=False, **arguments).double()
    plain.load_state_dict(model.state_dict())
    x = torch.randn(3, 3, 70, 100)
    found, expected = (results(nn.Sequential(m, Take()), data, seed=2) for m, data in ((model, x), (plain, x.double())))
    assert_near(found, expected, tolerance=1e-5)


class Take(nn.Module):
    """Unpacks the only map of a backbone."""

    def forward(self, maps):
        return maps[0]


@VERSIONS
def test_two_values_per_position_are_saved_for_backward(use_grn):
    kept = []
    block = make_block(use_grn)
    x = torch.randn(2, 8, 30, 40, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        block(x)
    own = {p.data_ptr() for p in block.parameters()}
    values = sum(t.numel() for t in kept if t.data_ptr() not in own and t.numel() > 64)
    assert values == 2 * x.numel()


@VERSIONS
def test_inference_does_not_overwrite_inputs_or_other_maps(use_grn):
    """The maps of all blocks, which a hook may keep, and the image stay unchanged."""
    torch.manual_seed(0)
    model = ConvNeXt(SMALL, use_grn=use_grn, layer_scale_init_value=1.0).eval()
    x, seen, copies = torch.randn(2, 3, 64, 96), [], []
    for block in (block for stage in model.stages for block in stage):
        block.register_forward_hook(lambda block, inputs, out: (seen.append(out), copies.append(out.clone())) and None)
    expected = [map_.detach().clone() for map_ in model(x)]
    before = x.clone()
    with torch.inference_mode():
        maps = model(x)
    assert torch.equal(x, before) and all(torch.equal(one, other) for one, other in zip(seen, copies, strict=True))
    assert all(torch.equal(one, other) for one, other in zip(maps, expected, strict=True)) and len(seen) == 10


def test_dropped_samples_are_not_computed(monkeypatch):
    block = make_block(False, rate=0.9)
    seen = []
    monkeypatch.setattr(
        fused_block, '_depthwise', lambda x, w, run=fused_block._depthwise: seen.append(len(x)) or run(x, w)
    )
    x = torch.randn(6, 8, 4, 4)
    for seed in range(20):
        torch.manual_seed(seed)
        kept = block.drop_path.draw(6)
        torch.manual_seed(seed)
        out = block(x)
        assert seen.pop() == kept.sum()
        assert torch.equal((out == x).all(dim=(1, 2, 3)), ~kept)


class Tunes(TorchDispatchMode):
    """Whether cuDNN may tune for the sizes of each convolution."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if 'convolution' in str(function):
            self.seen.append(torch.backends.cudnn.benchmark)
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize(('rate', 'tunes'), [(0.0, True), (0.5, False)])
def test_cudnn_tunes_for_no_number_of_kept_samples(rate, tunes, monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, 'benchmark', True)
    torch.manual_seed(0)
    with Tunes() as mode:
        results(make_block(False, rate=rate), torch.randn(6, 8, 4, 4))
    assert len(mode.seen) > 2 and set(mode.seen) == {tunes} and torch.backends.cudnn.benchmark


@VERSIONS
def test_a_batch_with_all_samples_dropped_has_zero_gradients(use_grn):
    block = make_block(use_grn, rate=0.999)
    out, dx, *gradients = results(block, x := torch.randn(2, 8, 4, 4))
    assert torch.equal(out, x.double()) and dx.abs().sum() > 0
    assert all(gradient is not None and not gradient.any() for gradient in gradients)


@VERSIONS
def test_empty_batch(use_grn):
    block = make_block(use_grn)
    out = block(torch.zeros(0, 8, 4, 4))
    out.sum().backward()
    assert out.shape == (0, 8, 4, 4) and all(not p.grad.any() for p in block.parameters())


@VERSIONS
@pytest.mark.parametrize(('dtype', 'tolerance'), [(torch.bfloat16, 0.02), (torch.float16, 0.003)])
def test_autocast(use_grn, dtype, tolerance):
    """As close to fp32 as rounding or the plain block; the sum stays in fp32."""
    block, plain, inputs = make_block(use_grn), make_block(use_grn, fused=False), torch.randn(8, 2, 8, 12, 9)
    expected = several_results(block, inputs)
    with torch.autocast('cpu', dtype=dtype):
        found, rounded = several_results(block, inputs), several_results(plain, inputs)
        assert block(inputs[0]).dtype == torch.float32
    for one, other, exact in zip(found, rounded, expected, strict=True):
        # Where the CPU computes in half precision, the gradient of a bias, a sum of numbers that cancel, may be far off
        # by chance: so several batches are compared.
        assert (one - exact).norm() <= max(tolerance * exact.norm(), 3 * (other - exact).norm())


def test_half_precision_is_computed_in_fp32_where_the_cpu_lacks_instructions():
    cpu = torch.device('cpu')
    native = {
        torch.bfloat16: torch.ops.mkldnn._is_mkldnn_bf16_supported(),
        torch.float16: torch.ops.mkldnn._is_mkldnn_fp16_supported(),
    }
    for dtype, there in native.items():
        assert working_dtype(dtype, cpu) == (dtype if there else torch.float32)
        assert working_dtype(dtype, torch.device('cuda')) == dtype
    assert [working_dtype(dtype, cpu) for dtype in (torch.float32, torch.float64)] == [torch.float32, torch.float64]


@VERSIONS
def test_without_private_operators_of_torch_the_result_is_the_same(use_grn, monkeypatch):
    """Without oneDNN's product, and without the query for instructions for half precision."""
    monkeypatch.setattr(torch.backends.cpu, 'get_cpu_capability', lambda: 'AVX512')
    block, x = make_block(use_grn), torch.randn(3, 8, 5, 6)
    expected = results(block, x)
    monkeypatch.setattr(torch.ops, 'mkldnn', types.SimpleNamespace())
    runpy.run_path(fused_block.__file__, run_name='convnext_backbone.models.fused_block')  # it imports
    assert_near(results(block, x), expected, tolerance=1e-5)
    with torch.autocast('cpu', dtype=torch.bfloat16):
        assert_near(results(block, x)[:2], expected[:2], tolerance=0.02)
    assert working_dtype(torch.bfloat16, x.device) == working_dtype(torch.float16, x.device) == torch.float32


@VERSIONS
def test_without_a_way_to_detect_torch_func_the_block_is_not_fused(use_grn, monkeypatch):
    block, x = make_block(use_grn), torch.randn(3, 8, 5, 6)
    expected = results(block, x)
    monkeypatch.delattr('convnext_backbone.models.fused_block.FusedBlock')
    forward = block.forward

    def undetected(x):  # in the forward pass only: torch's own backward pass asks too
        with monkeypatch.context() as patch:
            patch.delattr(torch._C, '_are_functorch_transforms_active')
            return forward(x)

    monkeypatch.setattr(block, 'forward', undetected)
    assert_near(results(block, x), expected, tolerance=1e-5)


@VERSIONS
def test_frozen_weights_get_no_gradient_and_propagate_it(use_grn):
    block = make_block(use_grn)
    x = torch.randn(2, 8, 5, 6)
    _, expected, *_ = results(block, x)
    block.zero_grad()
    block.requires_grad_(False)
    x.requires_grad_()
    out = block(x)
    (out * torch.arange(out.numel()).view(out.shape).sin()).sum().backward()
    torch.testing.assert_close(x.grad.double(), expected)
    assert all(p.grad is None for p in block.parameters())


@pytest.mark.parametrize(
    'model', [ConvNeXt(SMALL, layer_scale_init_value=1.0), ConvNeXtIsotropic(dict(depths=(2,), channels=(16,)))]
)
def test_hooks_on_layers_are_called(model):
    """A hook that changes the output of a layer changes the output of the model."""
    twin, images = copy.deepcopy(model), torch.randn(1, 3, 64, 64)
    expected = model(images)[-1]
    for block in [m for m in twin.modules() if isinstance(m, ConvNeXtBlock)]:
        block.pwconv1.register_forward_hook(lambda module, inputs, output: output * 2)
    assert not torch.allclose(twin(images)[-1], expected)


def test_replaced_layers_are_used():
    block = make_block(False)
    x = torch.randn(1, 8, 4, 4)
    expected = block(x)
    block.pwconv2 = nn.Sequential(block.pwconv2, nn.Identity())
    torch.testing.assert_close(block(x), expected)
    block.pwconv2.append(nn.Flatten(0, -1)).append(nn.Unflatten(0, (1, 4, 4, 8))).append(nn.Threshold(1e9, 0.0))
    torch.testing.assert_close(block(x), x)


def test_a_replaced_grn_is_used():
    class Doubled(type(make_block(True).grn)):
        def forward(self, x):
            return 2 * super().forward(x)

    block, x = make_block(True), torch.randn(1, 8, 4, 4)
    twin = Doubled(32)
    twin.load_state_dict(block.grn.state_dict())
    expected = block(x)
    block.grn = twin
    assert not torch.allclose(block(x), expected)


@VERSIONS
def test_torch_func_gives_the_same_gradients(use_grn):
    block = make_block(use_grn)
    x = torch.randn(2, 8, 4, 5)
    weights = {name: parameter.detach() for name, parameter in block.named_parameters()}
    gradients = torch.func.grad(lambda w: torch.func.functional_call(block, w, x).square().sum())(weights)
    block(x).square().sum().backward()
    for name, parameter in block.named_parameters():
        torch.testing.assert_close(gradients[name], parameter.grad, rtol=1e-4, atol=1e-4)


def test_double_backward_raises_with_the_remedy():
    block, x = make_block(False), torch.randn(1, 8, 4, 4, requires_grad=True)
    with pytest.raises(RuntimeError, match='fused=False'):
        torch.autograd.grad(block(x).sum(), x, create_graph=True)
    block.fused = False
    (gradient,) = torch.autograd.grad(block(x).square().sum(), x, create_graph=True)
    gradient.sum().backward()
    assert x.grad.abs().sum() > 0


def test_jit_tracing():
    block, x = make_block(False).eval(), torch.randn(1, 8, 6, 6)
    traced = torch.jit.trace(block, x)
    other = torch.randn(2, 8, 9, 4)
    torch.testing.assert_close(traced(other), block(other))


@pytest.mark.parametrize('kernel_size', [1, 3, 5, 7, 9, 11])
@pytest.mark.parametrize('band', [1, 900, 10**6])
@pytest.mark.parametrize('shape', [(2, 20, 30, 16), (1, 7, 9, 8), (3, 1, 1, 4), (4, 3, 5, 7), (0, 4, 4, 8)])
def test_depthwise_weight_gradient_matches_float64(kernel_size, band, shape, monkeypatch):
    monkeypatch.setattr('convnext_backbone.models.depthwise_grad.BAND', band)
    torch.manual_seed(0)
    x, dy = torch.randn(shape), torch.randn(shape)
    weight = torch.zeros(shape[-1], 1, kernel_size, kernel_size, dtype=torch.float64, requires_grad=True)
    out = nn.functional.conv2d(x.double().permute(0, 3, 1, 2), weight, padding=kernel_size // 2, groups=shape[-1])
    out.backward(dy.double().permute(0, 3, 1, 2))
    assert_near([depthwise_weight_grad(x, dy, kernel_size).double()], [weight.grad], tolerance=1e-5)


@pytest.mark.parametrize('size', [(8, 12), (9, 15), (4, 4)])
def test_patch_convolution_is_a_convolution(size):
    torch.manual_seed(0)
    layer = PatchConv2d(3, 5, 4).double()
    x = torch.randn(2, 3, *size, dtype=torch.float64, requires_grad=True)
    expected = nn.functional.conv2d(x, layer.weight, layer.bias, stride=4)
    out = layer(x)
    torch.testing.assert_close(out, expected)
    weights = torch.randn_like(out)
    inputs = (x, layer.weight, layer.bias)
    found = torch.autograd.grad((out * weights).sum(), inputs)
    torch.testing.assert_close(found, torch.autograd.grad((expected * weights).sum(), inputs))


def test_gradients_of_a_zero_channel_are_finite_in_grn():
    block = make_block(True)
    nn.init.zeros_(block.pwconv1.weight)
    nn.init.zeros_(block.pwconv1.bias)
    assert all(gradient.isfinite().all() for gradient in results(block, torch.randn(2, 8, 4, 4)))
    assert not grn_(torch.zeros(1, 4, 8), torch.ones(8), torch.ones(8)).norms.any()


@pytest.mark.parametrize('squares', [1, 100, 500_000])
def test_grn_in_place_equals_the_layer(squares, monkeypatch):
    """In parts of any size."""
    monkeypatch.setattr('convnext_backbone.models.grn.SQUARES', squares)
    torch.manual_seed(0)
    layer, x = GRN(8).double(), torch.randn(3, 5, 6, 8, dtype=torch.float64)
    nn.init.normal_(layer.gamma)
    nn.init.normal_(layer.beta)
    with torch.no_grad():
        grn_(found := x.clone().flatten(1, 2), layer.gamma, layer.beta)
        torch.testing.assert_close(found.view_as(x), layer(x))


@pytest.mark.small_maps
@pytest.mark.parametrize(
    ('shape', 'rate', 'trains', 'kind', 'natively', 'fused'),
    [
        ((1, 8, 20, 20), 0.0, True, 'fp32', True, False),  # it would save nothing
        ((1, 8, 20, 20), 0.5, True, 'fp32', True, True),  # half of it is not computed
        ((1, 8, 160, 160), 0.0, True, 'fp32', True, True),
        ((1, 8, 20, 20), 0.0, True, 'autocast', True, False),
        ((1, 8, 20, 20), 0.0, True, 'autocast', False, True),  # in fp32, which is ten times as fast
        ((1, 8, 20, 20), 0.0, True, 'bf16', False, True),
        ((1, 8, 20, 20), 0.0, False, 'fp32', True, False),
        ((1, 8, 500, 500), 0.0, False, 'fp32', True, True),
        ((1, 8, 20, 20), 0.0, False, 'autocast', True, True),  # which frees the converted weights block by block
        ((1, 8, 20, 20), 0.0, False, 'bf16', True, False),
        ((1, 8, 20, 20), 0.0, False, 'bf16', False, True),
    ],
)
def test_small_maps_are_computed_layer_by_layer(shape, rate, trains, kind, natively, fused, monkeypatch):
    monkeypatch.setattr(torch.ops.mkldnn, '_is_mkldnn_bf16_supported', lambda: natively)
    calls = []
    run = fused_block.forward_pass
    monkeypatch.setattr(fused_block, 'forward_pass', lambda *arguments: calls.append(1) or run(*arguments))
    block, x = make_block(False, rate), torch.randn(shape)
    if kind == 'bf16':
        block, x = block.bfloat16(), x.bfloat16()
    with torch.set_grad_enabled(trains), torch.autocast('cpu', torch.bfloat16, enabled=kind == 'autocast'):
        block(x)
    assert bool(calls) == fused


@pytest.mark.parametrize(('number', 'shape'), [(0, (2, 3, 37, 50)), (1, (2, 8, 37, 26)), (2, (1, 16, 6, 9))])
@pytest.mark.parametrize('values', [1, 500, 10**9])
def test_downsampling_in_parts_equals_that_at_once(number, shape, values, monkeypatch):
    """The stem and two others, of sizes that the stride does not divide."""
    torch.manual_seed(0)
    layer = ConvNeXt(dict(depths=(1, 1, 1, 1), channels=(8, 16, 24, 32))).eval().downsample_layers[number]
    x = torch.randn(shape[0], layer[0 if number == 0 else 1].in_channels, *shape[2:])
    x = x.contiguous(memory_format=torch.channels_last)
    expected = nn.Sequential(*layer)(x)
    monkeypatch.setattr(layers, 'VALUES', values)
    calls = []
    with torch.no_grad():
        monkeypatch.setattr(F, 'linear', lambda *a, run=F.linear: calls.append(1) or run(*a))
        out = layer(x)
        assert_near([out], [expected], 1e-5)
    assert (len(calls) > 1) == (values < 10**9) and out.is_contiguous(memory_format=torch.channels_last)
    layer[0].register_forward_hook(lambda *arguments: calls.clear())
    with torch.no_grad():
        layer(x)
    assert len(calls) <= 1  # hooks see a whole map
