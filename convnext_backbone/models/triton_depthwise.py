"""Depthwise convolution of channels-last maps on a GPU, by Triton: forward, and the gradients of input and weights.

Each program of the convolution computes a tile of positions by channels; what tiles and taps share comes from the
cache. The gradient of the weights has no atomics: programs write sums of their own, which torch adds up, so that two
runs are equal bit for bit. All sums are in fp32.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from .gpu_kernels import Launch

_SIDE = 8  # of a tile of positions
_CHANNELS = 32  # of a tile: 64 bytes a position in half precision; all but the smallest architectures have multiples
_POSITIONS = 16  # of a tile of the weight gradient, which has a sum for each of them and for each column of the filter
_PROGRAMS = 2048  # of the weight gradient: enough for any GPU, and the same on all, as the order of sums follows it


def depthwise(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Depthwise convolution that keeps the size of the map.

    Args:
        x: The map, (N, H, W, C), contiguous, in fp32, fp16 or bf16.
        weight: Of (C, 1, k, k), k odd.
        bias: Of (C,).

    Returns:
        The output, in shape and type of ``x``.
    """
    out = torch.empty_like(x)
    convolution(x, weight, bias, out).run()
    return out


def depthwise_gradients(x: Tensor, dy: Tensor, weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of input, weight and bias of :func:`depthwise`, the last two in fp32.

    The input ``x`` and the gradient of the output ``dy`` are (N, H, W, C), contiguous, the weight is (C, 1, k, k).
    """
    dx = torch.empty_like(dy)
    convolution(dy, weight, None, dx).run()
    size, (*_, channels) = weight.shape[-1], x.shape
    launch = weight_gradient(x, dy, size)
    launch.run()
    sums = launch.arguments['partial'].sum(0)  # (k, columns, C)
    return dx, sums[:, :size].permute(2, 0, 1).reshape(channels, 1, size, size), sums[0, size]


def convolution(x: Tensor, weight: Tensor, bias: Tensor | None, out: Tensor) -> Launch:
    """Launch of the convolution; with no bias that of the gradient of its input, whose filter is the other way round.

    Arguments are as of :func:`depthwise`.
    """
    samples, height, width, channels = x.shape
    tiles = triton.cdiv(height, _SIDE) * triton.cdiv(width, _SIDE)
    size = weight.shape[-1]
    # With the channels last, for loads as wide as the map's, and in fp32, as each program would convert them.
    filters = weight.new_empty(size * size, channels, dtype=torch.float32).copy_(weight.flatten(1).T)
    return Launch(
        _convolve,
        (samples * tiles, triton.cdiv(channels, _CHANNELS)),
        dict(x=x, weight=filters, bias=bias, out=out, height=height, width=width),
        dict(channels=channels, size=size, side=_SIDE, block=_CHANNELS),
    )


def weight_gradient(x: Tensor, dy: Tensor, size: int) -> Launch:
    """Launch of the gradients of a filter of ``size`` columns and of the bias, as partial sums.

    They go to its argument ``partial``, (splits, size, columns, C): the column after those of the filter has the sums
    of ``dy``, and what follows are zeros. Other arguments are as of :func:`depthwise_gradients`.
    """
    samples, height, width, channels = x.shape
    blocks, tiles = triton.cdiv(channels, _CHANNELS), samples * triton.cdiv(height * width, _POSITIONS)
    splits = max(1, min(tiles, _PROGRAMS // (size * blocks)))
    columns = triton.next_power_of_2(size + 1)
    partial = x.new_empty(splits, size, columns, channels, dtype=torch.float32)
    arguments = dict(x=x, dy=dy, partial=partial, height=height, width=width, tiles=tiles)
    constants = dict(channels=channels, size=size, columns=columns, positions=_POSITIONS, block=_CHANNELS)
    return Launch(_sum_gradients, (size, blocks, splits), arguments, constants)


@triton.jit
def _convolve(
    x: tl.tensor,
    weight: tl.tensor,
    bias: tl.tensor,
    out: tl.tensor,
    height: tl.tensor,
    width: tl.tensor,
    channels: tl.constexpr,
    size: tl.constexpr,
    side: tl.constexpr,
    block: tl.constexpr,
) -> None:
    """A tile of side x side positions by a block of channels."""
    across = tl.cdiv(width, side)
    tiles = across * tl.cdiv(height, side)
    sample = (tl.program_id(0) // tiles).to(tl.int64) * (height * width * channels)
    tile = tl.program_id(0) % tiles
    place = tl.arange(0, side * side)
    row, column = tile // across * side + place // side, tile % across * side + place % side
    channel = tl.program_id(1) * block + tl.arange(0, block)
    inside = channel < channels
    total = tl.zeros((side * side, block), tl.float32)
    if bias is not None:
        total += tl.load(bias + channel, mask=inside, other=0.0).to(tl.float32)[None, :]
    for i in range(size):
        y = row + i - size // 2
        for j in tl.static_range(size):
            z = column + j - size // 2
            there = (y >= 0) & (y < height) & (z >= 0) & (z < width)
            offsets = (y * width + z)[:, None] * channels + channel[None, :]
            values = tl.load(x + sample + offsets, mask=there[:, None] & inside[None, :], other=0.0)
            tap = i * size + j
            if bias is None:
                tap = size * size - 1 - tap
            factors = tl.load(weight + tap * channels + channel, mask=inside, other=0.0)
            total += values.to(tl.float32) * factors[None, :]
    offsets = (row * width + column)[:, None] * channels + channel[None, :]
    there = (row < height) & (column < width)
    tl.store(out + sample + offsets, total, mask=there[:, None] & inside[None, :])


@triton.jit
def _sum_gradients(
    x: tl.tensor,
    dy: tl.tensor,
    partial: tl.tensor,
    height: tl.tensor,
    width: tl.tensor,
    tiles: tl.tensor,
    channels: tl.constexpr,
    size: tl.constexpr,
    columns: tl.constexpr,
    positions: tl.constexpr,
    block: tl.constexpr,
) -> None:
    """One row of the filters of a block of channels, over a share of the tiles of positions of all samples."""
    i, split = tl.program_id(0), tl.program_id(2)
    channel = tl.program_id(1) * block + tl.arange(0, block)
    inside = channel < channels
    j = tl.arange(0, columns)
    in_sample = tl.cdiv(height * width, positions)
    each = tl.cdiv(tiles, tl.num_programs(2))
    total = tl.zeros((columns, positions, block), tl.float32)
    for tile in range(split * each, tl.minimum(split * each + each, tiles)):
        sample = (tile // in_sample).to(tl.int64) * (height * width * channels)
        place = tile % in_sample * positions + tl.arange(0, positions)
        on_map = place < height * width
        offsets = place[:, None] * channels + channel[None, :]
        slopes = tl.load(dy + sample + offsets, mask=on_map[:, None] & inside[None, :], other=0.0)
        y = place // width + i - size // 2
        z = (place % width)[None, :] + j[:, None] - size // 2
        there = (on_map & (y >= 0) & (y < height))[None, :] & (z >= 0) & (z < width) & (j < size)[:, None]
        offsets = ((y * width)[None, :] + z)[:, :, None] * channels + channel[None, None, :]
        values = tl.load(x + sample + offsets, mask=there[:, :, None] & inside[None, None, :], other=0.0)
        values = tl.where((j == size)[:, None, None], 1.0, values.to(tl.float32))  # by which dy itself is summed
        total += values * slopes.to(tl.float32)[None, :, :]
    offsets = ((split * size + i) * columns + j)[:, None] * channels + channel[None, :]
    tl.store(partial + offsets, tl.sum(total, axis=1), mask=(j < columns)[:, None] & inside[None, :])
