"""RoIAlign and RoIPool: maps of one size out of boxes of all sizes."""

import functools

import torch
import torchvision  # noqa: F401  registers torch.ops.torchvision
from torch import Tensor

from .precision import widen

CHUNK = 2**24  # values that max pooling gathers at a time
LOWEST = -1e4  # what mmcv's max pooling begins with, and gives for a box without an area
NOWHERE = -1  # how it marks that no sample was larger


def roi_align_forward(
    input: Tensor,
    rois: Tensor,
    output: Tensor,
    argmax_y: Tensor,
    argmax_x: Tensor,
    aligned_height: int,
    aligned_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    pool_mode: int,
    aligned: bool,
) -> None:
    """RoIAlign (Mask R-CNN, arXiv 1703.06870).

    Args:
        input: (N, C, H, W).
        rois: (R, 5), the index of the image and the box in pixels.
        output: (R, C, aligned_height, aligned_width), filled.
        argmax_y: As the output, filled by max pooling alone: where the largest sample was taken.
        argmax_x: Likewise.
        aligned_height: Of the output.
        aligned_width: Of the output.
        spatial_scale: Positions of the map a pixel.
        sampling_ratio: Samples a bin in each direction; 0 for as many as the bin has positions.
        pool_mode: 0 takes the largest sample of a bin, 1 the mean.
        aligned: Whether pixel centres are at .5.
    """
    size = aligned_height, aligned_width
    if pool_mode == 1:
        arguments = spatial_scale, *size, sampling_ratio, aligned
        output.copy_(torch.ops.torchvision.roi_align(widen(input), rois.to(widen(input).dtype), *arguments))
    else:
        _align_max(widen(input), rois, (output, argmax_y, argmax_x), size, spatial_scale, sampling_ratio, aligned)


def roi_align_backward(
    grad_output: Tensor,
    rois: Tensor,
    argmax_y: Tensor,
    argmax_x: Tensor,
    grad_input: Tensor,
    aligned_height: int,
    aligned_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    pool_mode: int,
    aligned: bool,
) -> None:
    """Fills the gradient of the input (N, C, H, W)."""
    grad = widen(grad_output)
    if pool_mode == 1:
        arguments = spatial_scale, aligned_height, aligned_width, *grad_input.shape, sampling_ratio, aligned
        grad_input.copy_(torch.ops.torchvision._roi_align_backward(grad, rois.to(grad.dtype), *arguments))
        return
    height, width = grad_input.shape[-2:]
    total = torch.zeros_like(grad_input, dtype=grad.dtype).flatten(2)
    image, channel = rois[:, 0].long()[:, None, None, None], torch.arange(total.shape[1], device=grad.device)
    grad = grad * (argmax_y != NOWHERE)
    for row, column, weight in _corners(argmax_y.to(grad.dtype), argmax_x.to(grad.dtype), height, width):
        total.index_put_((image, channel[:, None, None], row * width + column), grad * weight, accumulate=True)
    grad_input.copy_(total.view(grad_input.shape))


def _align_max(
    input: Tensor,
    rois: Tensor,
    targets: tuple[Tensor, Tensor, Tensor],
    size: tuple[int, int],
    scale: float,
    sampling_ratio: int,
    aligned: bool,
) -> None:
    """Max pooling, box by box where the number of samples follows the box."""
    boxes = rois[:, 1:].to(input.dtype) * scale - 0.5 * aligned
    sides = (boxes[:, 2:] - boxes[:, :2]).flip(1)  # height, width
    if not aligned:
        sides = sides.clamp(min=1)
    bins = sides / sides.new_tensor(size)
    counts = bins.ceil().long() if sampling_ratio <= 0 else torch.full_like(bins, sampling_ratio, dtype=torch.long)
    channels_last = input.permute(0, 2, 3, 1)
    for roi, (count, image) in enumerate(zip(counts.tolist(), rois[:, 0].long().tolist(), strict=True)):
        y, x = (
            boxes[roi, 1 - axis] + bins[roi, axis] * _centres(size[axis], max(count[axis], 0), bins) for axis in (0, 1)
        )
        for target, values in zip(targets, _largest(channels_last[image], y, x), strict=True):
            target[roi] = values


def _centres(bins: int, count: int, like: Tensor) -> Tensor:
    """(bins, count): where the samples lie, in bins."""
    samples = (torch.arange(count, device=like.device, dtype=like.dtype) + 0.5) / count if count else like.new_empty(0)
    return torch.arange(bins, device=like.device, dtype=like.dtype)[:, None] + samples


