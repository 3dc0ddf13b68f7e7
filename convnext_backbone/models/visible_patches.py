"""Masked images of which only the visible patches are kept, and their depthwise convolution.

The masks of FCMAE are drawn in patches (arXiv 2301.00808, section 3.1), which are squares of positions at each stage. A
map has the visible ones alone, (N, K, side * side, C): K patches of each image, and the positions of each row by row.
All layers but the depthwise convolution work on single positions or inside a patch, and take it as any other map.
"""

from collections.abc import Callable, Iterator
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor

from .block_weights import Weights
from .depthwise_grad import BAND, COLUMNS, convolution_backward, depthwise_backward
from .gradient_sums import sum_wide

HALO = 3  # positions that a 7x7 convolution reads beyond those that it computes
LEAST_SIDE = 4  # of patches that a CPU convolves one by one: of smaller ones with their halo, most is halo


class VisiblePatches:
    """Where the visible patches of masked images are in the map of a stage.

    Args:
        indices: The visible patches of each image, (N, K), counted row by row.
        grid: Rows and columns of patches in an image.
        side: Positions along a side of a patch.
    """

    def __init__(self, indices: Tensor, grid: tuple[int, int], side: int) -> None:
        self._indices, self._grid, self._side = indices, grid, side

    def take(self, kept: Tensor | None) -> 'VisiblePatches':
        """Those of some of the images, of which the indices are given; None for all."""
        return self if kept is None else VisiblePatches(self._indices[kept], self._grid, self._side)

    def apply(self, layer: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        """Apply a layer to whole maps, zero where they are masked; channels first, (N, C, K, side * side)."""
        whole = layer(self._spread(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2))
        return self._collect(whole.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)

    def depthwise(self, x: Tensor, w: Weights, of_whole: Callable[[Tensor, Weights], Tensor]) -> Tensor:
        """Depthwise convolution of (N, K, side * side, C); ``of_whole`` is that of whole maps (N, H, W, C)."""
        x = x.to(w.conv.dtype)
        if not self._goes_one_by_one(x):
            return self._collect(of_whole(self._spread(x), w))
        out = torch.empty_like(x)
        for own, (around,) in self._bands(x):
            _squares(out, self._side)[own] = _convolve(around, w.conv, w.conv_bias)
        return out

    def depthwise_backward(self, x: Tensor, dy: Tensor, weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Gradients of input, weight and bias, as :func:`.depthwise_backward` has them of whole maps."""
        if not self._goes_one_by_one(x):
            dx, dweight, dbias = depthwise_backward(self._spread(x), self._spread(dy), weight)
            return self._collect(dx), dweight, dbias
        # What is masked gets no gradient and gives none: that of the input is the convolution with flipped weights.
        dx, flipped, dweight = torch.empty_like(x), weight.flip(2, 3), torch.zeros_like(weight)
        for own, (around, daround) in self._bands(x, dy):
            _squares(dx, self._side)[own] = _convolve(daround, flipped, None)
            _add_weight_grad(dweight, around, _squares(dy, self._side)[own])
        return dx, dweight, sum_wide(dy, (0, 1, 2))

    def _goes_one_by_one(self, x: Tensor) -> bool:
        return x.device.type == 'cpu' and self._side >= LEAST_SIDE

    def _spread(self, x: Tensor) -> Tensor:
        """Whole maps (N, H, W, C), zero where they are masked."""
        height, width = self._size()
        whole = x.new_zeros(len(x) * height * width, x.shape[-1])
        return whole.index_copy(0, self._places, x.reshape(-1, x.shape[-1])).view(len(x), height, width, x.shape[-1])

    def _collect(self, whole: Tensor) -> Tensor:
        """The visible positions of whole maps (N, H, W, C)."""
        positions = whole.reshape(-1, whole.shape[-1]).index_select(0, self._places)
        return positions.view(*self._indices.shape, self._side**2, whole.shape[-1])

    def _bands(self, *maps: Tensor) -> Iterator[tuple[slice, list[Tensor]]]:
        """Cut maps into bands of patches, which stay in the cache.

        Yields:
            Which of all patches they are, and of each map these with a halo, zero where that is masked.
        """
        channels, side = maps[0].shape[-1], self._side + 2 * HALO
        positions = [F.pad(x.reshape(-1, channels), (0, 0, 0, 1)) for x in maps]  # the last for all that is masked
        sources = self._sources.view(-1, side * side)
        step = max(1, BAND // (side * side * channels))
        for first in range(0, len(sources), step):
            own = slice(first, first + step)
            index = sources[own].flatten()
            yield own, [x.index_select(0, index).view(-1, side, side, channels) for x in positions]

    def _size(self, halo: int = 0) -> tuple[int, int]:
        """Height and width of a whole map, with a halo around it."""
        rows, columns = self._grid
        return rows * self._side + 2 * halo, columns * self._side + 2 * halo

    def _corners(self, halo: int = 0) -> Tensor:
        """Where the positions of each patch are in whole maps, those of its halo too: indices of (N * H * W,)."""
        (height, width), device = self._size(halo), self._indices.device
        along = torch.arange(self._side + 2 * halo, device=device)
        of_image = torch.arange(len(self._indices), device=device)[:, None] * (height * width)
        row, column = self._indices // self._grid[1], self._indices % self._grid[1]
        corners = of_image + (row * width + column) * self._side
        return (corners[..., None, None] + along[:, None] * width + along).flatten()

    @cached_property
    def _places(self) -> Tensor:
        """The index of each visible position in whole maps."""
        return self._corners()

    @cached_property
    def _sources(self) -> Tensor:
        """For each position of :meth:`_bands` which visible position it is; if none, the number of them."""
        number, (height, width) = len(self._places), self._size()
        index = self._places.new_full((len(self._indices) * height * width,), number)
        index[self._places] = torch.arange(number, device=index.device)
        around = F.pad(index.view(-1, height, width), (HALO,) * 4, value=number)
        return around.flatten()[self._corners(HALO)]


def _convolve(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Depthwise convolution of (M, H, W, C) without padding."""
    return F.conv2d(x.permute(0, 3, 1, 2), weight, bias, groups=x.shape[-1]).permute(0, 2, 3, 1)


def _add_weight_grad(total: Tensor, x: Tensor, dy: Tensor) -> None:
    """Add the gradient of the weight of :func:`_convolve`, some columns at a time: see :mod:`.depthwise_grad`."""
    for first in range(0, total.shape[-1], COLUMNS):
        narrow = total[..., first : first + COLUMNS]
        part = x[:, :, first : first + dy.shape[2] + narrow.shape[-1] - 1].contiguous()
        narrow += convolution_backward(part, dy, narrow.contiguous(), [0, 0], [False, True])[1]


def _squares(x: Tensor, side: int) -> Tensor:
    """The patches of a map, (N, K, side * side, C), viewed as (N * K, side, side, C)."""
    return x.view(-1, side, side, x.shape[-1])
