"""Backward pass of a depthwise convolution, on the CPU several times as fast as torch's.

oneDNN has a depthwise kernel for weights of at most three columns. For wider ones it multiplies blocks of channels with
each other and keeps the diagonal. So here the columns of a wide kernel are computed three at a time, as the weights of
a narrow convolution of the shifted map.
"""

import math
from collections.abc import Iterator

from torch import Tensor
from torch.ops import aten

from .gpu_kernels import by_triton
from .gradient_sums import sum_wide

COLUMNS = 3  # of a weight whose gradient oneDNN computes at once
BAND = 800_000  # elements of a band of the map: it is read once for each shift, so it should stay in the cache


def depthwise_backward(x: Tensor, dy: Tensor, weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of the input, the weight and the bias of a depthwise convolution that keeps the size of the map.

    The input ``x`` and the gradient of the output ``dy`` are (N, H, W, C), the weight is (C, 1, k, k) with k odd.
    """
    if by_triton(x):
        from .triton_depthwise import depthwise_gradients

        return depthwise_gradients(x, dy, weight)
    fast, kernel_size = x.device.type == 'cpu', weight.shape[-1]
    halo = kernel_size // 2
    dx, dweight = convolution_backward(x, dy, weight, [halo, halo], [True, not fast])
    dweight = depthwise_weight_grad(x, dy, kernel_size) if fast else dweight
    return dx.permute(0, 2, 3, 1), dweight, sum_wide(dy, (0, 1, 2))


def depthwise_weight_grad(x: Tensor, dy: Tensor, kernel_size: int) -> Tensor:
    """Gradient of the weight alone, (C, 1, kernel_size, kernel_size); arguments as of :func:`depthwise_backward`."""
    halo, threes = kernel_size // 2, kernel_size // 3
    # The first column and the number of columns of each shift; the number is odd, as centred convolutions need.
    groups = [*((3 * i, 3) for i in range(threes)), *((i, 1) for i in range(3 * threes, kernel_size))]
    total = x.new_zeros(x.shape[-1], 1, kernel_size, kernel_size)
    for band, dband in _bands(x, dy, halo):
        for first, columns in groups:
            narrow = total[..., first : first + columns]
            shifted = _shift(band, first + columns // 2 - halo)
            narrow += convolution_backward(shifted, dband, narrow.contiguous(), [0, columns // 2], [False, True])[1]
    return total


def convolution_backward(
    x: Tensor, dy: Tensor, weight: Tensor, padding: list[int], mask: list[bool]
) -> tuple[Tensor, Tensor]:
    """Gradients of input and weight by torch's kernel, those that ``mask`` asks for."""
    return aten.convolution_backward(
        dy.permute(0, 3, 1, 2),
        x.permute(0, 3, 1, 2),
        weight,
        bias_sizes=None,
        stride=[1, 1],
        padding=padding,
        dilation=[1, 1],
        transposed=False,
        output_padding=[0, 0],
        groups=len(weight),
        output_mask=[*mask, False],
    )[:2]


def _bands(x: Tensor, dy: Tensor, halo: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Cut the maps into bands of a few samples, or of a few rows of one sample.

    A row is padded with ``halo`` zeros before it and one after it, so that a shift by up to ``halo`` columns is one of
    the whole memory: what moves past the end of a row are zeros of the next one.

    Yields:
        A band of x with ``halo`` more rows above and below, zero beyond the map, and the band of dy.
    """
    samples, height, width, channels = x.shape
    padded = width + halo + 1
    rows = max(1, min(height, BAND // (padded * channels)))
    together = max(1, BAND // (padded * channels * (rows + 2 * halo))) if rows == height else 1
    for n in range(0, samples, together):
        for top in range(0, height, rows):
            part = dy[n : n + together, top : top + rows]
            dband = x.new_zeros(len(part), part.shape[1], padded, channels)
            dband[:, :, halo:-1] = part
            # With a margin of memory before and after it to shift into.
            shape = (len(part), part.shape[1] + 2 * halo, padded, channels)
            margin = halo * channels
            memory = x.new_zeros(math.prod(shape) + 2 * margin)
            band = memory[margin : len(memory) - margin].view(shape)
            above, below = max(0, top - halo), min(height, top + rows + halo)
            first = above - top + halo
            band[:, first : first + below - above, halo:-1] = x[n : n + together, above:below]
            yield band, dband


def _shift(band: Tensor, columns: int) -> Tensor:
    """``band`` with every element replaced by the one ``columns`` further right."""
    return band.as_strided(band.shape, band.stride(), band.storage_offset() + columns * band.shape[-1])
