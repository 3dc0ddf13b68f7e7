"""Half precision: gradients of the fused block are as exact as the plain block's. Real 16-bit arithmetic on the CPU."""

import copy

import pytest
import torch
from torch import Tensor, nn

from convnext_backbone import ConvNeXtBlock
from convnext_backbone.models import fused_block

LOSS_SCALE = 65536.0
CHANNELS, BLOCKS_EACH = 24, 12
BLOCKS = {'V1, 1e-6': (False, 1e-6), 'V1, 1e-4': (False, 1e-4), 'V1, 1': (False, 1.0), 'V2': (True, 0.0)}


@pytest.fixture(autouse=True)
def no_fallback(monkeypatch):
    """Compute in 16 bits, whatever instructions the CPU has."""
    monkeypatch.setattr(fused_block, 'working_dtype', lambda dtype, device: dtype)


def make_block(use_grn: bool, gamma: float, rate: float) -> ConvNeXtBlock:
    """A block whose weights have the sizes of a trained one's."""
    block = ConvNeXtBlock(CHANNELS, rate, gamma, use_grn).train()
    for name, parameter in block.named_parameters():
        if name.endswith('weight'):
            nn.init.normal_(parameter, mean='norm' in name, std=0.1)
        elif 'grn' in name:
            nn.init.normal_(parameter, std=0.5)
    return block


def gradients(block: nn.Module, x: Tensor, dout: Tensor, autocast: torch.dtype | None) -> dict[str, Tensor]:
    """Gradients of the input and all weights, in float64."""
    x = x.clone().requires_grad_()
    block.zero_grad()
    torch.manual_seed(0)  # of stochastic depth
    with torch.autocast('cpu', dtype=autocast, enabled=autocast is not None):
        out = block(x)
    out.backward(dout.to(out.dtype))
    return {'x': x.grad.double(), **{name: one.grad.double() for name, one in block.named_parameters()}}


def errors(found: dict[str, Tensor], exact: dict[str, Tensor]) -> Tensor:
    """The error of each gradient."""
    return torch.stack([(found[name] - one).norm() for name, one in exact.items()])


@pytest.mark.parametrize('kind', BLOCKS)
@pytest.mark.parametrize(('rate', 'size'), [(0.0, 1e-5), (0.0, 1e-3), (0.0, 1e-1), (0.5, 1e-3)])
@pytest.mark.parametrize('autocast', [True, False], ids=['autocast', 'pure'])
@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16], ids=['fp16', 'bf16'])
def test_gradients_are_as_exact_as_those_of_the_plain_block(dtype, autocast, rate, kind, size):
    """Over many blocks: in a sum that cancels, the error of one is chance, by which a fifth is allowed for, too."""
    squares = torch.zeros(2)
    for seed in range(BLOCKS_EACH):
        torch.manual_seed(seed)
        block = make_block(*BLOCKS[kind], rate).to(torch.float32 if autocast else dtype)
        plain, exact = copy.deepcopy(block), copy.deepcopy(block).double()
        plain.fused = exact.fused = False
        x, dout = (torch.randn(4, CHANNELS, 14, 10).to(block.norm.weight.dtype) for _ in range(2))
        dout *= size * LOSS_SCALE
        expected = gradients(exact, x.double(), dout.double(), None)
        found = (gradients(one, x, dout, dtype if autocast else None) for one in (block, plain))
        squares = squares + torch.stack([errors(one, expected) for one in found], dim=1) ** 2
    for name, (fused, rounded) in zip(expected, squares.sqrt().tolist(), strict=True):
        assert not rounded < float('inf') or fused <= 1.2 * rounded, (name, fused, rounded)


def test_what_is_not_finite_stays_so():
    """By it a loss scale is found too large, and the step left out."""
    block = make_block(False, 1e-6, 0.0)
    dout = torch.ones(1, CHANNELS, 6, 6)
    for value in (float('inf'), float('nan')):
        dout[0, 0, 0, 0] = value
        found = gradients(block, torch.randn(1, CHANNELS, 6, 6), dout, torch.float16)
        assert not any(one.isfinite().all() for one in found.values())


@pytest.mark.parametrize('gamma', [0.0, 1e-6])
def test_gradients_of_zero_stay_zero(gamma):
    block = make_block(False, 1e-6, 0.0)
    nn.init.constant_(block.gamma, gamma)
    x, dout = torch.randn(2, 1, CHANNELS, 6, 6)
    assert all(one.isfinite().all() for one in gradients(block, x, dout, torch.float16).values())
    found = gradients(block, x, 0 * dout, torch.float16)
    assert not any(one.any() for one in found.values())
