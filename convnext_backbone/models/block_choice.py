"""Which blocks are computed as one: those whose layers are as they were built, on maps that are worth it."""

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from .gpu_kernels import by_triton
from .grn import GRN
from .precision import map_dtype, working_dtype

if TYPE_CHECKING:
    from .convnext import ConvNeXtBlock

# Measured on two cores of an Intel Xeon with AVX-512, 40 to 1024 channels, fp32 and bf16.
SMALL = 200_000  # values of a map from which on training is faster, or saves 10 MB: less would stay in the cache
LIGHT = 60_000_000  # bytes of a map times channels from which on inference is faster: the launches cost more before
OFTEN = 0.25  # rate of stochastic depth from which on it is faster not to compute what is dropped


def is_exporting() -> bool:
    """Whether a model is exported, and not compiled to run; torch 2.6 does not tell the two apart."""
    # Private: torch.compiler.is_exporting is true in all that is compiled, in torch 2.11 at least.
    return getattr(torch.compiler, '_is_exporting_flag', torch.compiler.is_compiling())


def can_fuse(block: 'ConvNeXtBlock') -> bool:
    """Whether the layers of a block are unchanged, unhooked and not exported, traced or transformed."""
    if torch.compiler.is_compiling():
        if is_exporting():
            return False
    else:
        # Private: where torch lacks it, any call may be inside a transform of torch.func.
        transformed = getattr(torch._C, '_are_functorch_transforms_active', None)
        if torch.jit.is_tracing() or transformed is None or transformed():
            return False
    layers = {block.dwconv: nn.Conv2d, block.norm: nn.LayerNorm, block.pwconv1: nn.Linear, block.pwconv2: nn.Linear}
    if block.grn is not None:
        layers[block.grn] = GRN
    hooks = ('_forward_hooks', '_forward_pre_hooks', '_backward_hooks', '_backward_pre_hooks')
    return all(
        type(layer) is kind and not any(getattr(layer, name) for name in hooks) for layer, kind in layers.items()
    )


def is_worth_it(block: 'ConvNeXtBlock', x: Tensor) -> bool:
    """Whether a fused block is worth it for a map: on a GPU to train, on a CPU unless the map is small."""
    if x.device.type != 'cpu':  # with no backward pass there is little memory to save, and more launches
        return torch.is_grad_enabled() or by_triton(x)
    weight = block.pwconv1.weight
    dtype = map_dtype(weight)
    if working_dtype(dtype, x.device) != dtype:
        return True
    if torch.is_grad_enabled():
        return x.numel() >= SMALL or (block.drop_path.drops and block.drop_path.rate >= OFTEN)
    return dtype != weight.dtype or x.numel() * x.shape[1] * x.element_size() >= LIGHT
