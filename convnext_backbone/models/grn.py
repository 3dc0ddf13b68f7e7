"""Global response normalization of ConvNeXt V2 (arXiv 2301.00808, section 3.2): the layer and in-place kernels."""

from typing import Any

import torch
from torch import Tensor, nn

GRN_EPS = 1e-6


class GRN(nn.Module):
    """Global response normalization of (N, H, W, C) maps.

    Checkpoints store its two vectors as (C,), (1, C) or (1, 1, 1, C); all load.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.zeros(channels))
        self.beta = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        """Normalize (N, H, W, C)."""
        norms = channel_norms(x, dim=(1, 2))  # (N, 1, 1, C)
        relative = norms / mean_norm(norms)
        return torch.addcmul(self.beta, self.gamma, x * relative.to(x.dtype)) + x

    def _load_from_state_dict(self, state_dict: dict, prefix: str, *args: Any) -> None:
        for name in ('gamma', 'beta'):
            stored = state_dict.get(prefix + name)
            if stored is not None and stored.numel() == max(stored.shape, default=0):
                state_dict[prefix + name] = stored.reshape(-1)
        super()._load_from_state_dict(state_dict, prefix, *args)


def channel_norms(x: Tensor, dim: int | tuple[int, ...]) -> Tensor:
    """L2 norms over the positions ``dim``, kept with size 1, in fp32 at least: the sum of squares overflows fp16."""
    return torch.linalg.vector_norm(x, dim=dim, keepdim=True, dtype=torch.promote_types(x.dtype, torch.float32))


def mean_norm(norms: Tensor) -> Tensor:
    """Mean norm of the channels, kept away from zero."""
    return norms.mean(dim=-1, keepdim=True) + GRN_EPS


def grn_(x: Tensor, gamma: Tensor, beta: Tensor) -> Tensor:
    """:class:`GRN` of (N, H * W, C) in place; returns :func:`channel_norms`, (N, 1, C), for :func:`grn_backward_`."""
    norms = channel_norms(x, dim=1)
    relative = norms / mean_norm(norms)
    torch.addcmul(beta.to(x.dtype), x, (1 + gamma * relative).to(x.dtype), out=x)
    return norms


def grn_backward_(dout: Tensor, x: Tensor, norms: Tensor, gamma: Tensor) -> tuple[Tensor, Tensor]:
    """Turn the gradient of :class:`GRN`'s output, ``dout``, into that of its input ``x``, both (N, H * W, C), in place.

    ``norms`` is what :func:`grn_` returned. Returns the gradients of gamma and beta.
    """
    mean = mean_norm(norms)
    relative = norms / mean
    dgain = (dout * x).sum(1, keepdim=True, dtype=norms.dtype)  # of the factor of a channel's map
    drelative = gamma * dgain
    dnorms = (drelative - (drelative * relative).mean(dim=-1, keepdim=True)) / mean
    dbeta = dout.sum((0, 1), dtype=norms.dtype)
    # The norm of a map of zeros has no gradient.
    along = torch.where(norms > 0, dnorms / norms, 0)
    dout.mul_((1 + gamma * relative).to(x.dtype)).addcmul_(x, along.to(x.dtype))
    return (relative * dgain).sum((0, 1)), dbeta
