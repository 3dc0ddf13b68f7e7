"""Data types: what autocast asks for, and what a CPU can compute in."""

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor


@torch.compiler.assume_constant_result  # torch.compile of torch 2.6 cannot look into it
def has_autocast(device: str) -> bool:
    """Whether autocast can be on for a type of device: it cannot for meta, and asking whether it is would raise."""
    return torch.amp.is_autocast_available(device)


def map_dtype(weight: Tensor) -> torch.dtype:
    """What a layer with this weight rounds its maps to: autocast's data type where that is on, or the weight's."""
    device = weight.device.type
    enabled = has_autocast(device) and torch.is_autocast_enabled(device)
    return torch.get_autocast_dtype(device) if enabled else weight.dtype


def without_autocast(device: torch.device) -> AbstractContextManager:
    """Where data types are as they are asked for."""
    return torch.autocast(device.type, enabled=False) if has_autocast(device.type) else nullcontext()


def working_dtype(dtype: torch.dtype, device: torch.device) -> torch.dtype:
    """What is computed in: fp32 where a CPU lacks instructions for half precision and would take ten times as long."""
    if device.type != 'cpu' or dtype.itemsize > 2 or torch.compiler.is_compiling():
        return dtype
    # Private, so looked for: a torch without them is taken for a CPU without the instructions.
    name = '_is_mkldnn_fp16_supported' if dtype == torch.float16 else '_is_mkldnn_bf16_supported'
    supported = getattr(torch.ops.mkldnn, name, None)
    return dtype if supported is not None and supported() else torch.float32
