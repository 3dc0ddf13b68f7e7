"""Errors of a block's gradients in half precision, fused and plain, compared with float64."""

import argparse
import copy
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from tqdm import tqdm

from convnext_backbone import ConvNeXtBlock
from convnext_backbone.models import block_choice, fused_block

from .measuring import conditions, device
from .report import Benchmark

_LOSS_SCALE = 65536.0
_CHANNELS, _SHAPE = 96, (2, 28, 28)


def _gradients(block: ConvNeXtBlock, x: Tensor, dout: Tensor, dtype: torch.dtype | None) -> dict[str, Tensor]:
    x = x.clone().requires_grad_()
    block.zero_grad()
    with torch.autocast(x.device.type, dtype=dtype, enabled=dtype is not None):
        block(x).backward(dout)
    return {name: one.grad.double() for name, one in [('input', x), *block.named_parameters()] if one.grad is not None}


def _errors(use_grn: bool, gamma: float, size: float, dtype: torch.dtype) -> dict[str, dict[str, Any]]:
    """The largest relative error of a gradient in percent, and which it is."""
    torch.manual_seed(0)
    block = ConvNeXtBlock(_CHANNELS, 0.0, gamma, use_grn).to(device())
    for name, parameter in block.named_parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.02)  # as at the start (paper, appendix A.1)
        elif name.startswith('grn'):
            torch.nn.init.normal_(parameter, std=0.5)
    batches, height, width = _SHAPE
    x = torch.randn(batches, _CHANNELS, height, width, device=device())
    dout = size * _LOSS_SCALE * torch.randn_like(x)
    plain = copy.deepcopy(block)
    plain.fused = False
    exact = _gradients(copy.deepcopy(plain).double(), x.double(), dout.double(), None)
    found = {}
    for contender, one in dict(fused=block, plain=plain).items():
        gradients = _gradients(one, x, dout, dtype)
        errors = {name: float((gradients[name] - other).norm() / other.norm()) for name, other in exact.items()}
        worst = max(errors, key=lambda name: errors[name] if errors[name] == errors[name] else float('inf'))
        found[contender] = dict(error_percent=100 * errors[worst], gradient=worst)
    return found


# The same 16 bits on a CPU that has no instructions for them, where a run computes in fp32.
@patch.object(fused_block, 'working_dtype', lambda dtype, device: dtype)
@patch.object(block_choice, 'SMALL', 0)
def _measure(args: argparse.Namespace) -> dict:
    cases = [
        (version, gamma, size, dtype)
        for dtype in (torch.float16, torch.bfloat16)
        for version, gamma in (('V1', 1e-6), ('V1', 1e-4), ('V1', 1.0), ('V2', 0.0))
        for size in (1e-5, 1e-3, 1e-1)
    ]
    rows = []
    for version, gamma, size, dtype in tqdm(cases, desc='Cases'):
        found = _errors(version == 'V2', gamma, size, dtype)
        case = dict(dtype=str(dtype).removeprefix('torch.'), version=version)
        case |= dict(layer_scale=f'{gamma:g}' if gamma else '-', output_gradient=f'{size:g} x {_LOSS_SCALE:g}')
        rows.append(dict(case, **found))
    return dict(conditions(1), rows=rows)


PRECISION = Benchmark("errors of a block's gradients in half precision", {}, _measure)
