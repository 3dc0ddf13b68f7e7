"""The small parts that the models of this package share."""

from contextlib import AbstractContextManager, nullcontext

import torch
import torch.nn.functional as F
from torch import Tensor, nn

GRN_EPS = 1e-6


def is_channels_last(x: Tensor) -> bool:
    """Whether ``x`` (N, C, H, W) is laid out as NHWC and only as that."""
    return x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()


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


class LayerNorm2d(nn.LayerNorm):
    """LayerNorm over the channels of an (N, C, H, W) map; the output lies in memory as NHWC (channels-last).

    The statistics are accumulated in fp32 by torch's kernel whatever the dtype, so fp16 and bf16 maps stay finite.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Normalises (N, C, H, W)."""
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class PatchConv2d(nn.Conv2d):
    """A convolution whose stride is its kernel: a linear layer on patches that do not overlap.

    As a matrix product its backward pass takes a third of the time that oneDNN's convolution does on the CPU.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        patch_size: Sides of a patch, in positions.
    """

    def __init__(self, in_channels: int, out_channels: int, patch_size: int) -> None:
        super().__init__(in_channels, out_channels, patch_size, stride=patch_size)

    def forward(self, x: Tensor) -> Tensor:
        """Maps (N, C, H, W) to (N, out_channels, H // patch_size, W // patch_size), channels-last."""
        (side, _), (samples, _, height, width) = self.kernel_size, x.shape
        rows, columns = height // side, width // side
        whole = x.permute(0, 2, 3, 1)[:, : rows * side, : columns * side]
        patches = whole.reshape(samples, rows, side, columns, -1).transpose(2, 3).flatten(3)
        weight = self.weight.permute(0, 2, 3, 1).flatten(1)
        dtype = map_dtype(weight)
        work = working_dtype(dtype, x.device)
        if work == dtype:
            return F.linear(patches, weight, self.bias).permute(0, 3, 1, 2)
        with without_autocast(x.device):
            return F.linear(patches.to(work), weight.to(work), self.bias.to(work)).to(dtype).permute(0, 3, 1, 2)


class GRN(nn.Module):
    """Global response normalisation of ConvNeXt V2 (arXiv 2301.00808, section 3.2), on (N, H, W, C) maps.

    Stored checkpoints hold its two vectors as (C,), (1, C) or (1, 1, 1, C); all load.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.zeros(channels))
        self.beta = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        """Normalises (N, H, W, C)."""
        response = map_norms(x, dim=(1, 2))  # (N, 1, 1, C)
        relative = response / mean_norm(response)
        return torch.addcmul(self.beta, self.gamma, x * relative.to(x.dtype)) + x

    def _load_from_state_dict(self, state_dict: dict, prefix: str, *args: object) -> None:
        for name in ('gamma', 'beta'):
            stored = state_dict.get(prefix + name)
            if stored is not None and stored.numel() == max(stored.shape, default=0):
                state_dict[prefix + name] = stored.reshape(-1)
        super()._load_from_state_dict(state_dict, prefix, *args)


def map_norms(x: Tensor, dim: int | tuple[int, ...]) -> Tensor:
    """The norm of each channel's map, with ``dim`` of one entry each, in fp32 at least.

    A sum of squares over a whole map leaves the range of fp16 at once.
    """
    return torch.linalg.vector_norm(x, dim=dim, keepdim=True, dtype=torch.promote_types(x.dtype, torch.float32))


def mean_norm(norms: Tensor) -> Tensor:
    """What GRN divides the channels' norms by: their mean, kept away from zero."""
    return norms.mean(dim=-1, keepdim=True) + GRN_EPS


def grn_(x: Tensor, gamma: Tensor, beta: Tensor) -> Tensor:
    """What :class:`GRN` does, in place.

    Args:
        x: (N, H * W, C).
        gamma: (C,).
        beta: (C,).

    Returns:
        What :func:`map_norms` gives, (N, 1, C), for :func:`grn_backward_`.
    """
    response = map_norms(x, dim=1)
    relative = response / mean_norm(response)
    torch.addcmul(beta, x, (1 + gamma * relative).to(x.dtype), out=x)
    return response


def grn_backward_(dout: Tensor, x: Tensor, response: Tensor, gamma: Tensor) -> tuple[Tensor, Tensor]:
    """The gradient of :class:`GRN`'s input, in place of that of its output.

    Args:
        dout: The gradient of the output, (N, H * W, C); becomes that of the input.
        x: The input.
        response: What :func:`grn_` returned.
        gamma: (C,).

    Returns:
        The gradients of gamma and beta.
    """
    mean = mean_norm(response)
    relative = response / mean
    dgained = (dout * x).sum(1, keepdim=True, dtype=response.dtype)  # of what a channel's map is multiplied with
    drelative = gamma * dgained
    dresponse = (drelative - (drelative * relative).mean(dim=-1, keepdim=True)) / mean
    dbeta = dout.sum((0, 1))
    # A channel that is zero everywhere has no direction to grow in.
    along = torch.where(response > 0, dresponse / response, 0)
    dout.mul_((1 + gamma * relative).to(x.dtype)).addcmul_(x, along.to(x.dtype))
    return (relative * dgained).sum((0, 1)), dbeta


class DropPath(nn.Module):
    """Stochastic depth (arXiv 1603.09382): drops the branch of whole samples in training, scales the others up.

    Args:
        rate: Probability of a drop, in [0, 1).
    """

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        """Drops samples of (N, ...) in training; the identity otherwise."""
        kept = self.draw(len(x))
        if kept is None:
            return x
        mask = kept.to(x.device, x.dtype).view(-1, *[1] * (x.ndim - 1))
        return x * (mask / (1 - self.rate))

    def draw(self, samples: int) -> Tensor | None:
        """Which samples keep their branch: booleans on the host, so that no device is waited for; None if all do."""
        if not self.training or self.rate == 0:
            return None
        return torch.rand(samples, device='cpu') >= self.rate

    def extra_repr(self) -> str:
        """What stands in the brackets when the module is printed."""
        return f'rate={self.rate:.3f}'


def has_hooks(module: nn.Module) -> bool:
    """Whether someone watches or changes what goes through the module."""
    hooks = ('_forward_hooks', '_forward_pre_hooks', '_backward_hooks', '_backward_pre_hooks')
    return any(getattr(module, name) for name in hooks)


def may_be_transformed() -> bool:
    """Whether torch.func may be at work. What tells is private, so looked for: without it, it always may."""
    active = getattr(torch._C, '_are_functorch_transforms_active', None)
    return active is None or active()


def init_truncated_normal(module: nn.Module) -> None:
    """The paper's initialisation: truncated normal of std 0.02 for convolutions and linear layers, biases zero."""
    if isinstance(module, (nn.Conv2d, nn.Linear)):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
