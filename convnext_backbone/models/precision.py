"""Settings of torch for a computation: data types, autocast, the choice of cuDNN's algorithms."""

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor


@torch.compiler.assume_constant_result  # torch.compile of torch 2.6 cannot trace it
def has_autocast(device: str) -> bool:
    """Whether autocast supports a type of device; for others, such as meta, asking whether it is enabled raises."""
    return torch.amp.is_autocast_available(device)


def map_dtype(weight: Tensor) -> torch.dtype:
    """Data type of the maps that a layer with this weight computes: autocast's where enabled, or the weight's."""
    device = weight.device.type
    enabled = has_autocast(device) and torch.is_autocast_enabled(device)
    return torch.get_autocast_dtype(device) if enabled else weight.dtype


def without_autocast(device: torch.device) -> AbstractContextManager:
    """Context without autocast."""
    return torch.autocast(device.type, enabled=False) if has_autocast(device.type) else nullcontext()


def without_tuning(kept: Tensor | None) -> AbstractContextManager:
    """Context without ``cudnn_benchmark`` where stochastic depth drops samples: it would tune for each number."""
    cudnn = torch.backends.cudnn
    if kept is None or not cudnn.benchmark or torch.compiler.is_compiling():
        return nullcontext()
    return cudnn.flags(
        enabled=cudnn.enabled, benchmark=False, deterministic=cudnn.deterministic, allow_tf32=cudnn.allow_tf32
    )


def working_dtype(dtype: torch.dtype, device: torch.device) -> torch.dtype:
    """Data type to compute in: fp32 where a CPU has no instructions for half precision, which is ten times slower."""
    if device.type != 'cpu' or dtype.itemsize > 2 or torch.compiler.is_compiling():
        return dtype
    # Private: where torch lacks them, the CPU counts as one without the instructions.
    name = '_is_mkldnn_fp16_supported' if dtype == torch.float16 else '_is_mkldnn_bf16_supported'
    supported = getattr(torch.ops.mkldnn, name, None)
    return dtype if supported is not None and supported() else torch.float32
