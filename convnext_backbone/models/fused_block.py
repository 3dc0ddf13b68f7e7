"""A ConvNeXt block as one function of autograd: the numbers of the plain block in a sixth of its memory, and faster.

For its backward pass the plain block keeps twelve values a position and channel, eight of them in the two hidden maps
of four times the width. This one keeps two: the input and the output of the depthwise convolution. Both passes walk
over the map in tiles of rows, whose hidden values stay in the cache; the backward pass computes them again.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx
from torch.ops import aten

from .depthwise_grad import depthwise_weight_grad
from .grn import GRN, grn_, grn_backward_
from .onednn_linear import linear
from .precision import map_dtype, without_autocast, working_dtype

if TYPE_CHECKING:
    from .convnext import ConvNeXtBlock


class Weights(NamedTuple):
    """What a block learns, or its gradients; ``scale`` is layer scale times the factor of stochastic depth."""

    conv: Tensor  # (C, 1, 7, 7)
    conv_bias: Tensor  # (C,)
    norm: Tensor  # (C,)
    norm_bias: Tensor  # (C,)
    expand: Tensor  # (4C, C)
    expand_bias: Tensor  # (4C,)
    project: Tensor  # (C, 4C)
    project_bias: Tensor  # (C,)
    scale: Tensor  # (C,)
    grn: Tensor | None  # (4C,)
    grn_bias: Tensor | None  # (4C,)

    def to(self, dtype: torch.dtype) -> 'Weights':
        """In another data type."""
        return Weights(*(None if weight is None else weight.to(dtype) for weight in self))


def can_fuse(block: 'ConvNeXtBlock') -> bool:
    """Whether a block's layers are as they were built, and nothing looks into the block or takes it apart."""
    # What tells whether torch.func is at work is private, so looked for: without it, it may be.
    transformed = getattr(torch._C, '_are_functorch_transforms_active', None)
    if torch.compiler.is_compiling() or torch.jit.is_tracing() or transformed is None or transformed():
        return False
    layers = {block.dwconv: nn.Conv2d, block.norm: nn.LayerNorm, block.pwconv1: nn.Linear, block.pwconv2: nn.Linear}
    if block.grn is not None:
        layers[block.grn] = GRN
    hooks = ('_forward_hooks', '_forward_pre_hooks', '_backward_hooks', '_backward_pre_hooks')
    return all(
        type(layer) is kind and not any(getattr(layer, name) for name in hooks) for layer, kind in layers.items()
    )


def run_fused(block: 'ConvNeXtBlock', x: Tensor) -> Tensor:
    """Compute a block by :class:`FusedBlock`; maps (N, C, H, W) to (N, C, H, W)."""
    kept = block.drop_path.draw(len(x))
    scale = torch.ones_like(block.pwconv2.bias) if block.gamma is None else block.gamma
    if kept is not None:
        scale = scale / (1 - block.drop_path.rate)
        kept = None if kept.all() else kept.nonzero().flatten().to(x.device, non_blocking=True)
    layers = (block.dwconv, block.norm, block.pwconv1, block.pwconv2)
    grn = (None, None) if block.grn is None else (block.grn.gamma, block.grn.beta)
    weights = Weights(*(w for layer in layers for w in (layer.weight, layer.bias)), scale, *grn)
    rows = x.permute(0, 2, 3, 1).contiguous()
    learns = torch.is_grad_enabled() and any(one is not None and one.requires_grad for one in (rows, *weights))
    dtype = map_dtype(block.pwconv1.weight)
    return FusedBlock.apply(rows, kept, dtype, block.norm.eps, learns, *weights).permute(0, 3, 1, 2)


