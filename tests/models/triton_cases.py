"""Triton's kernels in its interpreter, on the CPU. test_triton.py runs these in a process of their own."""

import copy

import pytest
import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor, nn

from convnext_backbone import ConvNeXtBlock
from convnext_backbone.models import fused_block, gpu_kernels, triton_depthwise, triton_tail
from convnext_backbone.models.block_weights import collect_weights

TOLERANCES = {torch.float32: 2e-6, torch.float16: 1e-3, torch.bfloat16: 8e-3}  # of a result, by norms
DTYPES = pytest.mark.parametrize('dtype', TOLERANCES)
# Samples, height, width and channels: no multiples of the blocks, less than a filter, several tiles, no sample.
SHAPES = [(2, 9, 3, 8), (1, 1, 1, 3), (2, 3, 2, 40), (0, 4, 4, 8)]


@triton.jit
def _product(a, b):
    return tl.dot(a.to(tl.float32), b.to(tl.float32))


@pytest.fixture(autouse=True)
def interpreted(monkeypatch):
    """The rule takes a CPU for a GPU, in 16 bits, too; products are in fp32, as bf16 goes wrong in the interpreter."""
    monkeypatch.setattr(gpu_kernels, 'ENABLED', True)
    monkeypatch.setattr(gpu_kernels, 'DEVICE', 'cpu')
    monkeypatch.setattr(torch.cuda, 'get_device_capability', lambda device: (8, 0))
    monkeypatch.setattr(fused_block, 'working_dtype', lambda dtype, device: dtype)
    monkeypatch.setattr(triton_tail, '_product', _product)
    torch.manual_seed(0)


@pytest.fixture
def kernels(monkeypatch) -> list[str]:
    """The names of the kernels that run."""
    names = []
    run = gpu_kernels.Launch.run
    monkeypatch.setattr(gpu_kernels.Launch, 'run', lambda one: names.append(one.kernel.__name__) or run(one))
    return names


def assert_near(found: Tensor, expected: Tensor, tolerance: float) -> None:
    assert found.shape == expected.shape
    assert (found.double() - expected).norm() <= tolerance * expected.norm()