def _largest(image: Tensor, y: Tensor, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The largest sample of each bin and where it is, each (C, bins down, bins across).

    Args:
        image: (H, W, C).
        y: (bins down, samples).
        x: (bins across, samples).
    """
    shape = image.shape[-1], len(y), len(x)
    if not y.numel() or not x.numel():
        nowhere = image.new_full(shape, NOWHERE)
        return image.new_full(shape, LOWEST), nowhere, nowhere
    ys, xs = torch.broadcast_tensors(y[:, None, :, None], x[None, :, None, :])  # (down, across, samples, samples)
    ys, xs = ys.flatten(2), xs.flatten(2)
    corners = _corners(ys, xs, *image.shape[:2])
    samples = functools.reduce(torch.add, (weight[..., None] * image[row, column] for row, column, weight in corners))
    values, index = samples.max(2)  # (down, across, C)
    row, column = (torch.where(values > LOWEST, axis.gather(2, index), NOWHERE).permute(2, 0, 1) for axis in (ys, xs))
    return values.clamp(min=LOWEST).permute(2, 0, 1), row, column


def _corners(y: Tensor, x: Tensor, height: int, width: int) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Rows, columns and bilinear weights of the four neighbours of each place; outside of the map all weights are 0."""
    inside = (y >= -1) & (y <= height) & (x >= -1) & (x <= width)
    y, x = y.clamp(0, height - 1), x.clamp(0, width - 1)
    low = y.floor().long(), x.floor().long()
    high = (low[0] + 1).clamp(max=height - 1), (low[1] + 1).clamp(max=width - 1)
    dy, dx = y - low[0], x - low[1]
    return [
        (rows, columns, inside * (1 - dy if rows is low[0] else dy) * (1 - dx if columns is low[1] else dx))
        for rows in (low[0], high[0])
        for columns in (low[1], high[1])
    ]


def roi_pool_forward(
    input: Tensor,
    rois: Tensor,
    output: Tensor,
    argmax: Tensor,
    pooled_height: int,
    pooled_width: int,
    spatial_scale: float,
) -> None:
    """RoIPool (Fast R-CNN, arXiv 1504.08083) over bins that mmcv does not round, as torchvision's does.

    Args:
        input: (N, C, H, W).
        rois: (R, 5), the index of the image and the box in pixels, its last ones included.
        output: (R, C, pooled_height, pooled_width), filled.
        argmax: As the output; the index of the largest value in its H * W, or -1.
        pooled_height: Of the output.
        pooled_width: Of the output.
        spatial_scale: Positions of the map a pixel.
    """
    boxes = widen(rois)[:, 1:]
    start = boxes[:, :2] * spatial_scale
    bins = ((boxes[:, 2:] + 1) * spatial_scale - start) / start.new_tensor([pooled_width, pooled_height])
    empty = (bins <= 0).any(1)[:, None, None]
    columns, rows = (
        _bins(start[:, axis], bins[:, axis], count, input.shape[3 - axis])
        for axis, count in enumerate((pooled_width, pooled_height))
    )
    channels_last, images = input.permute(0, 2, 3, 1), rois[:, 0].long()
    gathered = pooled_height * pooled_width * rows[1].shape[-1] * columns[1].shape[-1] * input.shape[1]
    for chunk in torch.arange(len(rois), device=rois.device).split(max(1, CHUNK // max(gathered, 1))):
        row, column = rows[0][chunk][:, :, None, :, None], columns[0][chunk][:, None, :, None, :]
        valid = rows[1][chunk][:, :, None, :, None] & columns[1][chunk][:, None, :, None, :]
        values = channels_last[images[chunk][:, None, None, None, None], row, column]  # (R, down, across, h, w, C)
        values = values.masked_fill(~valid[..., None], -torch.inf).flatten(3, 4)
        largest, index = values.max(3)
        place = (row * input.shape[3] + column).expand(valid.shape).flatten(3).gather(3, index)
        nothing = ~valid.flatten(3).any(3) | empty[chunk]
        output[chunk] = largest.masked_fill(nothing[..., None], 0).permute(0, 3, 1, 2)
        argmax[chunk] = place.masked_fill(nothing[..., None], -1).permute(0, 3, 1, 2).to(argmax.dtype)


def _bins(start: Tensor, size: Tensor, count: int, length: int) -> tuple[Tensor, Tensor]:
    """The positions of each bin along one axis, (R, bins, longest), and which of them it has."""
    edges = start[:, None] + size[:, None] * torch.arange(count + 1, device=start.device)
    first = edges[:, :-1].floor().long().clamp(0, length)[..., None]
    last = edges[:, 1:].ceil().long().clamp(0, length)[..., None]
    longest = int((last - first).max().clamp(min=1)) if len(start) else 1
    positions = first + torch.arange(longest, device=start.device)
    return positions.clamp(max=length - 1), positions < last


def roi_pool_backward(
    grad_output: Tensor,
    rois: Tensor,
    argmax: Tensor,
    grad_input: Tensor,
    pooled_height: int,
    pooled_width: int,
    spatial_scale: float,
) -> None:
    """Fills the gradient of the input: each output's goes to where its value was taken."""
    image, channel = rois[:, 0].long()[:, None, None, None], torch.arange(argmax.shape[1], device=argmax.device)
    index = (image, channel[:, None, None], argmax.long().clamp(min=0))
    total = torch.zeros_like(grad_input, dtype=widen(grad_input).dtype).flatten(2)
    total.index_put_(index, widen(grad_output) * (argmax >= 0), accumulate=True)
    grad_input.copy_(total.view(grad_input.shape))
