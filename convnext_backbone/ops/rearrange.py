"""Operators that move values by index: masked convolution, PSA's masks, and CARAFE's upsampling."""

import torch
import torch.nn.functional as F
from torch import Tensor

from .precision import widen


def masked_im2col_forward(
    im: Tensor,
    mask_h_idx: Tensor,
    mask_w_idx: Tensor,
    col: Tensor,
    kernel_h: int,
    kernel_w: int,
    pad_h: int,
    pad_w: int,
) -> None:
    """Gathers the neighbourhoods of some positions.

    Args:
        im: (1, C, H, W).
        mask_h_idx: (M,), the rows of the positions.
        mask_w_idx: (M,), their columns.
        col: (C * kernel_h * kernel_w, M), filled.
        kernel_h: Rows of a neighbourhood.
        kernel_w: Columns of a neighbourhood.
        pad_h: Zeros above and below.
        pad_w: Zeros left and right.
    """
    padded = F.pad(im[0], [pad_w, pad_w, pad_h, pad_h])
    rows = mask_h_idx + torch.arange(kernel_h, device=im.device)[:, None, None]
    columns = mask_w_idx + torch.arange(kernel_w, device=im.device)[:, None]
    col.copy_(padded[:, rows, columns].reshape(col.shape))


def masked_col2im_forward(
    col: Tensor, mask_h_idx: Tensor, mask_w_idx: Tensor, im: Tensor, height: int, width: int, channels: int
) -> None:
    """Writes (C, M) values to M positions of ``im`` (1, C, H, W)."""
    im[0, :, mask_h_idx, mask_w_idx] = col


def psamask_forward(
    input: Tensor,
    output: Tensor,
    psa_type: int,
    num_: int,
    h_feature: int,
    w_feature: int,
    h_mask: int,
    w_mask: int,
    half_h_mask: int,
    half_w_mask: int,
) -> None:
    """Lays the attention of each position, relative to it, over the map (PSANet, ECCV 2018).

    Args:
        input: (N, h_mask * w_mask, H, W).
        output: (N, H * W, H, W), filled.
        psa_type: 0 collects, what each position takes from the others; 1 distributes, the transpose.
        num_: N.
        h_feature: H.
        w_feature: W.
        h_mask: Height of the attended window.
        w_mask: Width of the attended window.
        half_h_mask: The window's row of the position itself.
        half_w_mask: The window's column of the position itself.
    """
    index, inside = _window(input, h_feature, w_feature, h_mask, w_mask, half_h_mask, half_w_mask)
    laid = input.flatten(2).gather(1, index.expand(num_, -1, -1)) * inside
    output.copy_((laid.mT if psa_type else laid).reshape(output.shape))


def psamask_backward(
    grad_output: Tensor,
    grad_input: Tensor,
    psa_type: int,
    num_: int,
    h_feature: int,
    w_feature: int,
    h_mask: int,
    w_mask: int,
    half_h_mask: int,
    half_w_mask: int,
) -> None:
    """Fills the gradient of the input."""
    index, inside = _window(grad_output, h_feature, w_feature, h_mask, w_mask, half_h_mask, half_w_mask)
    laid = grad_output.flatten(2)
    laid = (laid.mT if psa_type else laid) * inside
    grad_input.zero_().view(num_, h_mask * w_mask, -1).scatter_add_(1, index.expand(num_, -1, -1), laid)


def _window(
    like: Tensor, height: int, width: int, h_mask: int, w_mask: int, half_h: int, half_w: int
) -> tuple[Tensor, Tensor]:
    """For each (other position, position): the index in the position's window, and whether it lies in there."""
    rows, columns = torch.arange(height, device=like.device), torch.arange(width, device=like.device)
    row = rows[:, None, None, None] - rows[None, None, :, None] + half_h
    column = columns[None, :, None, None] - columns[None, None, None, :] + half_w
    inside = (row >= 0) & (row < h_mask) & (column >= 0) & (column < w_mask)
    index = (row * w_mask + column) * inside
    return index.view(1, height * width, -1), inside.view(1, height * width, -1).to(like.dtype)


def carafe_forward(
    features: Tensor,
    masks: Tensor,
    rfeatures: Tensor,
    routput: Tensor,
    rmasks: Tensor,
    output: Tensor,
    kernel_size: int,
    group_size: int,
    scale_factor: int,
) -> None:
    """Upsamples by kernels that differ from position to position (CARAFE, arXiv 1905.02188).

    Args:
        features: (N, C, H, W).
        masks: (N, groups * kernel_size ** 2, H * scale, W * scale).
        rfeatures: As features; kept for the backward pass, which is handed nothing else.
        routput: The original's workspace.
        rmasks: The original's workspace.
        output: (N, C, H * scale, W * scale), filled.
        kernel_size: Sides of a kernel; odd.
        group_size: Channels are divided into so many groups, each with its own kernels.
        scale_factor: How much larger the output is.
    """
    rfeatures.copy_(features)
    carafe_naive_forward(features, masks, output, kernel_size, group_size, scale_factor)


def carafe_naive_forward(
    features: Tensor, masks: Tensor, output: Tensor, kernel_size: int, group_size: int, scale_factor: int
) -> None:
    """The same without workspaces."""
    output.copy_(_reassemble(widen(features), widen(masks), kernel_size, group_size, scale_factor))


def carafe_backward(
    grad_output: Tensor,
    rfeatures: Tensor,
    masks: Tensor,
    rgrad_output: Tensor,
    rgrad_input_hs: Tensor,
    rgrad_input: Tensor,
    rgrad_masks: Tensor,
    grad_input: Tensor,
    grad_masks: Tensor,
    kernel_size: int,
    group_size: int,
    scale_factor: int,
) -> None:
    """Fills the gradients of features and masks."""
    geometry = kernel_size, group_size, scale_factor
    carafe_naive_backward(grad_output, rfeatures, masks, grad_input, grad_masks, *geometry)


def carafe_naive_backward(
    grad_output: Tensor,
    features: Tensor,
    masks: Tensor,
    grad_input: Tensor,
    grad_masks: Tensor,
    kernel_size: int,
    group_size: int,
    scale_factor: int,
) -> None:
    """The same without workspaces."""
    features, masks = (widen(tensor).detach().requires_grad_() for tensor in (features, masks))
    with torch.enable_grad():
        output = _reassemble(features, masks, kernel_size, group_size, scale_factor)
    grads = torch.autograd.grad(output, (features, masks), widen(grad_output))
    grad_input.copy_(grads[0])
    grad_masks.copy_(grads[1])


def _reassemble(features: Tensor, masks: Tensor, kernel_size: int, groups: int, scale: int) -> Tensor:
    """Adds up the kernels' positions one by one: all neighbourhoods at once would be kernel_size ** 2 maps."""
    n, channels, height, width = features.shape
    padded = F.pad(features, [kernel_size // 2] * 4).unflatten(1, (groups, -1))[..., :, None, :, None]
    masks = masks.view(n, groups, kernel_size**2, 1, height, scale, width, scale)
    output = features.new_zeros(n, groups, channels // groups, height, scale, width, scale)
    for position in range(kernel_size**2):
        row, column = divmod(position, kernel_size)
        window = padded[:, :, :, row : row + height, :, column : column + width]
        output = torch.addcmul(output, window, masks[:, :, position])
    return output.reshape(n, channels, height * scale, width * scale)
