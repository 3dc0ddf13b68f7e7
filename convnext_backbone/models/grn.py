"""Global response normalisation of ConvNeXt V2 (arXiv 2301.00808, section 3.2), as a layer and as in-place kernels."""

import torch
from torch import Tensor, nn

GRN_EPS = 1e-6


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
