"""Focal loss (arXiv 1708.02002) with the gradient in closed form, element by element, in fp32."""

import torch
from torch import Tensor

from .precision import widen

TINY = torch.finfo(torch.float32).tiny


def sigmoid_focal_loss_forward(
    input: Tensor, target: Tensor, weight: Tensor, output: Tensor, gamma: float, alpha: float
) -> None:
    """Losses of independent classes.

    Args:
        input: (N, C) logits.
        target: (N,) classes; C is the background.
        weight: (C,) of the classes, or empty.
        output: (N, C), filled.
        gamma: The exponent that makes easy samples count less.
        alpha: The weight of the positive class; 1 - alpha is that of the negative.
    """
    p = widen(input).sigmoid()
    positive = -alpha * (1 - p) ** gamma * p.clamp(min=TINY).log()
    negative = (alpha - 1) * p**gamma * (1 - p).clamp(min=TINY).log()
    output.copy_(_by_target(positive, negative, target, weight))


def sigmoid_focal_loss_backward(
    input: Tensor, target: Tensor, weight: Tensor, grad_input: Tensor, gamma: float, alpha: float
) -> None:
    """Fills the gradient (N, C) of the sum of the losses."""
    p = widen(input).sigmoid()
    positive = -alpha * (1 - p) ** gamma * (1 - p - gamma * p * p.clamp(min=TINY).log())
    negative = (alpha - 1) * p**gamma * (gamma * (1 - p) * (1 - p).clamp(min=TINY).log() - p)
    grad_input.copy_(_by_target(positive, negative, target, weight))


def _by_target(positive: Tensor, negative: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """Chooses by the class of each row, and weights it; the background has no weight of its own, so it has 1."""
    is_class = target[:, None] == torch.arange(positive.shape[1], device=target.device)
    chosen = torch.where(is_class, positive, negative)
    if weight.numel():
        chosen = chosen * torch.cat([weight, weight.new_ones(1)])[target][:, None]
    return chosen


def softmax_focal_loss_forward(
    input: Tensor, target: Tensor, weight: Tensor, output: Tensor, gamma: float, alpha: float
) -> None:
    """Losses of classes that exclude each other.

    Args:
        input: (N, C) probabilities.
        target: (N,) classes; negative ones are ignored.
        weight: (C,) of the classes, or empty.
        output: (N,), filled.
        gamma: The exponent that makes easy samples count less.
        alpha: The weight of all losses.
    """
    p, factor = _of_target(input, target, weight)
    output.copy_(-alpha * factor * (1 - p) ** gamma * p.clamp(min=TINY).log())


def softmax_focal_loss_backward(
    input: Tensor, target: Tensor, weight: Tensor, buff: Tensor, grad_input: Tensor, gamma: float, alpha: float
) -> None:
    """Fills the gradient (N, C) of the sum of the losses by the logits; ``buff`` (N,) is workspace."""
    p, factor = _of_target(input, target, weight)
    slope = gamma * (1 - p) ** (gamma - 1) * p * p.clamp(min=TINY).log() - (1 - p) ** gamma
    buff.copy_(alpha * factor * slope)
    is_class = target[:, None] == torch.arange(input.shape[1], device=target.device)
    grad_input.copy_(buff[:, None] * (is_class.to(input.dtype) - input))


def _of_target(input: Tensor, target: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """The probability of each row's class, and the factor of its loss."""
    index = target.clamp(min=0)
    p = widen(input).gather(1, index[:, None])[:, 0]
    factor = (target >= 0).to(p.dtype)
    return p, factor * weight[index] if weight.numel() else factor
