"""Layers shared by the models: LayerNorm on maps, patch convolution, stochastic depth; the paper's initialization."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .precision import map_dtype, without_autocast, working_dtype

VALUES = 1_000_000  # of a map, downsampled at once: 4 MB, which stay in the cache of a CPU


class LayerNorm2d(nn.LayerNorm):
    """LayerNorm over the channels of an (N, C, H, W) map; the output is channels-last.

    torch's kernel accumulates the statistics in fp32 whatever the data type, so fp16 and bf16 maps stay finite.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Normalize (N, C, H, W)."""
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class PatchConv2d(nn.Conv2d):
    """Convolution whose stride is its kernel size, as a linear layer on patches.

    As a matrix product its backward pass takes a third of the time of oneDNN's convolution on the CPU.
    """

    bias: Tensor  # which a Conv2d may lack

    def __init__(self, in_channels: int, out_channels: int, patch_size: int) -> None:
        super().__init__(in_channels, out_channels, patch_size, stride=patch_size)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C, H, W) to (N, out_channels, H // patch_size, W // patch_size), channels-last."""
        side, (samples, _, height, width) = self.kernel_size[0], x.shape
        rows, columns = height // side, width // side
        cropped = x.permute(0, 2, 3, 1)[:, : rows * side, : columns * side]
        patches = cropped.reshape(samples, rows, side, columns, -1).transpose(2, 3).flatten(3)
        weight = self.weight.permute(0, 2, 3, 1).flatten(1)
        dtype = map_dtype(weight)
        work = working_dtype(dtype, x.device)
        if work == dtype:
            return F.linear(patches, weight, self.bias).permute(0, 3, 1, 2)
        with without_autocast(x.device):
            return F.linear(patches.to(work), weight.to(work), self.bias.to(work)).to(dtype).permute(0, 3, 1, 2)


class Downsampling(nn.Sequential):
    """A patch convolution, and the LayerNorm before or behind it.

    Where there is no backward pass rows of patches go through both one after the other: of what lies between there is
    then never a whole map.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C, H, W) to (N, out_channels, H // patch_size, W // patch_size), channels-last."""
        hooked = any(layer._forward_hooks or layer._forward_pre_hooks for layer in self)
        if hooked or torch.is_grad_enabled() or torch.compiler.is_compiling() or torch.jit.is_tracing():
            return super().forward(x)
        side = next(layer.kernel_size[0] for layer in self if isinstance(layer, PatchConv2d))
        rows = x.shape[2] // side
        step = max(1, int(rows * VALUES / x.numel())) * side if x.device.type == 'cpu' else x.shape[2]
        parts = [super(Downsampling, self).forward(x[:, :, i : i + step]) for i in range(0, rows * side, step)]
        return torch.cat(parts, 2) if len(parts) > 1 else parts[0]


class DropPath(nn.Module):
    """Stochastic depth (arXiv 1603.09382): in training drops the branch of samples with probability ``rate``.

    The branches that are kept are scaled up by 1 / (1 - rate).
    """

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        """Drop samples of (N, ...) in training; the identity otherwise."""
        kept = self.draw(len(x))
        if kept is None:
            return x
        mask = kept.to(x.device, x.dtype, non_blocking=True).view(-1, *[1] * (x.ndim - 1))
        return x * (mask / (1 - self.rate))

    @property
    def drops(self) -> bool:
        """Whether samples may be dropped."""
        return self.training and self.rate > 0

    def draw(self, samples: int) -> Tensor | None:
        """Draw which samples keep their branch, on the host to avoid a device synchronization; None if all do."""
        return torch.rand(samples, device='cpu') >= self.rate if self.drops else None

    def extra_repr(self) -> str:
        """The rate, for printing the module."""
        return f'rate={self.rate:.3f}'


def init_truncated_normal(module: nn.Module) -> None:
    """The paper's initialization: truncated normal of std 0.02 for convolutions and linear layers, biases zero."""
    if isinstance(module, (nn.Conv2d, nn.Linear)):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
