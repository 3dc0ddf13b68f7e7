"""The gradient of a depthwise convolution's weights on the CPU, several times as fast as torch's.

oneDNN has a depthwise kernel for weights of at most three columns. For wider ones it multiplies blocks of channels with
each other and keeps the diagonal. So the columns of a wide kernel are taken three at a time, as the weights of a narrow
convolution of the map shifted sideways.
"""

from collections.abc import Iterator

from torch import Tensor
from torch.ops import aten

BAND = 800_000  # elements of a band of the map: it is read once for each shift, so it should stay in the cache


def depthwise_weight_grad(x: Tensor, dy: Tensor, kernel_size: int) -> Tensor:
    """The gradient of the weights of a depthwise convolution of stride 1 whose output is as large as its input.

    Args:
        x: The input, (N, H, W, C).
        dy: The gradient of the output, of the same shape.
        kernel_size: Of both sides; odd.

    Returns:
        (C, 1, kernel_size, kernel_size).
    """
    channels, halo = x.shape[-1], kernel_size // 2
    total = x.new_zeros(channels, 1, kernel_size, kernel_size)
    for part, dpart in _bands(x, dy, halo):
        for first, columns in _groups(kernel_size):
            narrow = total[..., first : first + columns]
            narrow += aten.convolution_backward(
                dpart.permute(0, 3, 1, 2),
                _shift(part, first + columns // 2 - halo).permute(0, 3, 1, 2),
                narrow.contiguous(),
                bias_sizes=None,
                stride=[1, 1],
                padding=[0, columns // 2],
                dilation=[1, 1],
                transposed=False,
                output_padding=[0, 0],
                groups=channels,
                output_mask=[False, True, False],
            )[1]
    return total


def _groups(kernel_size: int) -> Iterator[tuple[int, int]]:
    """The kernel's columns by threes, then one by one: first column and number, odd as a centred convolution needs."""
    threes = kernel_size // 3
    yield from ((3 * i, 3) for i in range(threes))
    yield from ((i, 1) for i in range(3 * threes, kernel_size))


def _bands(x: Tensor, dy: Tensor, halo: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Cuts the maps into a few samples, or a few rows of one.

    A row gets ``halo`` zeros before it and one after it, so that a shift by up to ``halo`` columns is one of the whole
    memory: what it moves over the end of a row are zeros of the next one.

    Yields:
        A band of x with ``halo`` more rows on both sides, which are zero beyond the map, and the band of dy.
    """
    samples, height, width, channels = x.shape
    row = (width + halo + 1) * channels
    rows = max(1, min(height, BAND // row))
    together = max(1, BAND // (row * (rows + 2 * halo))) if rows == height else 1
    for n in range(0, samples, together):
        for top in range(0, height, rows):
            band = dy[n : n + together, top : top + rows]
            shape = (len(band), band.shape[1], width + halo + 1, channels)
            dpart = x.new_zeros(shape)
            dpart[:, :, halo:-1] = band
            part = _padded(shape, halo, x)
            above, below = max(0, top - halo), min(height, top + rows + halo)
            first = above - top + halo
            part[:, first : first + below - above, halo:-1] = x[n : n + together, above:below]
            yield part, dpart


def _padded(shape: tuple[int, ...], halo: int, like: Tensor) -> Tensor:
    """Zeros for a band and its halo, with memory to shift into before and after them."""
    samples, rows, width, channels = shape
    shape = (samples, rows + 2 * halo, width, channels)
    margin = halo * channels
    memory = like.new_zeros(samples * (rows + 2 * halo) * width * channels + 2 * margin)
    return memory[margin : memory.numel() - margin].view(shape)


def _shift(part: Tensor, columns: int) -> Tensor:
    """``part`` with every element from so many columns further right."""
    offset = part.storage_offset() + columns * part.shape[-1]
    return part.as_strided(part.shape, part.stride(), offset)
