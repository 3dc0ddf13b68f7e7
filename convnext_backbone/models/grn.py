"""Global response normalization of ConvNeXt V2 (arXiv 2301.00808, section 3.2): the layer and in-place kernels."""

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from .gradient_sums import sum_wide

GRN_EPS = 1e-6
SQUARES = 500_000  # of a map, summed at once: 2 MB, which stay in the cache of a CPU


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


class Gain(NamedTuple):
    """What :func:`grn_` multiplies maps by, (N, 1, C), with its parts for :func:`grn_backward_`."""

    gain: Tensor
    norms: Tensor
    mean: Tensor
    relative: Tensor


def grn_(x: Tensor, gamma: Tensor, beta: Tensor) -> Gain:
    """:class:`GRN` of (N, H * W, C) in place."""
    norms = _norms(x)
    mean = mean_norm(norms)
    relative = norms / mean
    gain = 1 + gamma * relative
    torch.addcmul(_like(beta, x), x, _like(gain, x), out=x)
    return Gain(gain, norms, mean, relative)


def grn_backward_(dout: Tensor, x: Tensor, gain: Gain, gamma: Tensor) -> tuple[Tensor, Tensor]:
    """Turn the gradient of :class:`GRN`'s output, ``dout``, into that of its input ``x``, both (N, H * W, C), in place.

    ``gain`` is what :func:`grn_` returned. Returns the gradients of gamma and beta.
    """
    dgain = (dout * x).sum(1, keepdim=True, dtype=gain.norms.dtype)
    drelative, of_gamma = gamma * dgain, gain.relative * dgain
    dnorms = drelative.sub(of_gamma @ gamma[:, None].to(dgain.dtype), alpha=1 / len(gamma)) / gain.mean
    dbeta = sum_wide(dout, (0, 1))
    along = torch.nan_to_num(dnorms / gain.norms, 0, 0, 0)  # the norm of a map of zeros has no gradient
    dout.mul_(_like(gain.gain, x)).addcmul_(x, _like(along, x))
    return of_gamma.sum((0, 1)), dbeta


def _norms(x: Tensor) -> Tensor:
    """L2 norms over the positions of (N, H * W, C), as of :func:`channel_norms` but without a gradient.

    On a CPU as sums of squares: torch's norm over rows takes 2 to 25 times as long.
    """
    if x.device.type != 'cpu':
        return channel_norms(x, dim=1)
    wide = torch.promote_types(x.dtype, torch.float32)
    total = x.new_zeros(len(x), 1, x.shape[2], dtype=wide)
    for part in x.split(max(1, SQUARES // max(1, total.numel())), dim=1):
        total += part.to(wide).square().sum(1, keepdim=True)
    return total.sqrt_()


def _like(vector: Tensor, x: Tensor) -> Tensor:
    """A vector in the data type of a map, where mixed types would cost a CPU a copy of the map."""
    return vector.to(x.dtype) if x.device.type == 'cpu' else vector
