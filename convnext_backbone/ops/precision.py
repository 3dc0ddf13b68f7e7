"""The data types in which the operators compute."""

import torch
from torch import Tensor

NARROW = torch.float16, torch.bfloat16


def widen(tensor: Tensor) -> Tensor:
    """A 16-bit tensor in fp32, in which torchvision has kernels on every device and sums keep their precision."""
    return tensor.float() if tensor.dtype in NARROW else tensor
