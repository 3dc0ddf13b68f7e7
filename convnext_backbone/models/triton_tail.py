"""What follows the depthwise convolution of a V1 block in one kernel, by Triton.

A program takes a tile of rows through LayerNorm, both linear layers, GELU, layer scale and the sum; hidden values never
reach the memory. V2 is left to torch, as GRN needs all hidden values of a sample before the second layer, and so is the
backward pass.
"""

import triton
import triton.language as tl
from torch import Tensor

from .block_weights import Weights
from .gpu_kernels import Launch

_ROWS = 64  # of a tile
_HIDDEN = 32  # columns of the hidden map at a time


def tail(mapped: Tensor, shortcut: Tensor, w: Weights, eps: float, out: Tensor) -> Launch:
    """Launch of ``out = shortcut + scale * (project @ gelu(expand @ layer_norm(mapped)))``, with the biases.

    Args:
        mapped: The output of the depthwise convolution, (N, H, W, C), contiguous, in the type of the products' weights.
        shortcut: The input of the block, in the same shape.
        w: Weights of the block.
        eps: Of the LayerNorm.
        out: Is written; may be ``mapped``.
    """
    channels = mapped.shape[-1]
    count = mapped.numel() // channels
    block = max(16, triton.next_power_of_2(channels))
    names = ('norm', 'norm_bias', 'expand', 'expand_bias', 'project', 'project_bias', 'scale')
    arguments = dict(mapped=mapped, shortcut=shortcut, out=out, **{name: getattr(w, name) for name in names})
    return Launch(
        _tail,
        (triton.cdiv(count, _ROWS),),
        arguments | dict(count=count, eps=eps),
        dict(channels=channels, rows=_ROWS, block=block, hidden_block=_HIDDEN),
        warps=4 if block <= 128 else 8,
    )


@triton.jit
def _product(a: tl.tensor, b: tl.tensor) -> tl.tensor:
    """A matrix product of half precision, summed in fp32."""
    return tl.dot(a, b)


@triton.jit
def _tail(
    mapped: tl.tensor,
    shortcut: tl.tensor,
    out: tl.tensor,
    norm: tl.tensor,
    norm_bias: tl.tensor,
    expand: tl.tensor,
    expand_bias: tl.tensor,
    project: tl.tensor,
    project_bias: tl.tensor,
    scale: tl.tensor,
    count: tl.tensor,
    eps: tl.tensor,
    channels: tl.constexpr,
    rows: tl.constexpr,
    block: tl.constexpr,
    hidden_block: tl.constexpr,
) -> None:
    """A tile of rows, all channels at once and hidden values block by block."""
    dtype = expand.dtype.element_ty
    row = tl.program_id(0).to(tl.int64) * rows + tl.arange(0, rows)
    channel = tl.arange(0, block)
    inside = channel < channels
    offsets = row[:, None] * channels + channel[None, :]
    mask = (row < count)[:, None] & inside[None, :]
    x = tl.load(mapped + offsets, mask=mask, other=0.0).to(tl.float32)
    centred = tl.where(inside[None, :], x - (tl.sum(x, axis=1) / channels)[:, None], 0.0)
    deviation = tl.sqrt(tl.sum(centred * centred, axis=1) / channels + eps)
    gains = tl.load(norm + channel, mask=inside, other=0.0)[None, :]
    normed = centred / deviation[:, None] * gains + tl.load(norm_bias + channel, mask=inside, other=0.0)[None, :]
    normed = normed.to(dtype)
    branch = tl.zeros((rows, block), tl.float32)
    for first in range(0, 4 * channels, hidden_block):
        hidden = first + tl.arange(0, hidden_block)
        exists = hidden < 4 * channels
        both = exists[None, :] & inside[:, None]
        weights = tl.load(expand + hidden[None, :] * channels + channel[:, None], mask=both, other=0.0)
        h = _product(normed, weights)
        h += tl.load(expand_bias + hidden, mask=exists, other=0.0).to(tl.float32)[None, :]
        h = 0.5 * h * (1.0 + tl.erf(h * 0.7071067811865476))
        both = exists[:, None] & inside[None, :]
        weights = tl.load(project + channel[None, :] * (4 * channels) + hidden[:, None], mask=both, other=0.0)
        branch += _product(h.to(dtype), weights)
    branch += tl.load(project_bias + channel, mask=inside, other=0.0).to(tl.float32)[None, :]
    if scale is not None:
        branch *= tl.load(scale + channel, mask=inside, other=0.0).to(tl.float32)[None, :]
    tl.store(out + offsets, tl.load(shortcut + offsets, mask=mask, other=0.0).to(tl.float32) + branch, mask=mask)
