"""Whether the tensors of a file hold plain finite numbers that the file really has: a crafted one may claim any."""

from typing import Any

import torch
from torch import Tensor

from ..utils.errors import CheckpointMismatch, printable

_FLOATS: tuple[torch.dtype, ...] = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_COMPLEX = (torch.complex64, torch.complex128)
_INTEGERS = (torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)


def check_plain(name: str, tensor: Any, source: str, own: Tensor | None = None) -> None:
    """Check what a file has under a name.

    It must be of the kind of numbers of ``own``, the tensor of the model that it fills; floating point if unknown.

    Raises:
        CheckpointMismatch: It does not hold plain finite numbers.
    """
    allowed, words = _FLOATS, 'floating-point numbers'
    if (own is None and name.endswith('.num_batches_tracked')) or (own is not None and own.dtype in _INTEGERS):
        allowed, words = _INTEGERS, 'integers'
    elif own is not None and own.dtype in _COMPLEX:
        allowed, words = _COMPLEX, 'complex numbers'
    wrong = _what_else(tensor, allowed)
    if wrong:
        raise CheckpointMismatch(
            f'The checkpoint {printable(source)} holds {printable(name)} not as plain {words} but as {wrong}: save the '
            f'plain weights.'
        )
    # One pass and no copy; only where that overflows or fails, a second look.
    total = tensor.sum(dtype=torch.float32 if tensor.element_size() < 4 else None)
    if not total.isfinite() and not tensor.isfinite().all() and (own is None or own.isfinite().all()):
        raise CheckpointMismatch(
            f'The checkpoint {printable(source)} holds numbers in {printable(name)} that are not finite: it was saved '
            f'from a run that failed, or is corrupt; take an earlier one.'
        )


def _what_else(tensor: Any, allowed: tuple[torch.dtype, ...]) -> str:
    """What it is if not plain numbers of a data type; empty if it is that."""
    if not isinstance(tensor, Tensor):
        return type(tensor).__name__
    if tensor.is_nested or tensor.layout != torch.strided or tensor.dtype not in allowed:
        return f'{"nested " * tensor.is_nested}{tensor.dtype}, {tensor.layout}'
    if tensor.device.type == 'meta':
        return 'shapes without numbers'
    return 'few numbers stretched to its shape' if _overlaps(tensor) else ''


def _overlaps(tensor: Tensor) -> bool:
    """Whether some of its numbers share their memory, as after ``expand``: it claims more than the file has."""
    reach = 0
    for stride, size in sorted(zip(tensor.stride(), tensor.shape, strict=True)):
        if size > 1:
            if stride <= reach:
                return tensor.numel() > 0
            reach += stride * (size - 1)
    return False
