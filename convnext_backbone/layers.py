"""The small parts that the models of this package share."""

import torch
from torch import Tensor, nn


def is_channels_last(x: Tensor) -> bool:
    """Whether ``x`` (N, C, H, W) is laid out as NHWC and only as that."""
    return x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()


class LayerNorm2d(nn.LayerNorm):
    """LayerNorm over the channels of an (N, C, H, W) map; the output lies in memory as NHWC (channels-last).

    The statistics are accumulated in fp32 by torch's kernel whatever the dtype, so fp16 and bf16 maps stay finite.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Normalises (N, C, H, W)."""
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class GRN(nn.Module):
    """Global response normalisation of ConvNeXt V2 (arXiv 2301.00808, section 3.2), on (N, H, W, C) maps.

    Stored checkpoints hold its two vectors as (C,), (1, C) or (1, 1, 1, C); all load.
    """

    def __init__(self, channels: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.zeros(channels))
        self.beta = nn.Parameter(torch.zeros(channels))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """Normalises (N, H, W, C)."""
        # A sum of squares over a whole map leaves the range of fp16 at once, hence fp32 for the statistics alone.
        response = torch.linalg.vector_norm(x, dim=(1, 2), keepdim=True, dtype=torch.float32)  # (N, 1, 1, C)
        relative = response / (response.mean(dim=-1, keepdim=True) + self.eps)
        return torch.addcmul(self.beta, self.gamma, x * relative.to(x.dtype)) + x

    def _load_from_state_dict(self, state_dict: dict, prefix: str, *args: object) -> None:
        for name in ('gamma', 'beta'):
            stored = state_dict.get(prefix + name)
            if stored is not None and stored.numel() == max(stored.shape, default=0):
                state_dict[prefix + name] = stored.reshape(-1)
        super()._load_from_state_dict(state_dict, prefix, *args)


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
        if not self.training or self.rate == 0:
            return x
        keep = 1 - self.rate
        mask = x.new_empty(x.shape[0], *[1] * (x.ndim - 1)).bernoulli_(keep)
        return x * (mask / keep)

    def extra_repr(self) -> str:
        """What stands in the brackets when the module is printed."""
        return f'rate={self.rate:.3f}'


def init_truncated_normal(module: nn.Module) -> None:
    """The paper's initialisation: truncated normal of std 0.02 for convolutions and linear layers, biases zero."""
    if isinstance(module, (nn.Conv2d, nn.Linear)):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
