"""The rule by which a fused block runs on this project's own GPU kernels, written in Triton, and how they are launched.

``CONVNEXT_TRITON=1`` in the environment asks for them. They are off by default: on an H200 they are no faster.
Nothing imports triton before it is used.
"""

import functools
import os
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..utils.errors import UserError
from .block_weights import Weights

SWITCH = 'CONVNEXT_TRITON'
ENABLED = os.environ.get(SWITCH, '0') not in ('', '0')
DEVICE = 'cuda'
DTYPES = torch.float32, torch.float16, torch.bfloat16
WIDEST_TAIL = 192  # channels; wider blocks are bound by their products, which are no better in one kernel
TAIL_CAPABILITY = (8, 0)  # of the first tensor cores that Triton knows


def by_triton(x: Tensor) -> bool:
    """Whether Triton's kernels compute on a map of this device and data type.

    Raises:
        UserError: They are asked for, and triton cannot be imported.
    """
    if not (ENABLED and x.device.type == DEVICE and x.dtype in DTYPES):
        return False
    _import_triton()
    return True


def tail_by_triton(mapped: Tensor, w: Weights) -> bool:
    """Whether a kernel computes what follows the depthwise convolution, whose output is given.

    Only of V1, in half precision and on tensor cores.
    """
    fits = w.grn is None and mapped.shape[-1] <= WIDEST_TAIL and mapped.dtype.itemsize == 2 == w.expand.dtype.itemsize
    return fits and by_triton(mapped) and torch.cuda.get_device_capability(mapped.device) >= TAIL_CAPABILITY


@functools.cache
def _import_triton() -> None:
    try:
        import triton  # noqa: F401
    except ImportError as error:
        raise UserError(
            f'{SWITCH} asks for kernels of triton, which cannot be imported here ({error}): install it, or leave the '
            f'variable out.'
        ) from error


class Launch(NamedTuple):
    """A kernel with all that it takes, to run it or to compile it.

    Attributes:
        kernel: What ``triton.jit`` made of a function.
        grid: Number of programs, in one to three dimensions.
        arguments: Tensors and numbers by name.
        constants: What the kernel is compiled for, by name.
        warps: Of 32 threads each, that run a program.
        stages: Iterations of a loop whose loads are under way at once.
    """

    kernel: Any
    grid: tuple[int, ...]
    arguments: Mapping[str, Any]
    constants: Mapping[str, Any]
    warps: int = 4
    stages: int = 2

    def run(self) -> None:
        """Run the kernel on the device of its tensors, which need not be the current one."""
        first = next(one for one in self.arguments.values() if isinstance(one, Tensor))
        with torch.cuda.device_of(first):
            self.kernel[self.grid](**self.arguments, **self.constants, num_warps=self.warps, num_stages=self.stages)
