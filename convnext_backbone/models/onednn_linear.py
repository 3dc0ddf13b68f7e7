"""Linear layer with fused GELU, by oneDNN where that is faster."""

import torch
from torch import Tensor
from torch.ops import aten
from torch.utils.flop_counter import register_flop_formula

ONEDNN_DTYPES = torch.float32, torch.bfloat16


def linear(x: Tensor, weight: Tensor, bias: Tensor | None, out: Tensor | None = None, gelu: bool = False) -> Tensor:
    """``x @ weight.mT + bias``, then GELU if asked for, written to ``out`` where possible.

    With AVX-512 oneDNN's product is up to a fifth faster than MKL's on AMD's CPUs and fuses GELU, but takes no ``out``;
    without AVX-512 it is slower. The weight may be one of :func:`pack`. One that is transposed is not copied for
    oneDNN, which would take as long as a third of the product of 2000 rows.
    """
    if weight.is_mkldnn or (_is_faster(x) and weight.is_contiguous()):
        return torch.ops.mkldnn._linear_pointwise(x, weight, bias, 'gelu' if gelu else 'none', [], 'none')
    out = torch.mm(x, weight.mT, out=out) if bias is None else torch.addmm(bias, x, weight.mT, out=out)
    return aten.gelu_(out) if gelu else out


def pack(weight: Tensor, rows: int) -> Tensor:
    """A weight in oneDNN's layout for products with so many rows, where it is the faster one; else as it is.

    Worth it from three products on: each would do it by itself. In bf16 it gains nothing.
    """
    # Private, as the product: both may be gone in another torch.
    reorder = getattr(torch.ops.mkldnn, '_reorder_linear_weight', None)
    if reorder is None or weight.dtype != torch.float32 or not _is_faster(weight):
        return weight
    return reorder(weight.contiguous(), rows)


def _is_faster(x: Tensor) -> bool:
    fits = x.device.type == 'cpu' and x.dtype in ONEDNN_DTYPES and hasattr(torch.ops.mkldnn, '_linear_pointwise')
    return fits and torch.backends.cpu.get_cpu_capability() == 'AVX512'


if hasattr(torch.ops.mkldnn, '_linear_pointwise'):

    @register_flop_formula(torch.ops.mkldnn._linear_pointwise)
    def _count_linear(x: torch.Size, weight: torch.Size, *_: object, **__: object) -> int:
        """For torch's FLOP counter, which does not know the operator."""
        return 2 * x.numel() * weight[0]
