"""The fused block as operators of torch, which torch.compile takes as they are: one graph, and the memory is saved.

Inside are the same two passes as in eager mode. What stochastic depth keeps is known when they run, not when they are
compiled; so what is kept for the backward pass has room for all samples.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, library

from .block_weights import Weights, collect_weights
from .fused_block import Saved, backward_pass, find_kept, forward_pass
from .precision import map_dtype, working_dtype

if TYPE_CHECKING:
    from .convnext import ConvNeXtBlock


def run_compiled(block: 'ConvNeXtBlock', x: Tensor) -> Tensor:
    """Compute a block by the operators; maps (N, C, H, W) to (N, C, H, W)."""
    kept, weights = block.drop_path.draw(len(x)), collect_weights(block)
    nhwc = x.permute(0, 2, 3, 1).contiguous()
    learns = torch.is_grad_enabled() and any(one is not None and one.requires_grad for one in (nhwc, *weights))
    dtype = map_dtype(block.pwconv1.weight)
    out, *_ = fused_block(nhwc, kept, dtype, block.norm.eps, learns, [one for one in weights if one is not None])
    return out.permute(0, 3, 1, 2)


def _unpack(weights: Sequence[Tensor]) -> Weights:
    """Weights out of those that there are; layer scale and GRN may lack, by which their number differs."""
    plain, rest = weights[:8], [*weights[8:]]
    scale = rest.pop(0) if len(rest) % 2 else None
    return Weights._make([*plain, scale, *(rest or (None, None))])


# Schemas are written out, as torch 2.6 does not read all annotations.
@library.custom_op(
    'convnext_backbone::fused_block',
    mutates_args=(),
    schema='(Tensor x, Tensor? kept, ScalarType dtype, float eps, bool learns, Tensor[] weights)'
    ' -> (Tensor, Tensor, Tensor)',
)
def fused_block(
    x: Tensor,
    kept: Tensor | None,
    dtype: torch.dtype,
    eps: float,
    learns: bool,
    weights: Sequence[Tensor],
) -> tuple[Tensor, Tensor, Tensor]:
    """Compute a block.

    Args:
        x: The map, (N, H, W, C), contiguous.
        kept: Which samples' branch is computed, a mask of (N,) on the host; None for all.
        dtype: Data type of the intermediate maps.
        eps: Of the LayerNorm.
        learns: Whether there may be a backward pass.
        weights: The fields of :class:`.Weights` that there are.

    Returns:
        The output, (N, H, W, C), and what the backward pass needs: the depthwise output and, if it is in another type
        than ``x``, the input in the type of the maps. They are empty if they are not needed.
    """
    indices = None if kept is None else find_kept(kept, x.device)
    out, saved = forward_pass(x, indices, dtype, eps, not learns, _unpack(weights))
    if not learns:
        return out, x.new_empty(0, dtype=dtype), x.new_empty(0, dtype=dtype)
    kept_maps = [saved.mapped, saved.inputs] if x.dtype != dtype else [saved.mapped]
    if indices is not None:
        kept_maps = [_fill(one, len(x)) for one in kept_maps]
    return out, kept_maps[0], kept_maps[1] if len(kept_maps) > 1 else x.new_empty(0, dtype=dtype)


def _fill(part: Tensor, samples: int) -> Tensor:
    """A map of all samples, of which the first are given; the others are zeros, which nothing reads."""
    return torch.cat([part, part.new_zeros(samples - len(part), *part.shape[1:])])


@fused_block.register_fake
def _(
    x: Tensor, kept: Tensor | None, dtype: torch.dtype, eps: float, learns: bool, weights: Sequence[Tensor]
) -> tuple[Tensor, Tensor, Tensor]:
    w = _unpack(weights)
    out = torch.empty_like(x, dtype=torch.promote_types(x.dtype, w.project.dtype))
    mapped = torch.empty_like(x, dtype=dtype) if learns else x.new_empty(0, dtype=dtype)
    inputs = torch.empty_like(x, dtype=dtype) if learns and x.dtype != dtype else x.new_empty(0, dtype=dtype)
    return out, mapped, inputs


@library.custom_op(
    'convnext_backbone::fused_block_backward',
    mutates_args=(),
    schema='(Tensor dout, Tensor? kept, float eps, bool converted, Tensor inputs, Tensor mapped, Tensor[] weights)'
    ' -> Tensor[]',
)
def fused_block_backward(
    dout: Tensor,
    kept: Tensor | None,
    eps: float,
    converted: bool,
    inputs: Tensor,
    mapped: Tensor,
    weights: Sequence[Tensor],
) -> list[Tensor]:
    """Gradients of the map and of the weights that there are; arguments as of :func:`fused_block`.

    ``inputs`` is the map, in the type of the maps; what is kept of it and of ``mapped`` is as of :func:`fused_block`.
    """
    indices = None if kept is None else find_kept(kept, dout.device)
    if indices is not None:
        mapped = mapped[: len(indices)]
        inputs = inputs[: len(indices)] if converted else inputs[indices]
    w = _unpack(weights)
    saved = Saved(inputs, mapped, w.cast(working_dtype(mapped.dtype, mapped.device)))
    dx, gradients = backward_pass(dout, indices, eps, w, saved)
    return [dx, *(one for one in gradients if one is not None)]


@fused_block_backward.register_fake
def _(
    dout: Tensor,
    kept: Tensor | None,
    eps: float,
    converted: bool,
    inputs: Tensor,
    mapped: Tensor,
    weights: Sequence[Tensor],
) -> list[Tensor]:
    return [torch.empty_like(one) for one in (dout, *weights)]


def _keep(ctx: Any, inputs: tuple, output: tuple[Tensor, Tensor, Tensor]) -> None:
    x, kept, _, ctx.eps, _, weights = inputs
    _, mapped, converted = output
    ctx.converted = mapped.dtype != x.dtype
    ctx.save_for_backward(kept, converted if ctx.converted else x, mapped, *weights)


def _differentiate(ctx: Any, dout: Tensor, *_: Tensor | None) -> tuple[Any, ...]:
    kept, inputs, mapped, *weights = ctx.saved_tensors
    dx, *gradients = fused_block_backward(dout.contiguous(), kept, ctx.eps, ctx.converted, inputs, mapped, weights)
    return dx, None, None, None, None, gradients


fused_block.register_autograd(_differentiate, setup_context=_keep)
