"""Deformable convolution (arXiv 1703.06211) and its modulated form (arXiv 1811.11168)."""

from collections.abc import Sequence

import torch
import torchvision  # noqa: F401  registers torch.ops.torchvision
from torch import Tensor

from .precision import widen


def deform_conv_forward(
    input: Tensor, weight: Tensor, offset: Tensor, output: Tensor, columns: Tensor, ones: Tensor, **options: int
) -> None:
    """Fills ``output`` (N, C_out, H, W); ``columns`` and ``ones`` are the original's workspaces."""
    output.copy_(_forward(input, weight, offset, None, None, _geometry(options)))


def deform_conv_backward_input(
    input: Tensor,
    offset: Tensor,
    grad_output: Tensor,
    grad_input: Tensor,
    grad_offset: Tensor,
    weight: Tensor,
    columns: Tensor,
    **options: int,
) -> None:
    """Fills the gradients of input and offset.

    That of the weights comes with them, but is asked for by another call: it stays in ``columns``, a workspace that
    both calls are handed.
    """
    grads = _backward(grad_output, input, weight, offset, None, _geometry(options))
    grad_input.copy_(grads[0])
    grad_offset.copy_(grads[2])
    columns.resize_(weight.shape).copy_(grads[1])


def deform_conv_backward_parameters(
    input: Tensor,
    offset: Tensor,
    grad_output: Tensor,
    grad_weight: Tensor,
    columns: Tensor,
    ones: Tensor,
    scale: float,
    **options: int,
) -> None:
    """Adds ``scale`` times the gradient of the weights."""
    if columns.shape != grad_weight.shape:  # the input and the offset want no gradient
        columns = _backward(grad_output, input, grad_weight, offset, None, _geometry(options))[1]
    grad_weight.add_(columns, alpha=scale)


def modulated_deform_conv_forward(
    input: Tensor,
    weight: Tensor,
    bias: Tensor,
    ones: Tensor,
    offset: Tensor,
    mask: Tensor,
    output: Tensor,
    columns: Tensor,
    **options: int,
) -> None:
    """Fills ``output``; ``mask`` (N, deform_groups * kernel positions, H, W) weights what is sampled."""
    output.copy_(_forward(input, weight, offset, mask, bias if options['with_bias'] else None, _geometry(options)))


def modulated_deform_conv_backward(
    input: Tensor,
    weight: Tensor,
    bias: Tensor,
    ones: Tensor,
    offset: Tensor,
    mask: Tensor,
    columns: Tensor,
    grad_input: Tensor,
    grad_weight: Tensor,
    grad_bias: Tensor,
    grad_offset: Tensor,
    grad_mask: Tensor,
    grad_output: Tensor,
    **options: int,
) -> None:
    """Fills all gradients."""
    grads = _backward(grad_output, input, weight, offset, mask, _geometry(options))
    wanted = [grad_input, grad_weight, grad_offset, grad_mask]
    if options['with_bias']:
        wanted.append(grad_bias)
    for target, grad in zip(wanted, grads, strict=False):
        target.copy_(grad)


def _geometry(options: dict[str, int]) -> list[int]:
    """Stride, padding, dilation and the two numbers of groups, as torchvision wants them.

    mmcv spells them in one way for each of its two convolutions. ``im2col_step`` is left out: by how many images the
    work is done at a time changes no result.
    """
    if 'dH' in options:
        names = 'dH', 'dW', 'padH', 'padW', 'dilationH', 'dilationW'
    else:
        names = 'stride_h', 'stride_w', 'pad_h', 'pad_w', 'dilation_h', 'dilation_w'
    return [options[name] for name in (*names, 'group', 'deformable_group')]


def _operands(input: Tensor, weight: Tensor, offset: Tensor, mask: Tensor | None, bias: Tensor | None) -> list[Tensor]:
    """What torchvision is handed, which has an empty mask and a bias of zeros where there is none."""
    if mask is None:
        mask = input.new_zeros(len(input), 0)
    if bias is None:
        bias = input.new_zeros(len(weight))
    return [widen(tensor) for tensor in (input, weight, offset, mask, bias)]


def _forward(
    input: Tensor, weight: Tensor, offset: Tensor, mask: Tensor | None, bias: Tensor | None, geometry: list[int]
) -> Tensor:
    operands = _operands(input, weight, offset, mask, bias)
    return torch.ops.torchvision.deform_conv2d(*operands, *geometry, mask is not None)


def _backward(
    grad: Tensor, input: Tensor, weight: Tensor, offset: Tensor, mask: Tensor | None, geometry: list[int]
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of input, weight, offset, mask and bias."""
    operands = _operands(input, weight, offset, mask, None)
    grads = [*torch.ops.torchvision._deform_conv2d_backward(widen(grad), *operands, *geometry, mask is not None)]
    grads[2] = grads[2].masked_fill(_at_minus_one(operands[2], weight.shape[-2:], geometry), 0)
    return tuple(grads)


def _at_minus_one(offset: Tensor, kernel: Sequence[int], geometry: list[int]) -> Tensor:
    """Where the row or column of a sample is exactly -1, as an offset of zero makes it at the edge of a padded map.

    The sample has two derivatives there: mmcv takes the one from outside, which is zero, torchvision the other.
    """
    axes = []
    for axis in (0, 1):
        stride, padding, dilation = (geometry[i + axis] for i in (0, 2, 4))
        outputs = torch.arange(offset.shape[2 + axis], device=offset.device) * stride - padding
        axes.append(torch.arange(kernel[axis], device=offset.device)[:, None] * dilation + outputs)
    rows, columns = axes[0][:, None, :, None], axes[1][None, :, None, :]
    places = torch.stack(torch.broadcast_tensors(rows, columns), 2)  # (kernel, kernel, 2, H, W)
    return (offset.unflatten(1, (-1, *places.shape[:3])) + places == -1).flatten(1, 4)
