"""Multi-scale deformable attention (Deformable DETR, arXiv 2010.04159)."""

import torch
import torch.nn.functional as F
from torch import Tensor

from .precision import widen


def ms_deform_attn_forward(
    value: Tensor,
    spatial_shapes: Tensor,
    level_start_index: Tensor,
    sampling_locations: Tensor,
    attention_weights: Tensor,
    im2col_step: int,
) -> Tensor:
    """Sums what is sampled around each query from all levels.

    Args:
        value: (N, keys of all levels, heads, dims).
        spatial_shapes: (levels, 2), height and width of each.
        level_start_index: (levels,), where the keys of each begin.
        sampling_locations: (N, queries, heads, levels, points, 2) as x, y from 0 to 1.
        attention_weights: (N, queries, heads, levels, points).
        im2col_step: How many images the original takes at a time, which changes no result.

    Returns:
        (N, queries, heads * dims).
    """
    levels = _levels(spatial_shapes, level_start_index)
    return _attend(widen(value), widen(sampling_locations), widen(attention_weights), levels).to(value.dtype)


def ms_deform_attn_backward(
    value: Tensor,
    spatial_shapes: Tensor,
    level_start_index: Tensor,
    sampling_locations: Tensor,
    attention_weights: Tensor,
    grad_output: Tensor,
    grad_value: Tensor,
    grad_sampling_loc: Tensor,
    grad_attn_weight: Tensor,
    im2col_step: int,
) -> None:
    """Fills the gradients of value, locations and weights."""
    operands = [widen(tensor).detach().requires_grad_() for tensor in (value, sampling_locations, attention_weights)]
    with torch.enable_grad():
        output = _attend(operands[0], operands[1], operands[2], _levels(spatial_shapes, level_start_index))
    grads = torch.autograd.grad(output, operands, widen(grad_output))
    for target, grad in zip((grad_value, grad_sampling_loc, grad_attn_weight), grads, strict=True):
        target.copy_(grad)


def _levels(spatial_shapes: Tensor, level_start_index: Tensor) -> list[tuple[int, int, int]]:
    """First key, height and width of each level; one wait for the device."""
    return torch.cat([level_start_index[:, None], spatial_shapes], 1).tolist()


def _attend(value: Tensor, locations: Tensor, weights: Tensor, levels: list[tuple[int, int, int]]) -> Tensor:
    """The operator level by level, so that the samples of one level at a time are in memory."""
    batch, _, heads, dims = value.shape
    queries = locations.shape[1]
    grids = (2 * locations - 1).transpose(1, 2).flatten(0, 1)  # (N heads, queries, levels, points, 2)
    weights = weights.transpose(1, 2).flatten(0, 1)[:, None]  # (N heads, 1, queries, levels, points)
    total = value.new_zeros(batch * heads, dims, queries)
    for level, (start, height, width) in enumerate(levels):
        maps = value[:, start : start + height * width].permute(0, 2, 3, 1).reshape(-1, dims, height, width)
        sampled = F.grid_sample(maps, grids[:, :, level], align_corners=False)  # (N heads, dims, queries, points)
        total = total + (sampled * weights[..., level, :]).sum(-1)
    return total.view(batch, heads * dims, queries).transpose(1, 2).contiguous()