class FusedBlock(torch.autograd.Function):
    """``x + scale * branch(x)``; the branch goes from the depthwise convolution to the second linear layer."""

    @staticmethod
    def forward(
        ctx: FunctionCtx,
        x: Tensor,
        kept: Tensor | None,
        dtype: torch.dtype,
        eps: float,
        learns: bool,
        *weights: Tensor | None,
    ) -> Tensor:
        """Computes the block.

        Args:
            ctx: Autograd's.
            x: The map, (N, H, W, C), contiguous.
            kept: The samples whose branch is computed; ``None`` for all.
            dtype: What the maps are rounded to: that of autocast, or the weights'.
            eps: Of the LayerNorm.
            learns: Whether there may be a backward pass.
            weights: :class:`Weights`, in their order.

        Returns:
            (N, H, W, C), in the wider data type of ``x`` and the weights.
        """
        w = Weights(*weights)
        out_dtype = torch.promote_types(x.dtype, w.project.dtype)
        with without_autocast(x.device):
            w = w.to(working_dtype(dtype, x.device))
            shortcut = x if kept is None else x[kept]
            inputs = shortcut.to(dtype)
            mapped = _depthwise(inputs, w).to(dtype)
            if learns:
                ctx.save_for_backward(inputs, mapped, kept, *weights)
                ctx.eps = eps
            del inputs
            # With no backward pass a tile of the output may lie where its input was: a map less, and no fresh pages.
            in_place = not learns and mapped.dtype == out_dtype
            out = mapped if in_place else torch.empty_like(shortcut, dtype=out_dtype)
            _tail(mapped, shortcut, w, eps, out)
        return out if kept is None else x.to(out_dtype, copy=True).index_copy_(0, kept, out)

    @staticmethod
    def backward(ctx: Any, dout: Tensor) -> tuple[Tensor | None, ...]:
        """The gradients of x and of the weights.

        Raises:
            RuntimeError: They are to be differentiated again.
        """
        if torch.is_grad_enabled():  # torch's once_differentiable overlooks a constant dout
            raise RuntimeError('A fused block has no second derivative (create_graph=True): build it with fused=False.')
        inputs, mapped, kept, *weights = ctx.saved_tensors
        with without_autocast(dout.device):
            original = Weights(*weights)
            w = original.to(working_dtype(mapped.dtype, mapped.device))
            dout = dout.contiguous()
            dbranch = dout if kept is None else dout[kept]
            dmapped, d = _tail_backward(mapped, dbranch, w, original, ctx.eps)
            dinputs = _depthwise_backward(inputs, dmapped, w, d)
            if kept is None:
                dx = dinputs.add_(dout) if dinputs.dtype == dout.dtype else dout + dinputs
            else:
                dx = dout.index_add(0, kept, dinputs.to(dout.dtype))
        return dx, None, None, None, None, *d


def _tail(mapped: Tensor, shortcut: Tensor, w: Weights, eps: float, out: Tensor) -> None:
    """What follows the depthwise convolution, from LayerNorm to the sum."""
    for tile, hidden in _tiles(mapped, w, buffers=1):
        normalised = F.layer_norm(_rows(mapped, tile).to(w.norm.dtype), w.norm.shape, w.norm, w.norm_bias, eps)
        hidden = linear(normalised, w.expand, w.expand_bias, hidden, gelu=True)
        if w.grn is not None:
            grn_(_by_sample(hidden, mapped), w.grn, w.grn_bias)
        branch = linear(hidden, w.project, w.project_bias)
        torch.addcmul(_rows(shortcut, tile), branch, w.scale, out=_rows(out, tile))


def _tail_backward(mapped: Tensor, dout: Tensor, w: Weights, original: Weights, eps: float) -> tuple[Tensor, Weights]:
    """The gradients of the depthwise output, and of the weights from LayerNorm to the scale."""
    d = Weights(*(None if weight is None else torch.zeros_like(weight) for weight in original))
    dmapped = torch.empty_like(mapped)
    # Layer scale as rows of the projection: what it lets through of the gradient costs no pass over the map.
    scaled = (w.scale[:, None] * w.project).mT
    for tile, hidden, activated, dhidden in _tiles(mapped, w, buffers=3):
        rows, drows = _rows(mapped, tile).to(w.norm.dtype), _rows(dout, tile).to(w.norm.dtype)
        normalised, *statistics = torch.native_layer_norm(rows, w.norm.shape, w.norm, w.norm_bias, eps)
        hidden = linear(normalised, w.expand, w.expand_bias, hidden)
        aten.gelu.out(hidden, out=activated)
        if w.grn is None:
            _add_product(d.project, drows.mT, activated)
            dhidden = linear(drows, scaled, None, dhidden)
        else:
            response = grn_(_by_sample(dhidden.copy_(activated), mapped), w.grn, w.grn_bias)
            _add_product(d.project, drows.mT, dhidden)
            dhidden = linear(drows, scaled, None, dhidden)
            dgrn = grn_backward_(_by_sample(dhidden, mapped), _by_sample(activated, mapped), response, w.grn)
            for total, part in zip((d.grn, d.grn_bias), dgrn, strict=True):
                total += part
        aten.gelu_backward.grad_input(dhidden, hidden, grad_input=dhidden)
        _add_product(d.expand, dhidden.mT, normalised)
        drows_in, dnorm, dnorm_bias = aten.native_layer_norm_backward(
            linear(dhidden, w.expand.mT, None),
            rows,
            w.norm.shape,
            *statistics,
            w.norm,
            w.norm_bias,
            [True, True, True],
        )
        _rows(dmapped, tile).copy_(drows_in)
        d.norm.add_(dnorm)
        d.norm_bias.add_(dnorm_bias)
        d.expand_bias.add_(dhidden.sum(0))
        d.project_bias.add_(drows.sum(0))
    # So far the last two lack the scale: they tell its gradient, and then get it.
    d.scale.add_((d.project * original.project).sum(1) + d.project_bias * original.project_bias)
    d.project.mul_(original.scale[:, None])
    d.project_bias.mul_(original.scale)
    return dmapped, d