@pytest.mark.parametrize(
    ('shape', 'size', 'dtype'),
    [
        *((shape, 7, torch.float32) for shape in SHAPES),
        ((2, 3, 2, 40), 3, torch.float16),
        ((1, 9, 2, 5), 5, torch.bfloat16),
        ((1, 2, 9, 33), 7, torch.float16),
    ],
)
def test_depthwise_convolution_and_its_gradients_match_float64(shape, size, dtype, monkeypatch):
    monkeypatch.setattr(triton_depthwise, '_PROGRAMS', 3 * size)  # several tiles to a program
    channels = shape[-1]
    x, dy = torch.randn(2, *shape).to(dtype)
    weight, bias = torch.randn(channels, 1, size, size).to(dtype), torch.randn(channels).to(dtype)
    exact = [one.double().requires_grad_() for one in (x, weight, bias)]
    map_, *filters = exact
    expected = F.conv2d(map_.permute(0, 3, 1, 2), *filters, padding=size // 2, groups=channels).permute(0, 2, 3, 1)
    out = triton_depthwise.depthwise(x, weight, bias)
    assert out.dtype == dtype
    assert_near(out, expected, TOLERANCES[dtype])
    gradients = torch.autograd.grad(expected, exact, dy.double())
    dx, *sums = triton_depthwise.depthwise_gradients(x, dy, weight)
    assert_near(dx, gradients[0], TOLERANCES[dtype])
    for found, one in zip(sums, gradients[1:], strict=True):
        assert found.dtype == torch.float32
        assert_near(found, one, TOLERANCES[torch.float32])


@DTYPES
@pytest.mark.parametrize(('rows', 'channels', 'scaled'), [(70, 8, True), (64, 20, False), (3, 40, True)])
def test_the_tail_matches_float64(rows, channels, scaled, dtype):
    block = ConvNeXtBlock(channels, layer_scale_init_value=float(scaled))
    for parameter in block.parameters():
        nn.init.normal_(parameter, std=0.5)
    w = collect_weights(block.requires_grad_(False))
    w = w.replace(w.cast(dtype))
    mapped, shortcut, out = torch.randn(rows, channels).to(dtype), *torch.randn(2, rows, channels)
    triton_tail.tail(mapped, shortcut, w, 1e-6, out).run()
    # The products' operands are rounded, of which nothing in float64 knows.
    exact = w._make(None if one is None else one.double() for one in w)
    normed = F.layer_norm(mapped.double(), [channels], exact.norm, exact.norm_bias, 1e-6).to(dtype).double()
    hidden = F.gelu(F.linear(normed, exact.expand, exact.expand_bias)).to(dtype).double()
    branch = F.linear(hidden, exact.project, exact.project_bias)
    assert_near(out, shortcut + (branch if exact.scale is None else exact.scale * branch), TOLERANCES[dtype])


def run(block: ConvNeXtBlock, x: Tensor, autocast: torch.dtype | None) -> list[Tensor]:
    """Output and all gradients, in float64."""
    x = x.clone().requires_grad_()
    torch.manual_seed(3)  # of stochastic depth
    with torch.autocast('cpu', dtype=autocast, enabled=autocast is not None):
        out = block(x)
    gradients = torch.autograd.grad(out, [x, *block.parameters()], torch.randn(out.shape).to(out.dtype))
    return [one.double() for one in (out.detach(), *gradients)]


@pytest.mark.parametrize('use_grn', [False, True], ids=['V1', 'V2'])
@pytest.mark.parametrize(
    ('dtype', 'autocast', 'rate'),
    [
        (torch.float32, False, 0.5),
        (torch.float16, True, 0.5),
        (torch.bfloat16, True, 0.0),
        (torch.float16, False, 0.0),
        (torch.bfloat16, False, 0.5),
    ],
)
def test_a_block_is_as_exact_as_by_torch(use_grn, dtype, autocast, rate, kernels, monkeypatch):
    """Output and all gradients, compared with the plain block in float64."""
    block = ConvNeXtBlock(24, rate, 0.5, use_grn).train()
    for parameter in block.parameters():
        nn.init.normal_(parameter, mean=parameter.mean().item(), std=0.1)
    block = block.to(torch.float32 if autocast else dtype)
    plain = copy.deepcopy(block).double()
    plain.fused = False
    x = torch.randn(3, 24, 5, 3).to(block.norm.weight.dtype)
    expected = run(plain, x.double(), None)
    found = run(block, x, dtype if autocast else None)
    tail = ['_tail'] if dtype != torch.float32 and not use_grn else []
    assert kernels == ['_convolve', *tail, '_convolve', '_sum_gradients']
    monkeypatch.setattr(gpu_kernels, 'ENABLED', False)
    rounded = run(block, x, dtype if autocast else None)
    assert len(kernels) == 3 + len(tail)
    for one, other, exact in zip(found, rounded, expected, strict=True):
        limit = max(1.5 * (other - exact).norm(), 2 * TOLERANCES[dtype] * exact.norm())
        assert (one - exact).norm() <= limit


@pytest.mark.parametrize('use_grn', [False, True], ids=['V1', 'V2'])
def test_a_block_in_inference(use_grn, kernels):
    """Where the output overwrites the map that it is computed from."""
    block = ConvNeXtBlock(40, 0.0, 1.0, use_grn).eval()
    plain = copy.deepcopy(block).double()
    plain.fused = False
    x = torch.randn(2, 40, 7, 7)
    with torch.no_grad():
        assert_near(block.half()(x.half()), plain(x.half().double()), 2 * TOLERANCES[torch.float16])
    assert kernels == ['_convolve', '_tail'][: 2 - use_grn]


def test_a_compiled_block_runs_on_the_same_kernels(kernels):
    block, x = ConvNeXtBlock(8, layer_scale_init_value=1.0).half(), torch.randn(1, 8, 5, 6).half()
    expected = run(block, x, None)
    eager = kernels.copy()
    found = run(torch.compile(block, backend='aot_eager'), x, None)
    assert kernels == 2 * eager and all(map(torch.equal, found, expected))


def test_wide_blocks_and_float64_have_torchs_kernels(kernels):
    for channels, dtype in ((200, torch.float16), (8, torch.float64)):
        with torch.no_grad():
            ConvNeXtBlock(channels).to(dtype)(torch.randn(1, channels, 2, 2, dtype=dtype))
    assert kernels == ['_convolve']  # of the wide one