def _depthwise(x: Tensor, w: Weights) -> Tensor:
    """The depthwise convolution of (N, H, W, C), computed in the data type of the weights."""
    x = x.to(w.conv.dtype).permute(0, 3, 1, 2)
    out = F.conv2d(x, w.conv, w.conv_bias, padding=w.conv.shape[-1] // 2, groups=x.shape[1])
    return out.permute(0, 2, 3, 1).contiguous()  # it is already, but on some devices


def _depthwise_backward(x: Tensor, dy: Tensor, w: Weights, d: Weights) -> Tensor:
    """The gradient of the convolution's input; those of its weights are added to ``d``."""
    x, dy = x.to(w.conv.dtype), dy.to(w.conv.dtype)
    fast = x.device.type == 'cpu'
    halo = w.conv.shape[-1] // 2
    dx, dconv, _ = aten.convolution_backward(
        dy.permute(0, 3, 1, 2),
        x.permute(0, 3, 1, 2),
        w.conv,
        bias_sizes=None,
        stride=[1, 1],
        padding=[halo, halo],
        dilation=[1, 1],
        transposed=False,
        output_padding=[0, 0],
        groups=len(w.conv),
        output_mask=[True, not fast, False],
    )
    d.conv.add_(depthwise_weight_grad(x, dy, w.conv.shape[-1]) if fast else dconv)
    d.conv_bias.add_(dy.sum((0, 1, 2)))
    return dx.permute(0, 2, 3, 1)


def _tiles(mapped: Tensor, w: Weights, buffers: int) -> Iterator[tuple]:
    """Cuts the rows of a map (N, H, W, C) into tiles of one size, but for a shorter last one.

    GRN takes its statistics over a whole sample: with it a tile has whole samples.

    Yields:
        A slice, the rows of the tile, and the buffers, (rows, 4C), which the next tile uses again.
    """
    samples, height, width, _ = mapped.shape
    unit, count = (height * width, samples) if w.grn is not None else (1, samples * height * width)
    most = max(1, tile_rows(mapped.device) // unit)
    tiles = max(1, -(-count // most))
    size = max(1, -(-count // tiles)) * unit
    memory = w.expand.new_empty(buffers, size, len(w.expand))
    for first in range(0, count * unit, size):
        rows = min(size, count * unit - first)
        yield slice(first, first + rows), *memory[:, :rows]


def tile_rows(device: torch.device) -> int:
    """How many rows a tile has."""
    # With fewer, the weights are read too often; with more, the hidden maps leave the cache (measured on 2 CPU cores,
    # 96 to 768 channels). A GPU is not filled by less.
    return 2048 if device.type == 'cpu' else 65536


def _rows(x: Tensor, tile: slice) -> Tensor:
    """The rows of a tile of (N, H, W, C), seen as (N H W, C)."""
    return x.view(-1, x.shape[-1])[tile]


def _by_sample(tile: Tensor, mapped: Tensor) -> Tensor:
    """A tile of whole samples of (N, H, W, C), seen as (samples, H W, columns)."""
    return tile.view(-1, mapped.shape[1] * mapped.shape[2], tile.shape[1])


def _add_product(total: Tensor, left: Tensor, right: Tensor) -> None:
    """Adds a matrix product to a sum over tiles, which may be in wider precision."""
    if total.dtype == left.dtype:
        total.addmm_(left, right)
    else:
        total.add_(left @ right)
