"""A ConvNeXt block as one autograd function: the numbers of the plain block in a sixth of its memory, and faster.

For its backward pass the plain block keeps twelve values a position and channel, eight of them in the two hidden maps
of four times the width. This one keeps two: the input and the output of the depthwise convolution. Both passes walk
over the map in tiles of rows, whose hidden values stay in the cache; the backward pass recomputes them.
"""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.ops import aten

from .depthwise_grad import depthwise_backward
from .gradient_sums import Sums, Units, multiply_wide, sum_wide
from .grn import GRN, grn_, grn_backward_
from .onednn_linear import linear
from .precision import map_dtype, without_autocast, working_dtype

if TYPE_CHECKING:
    from .convnext import ConvNeXtBlock


class Weights(NamedTuple):
    """Weights of a block or their gradients; ``scale`` is layer scale over the keep rate, None where that is 1."""

    conv: Tensor  # (C, 1, 7, 7)
    conv_bias: Tensor  # (C,)
    norm: Tensor  # (C,)
    norm_bias: Tensor  # (C,)
    expand: Tensor  # (4C, C)
    expand_bias: Tensor  # (4C,)
    project: Tensor  # (C, 4C)
    project_bias: Tensor  # (C,)
    scale: Tensor | None  # (C,)
    grn_gamma: Tensor | None  # (4C,)
    grn_beta: Tensor | None  # (4C,)

    @property
    def grn(self) -> tuple[Tensor, Tensor] | None:
        """Gamma and beta of GRN, which V1 lacks."""
        return None if self.grn_gamma is None or self.grn_beta is None else (self.grn_gamma, self.grn_beta)

    def cast(self, dtype: torch.dtype) -> list[Tensor]:
        """What convolution and matrix products take, in a data type; none if it is that of the weights."""
        weights = [getattr(self, name) for name in _CAST]
        if self.expand.dtype == dtype:
            return []
        # In one buffer and one call: six would be six launches on a GPU.
        buffer = self.expand.new_empty(sum(weight.numel() for weight in weights), dtype=dtype)
        parts = buffer.split([weight.numel() for weight in weights])
        views = [part.view_as(weight) for part, weight in zip(parts, weights, strict=True)]
        torch._foreach_copy_(views, weights)
        return views

    def replace(self, casts: Sequence[Tensor]) -> 'Weights':
        """With what :meth:`cast` returned; LayerNorm is in fp32 at least, and others stay as they are."""
        wide = torch.promote_types(self.norm.dtype, torch.float32)
        return self._replace(
            norm=self.norm.to(wide), norm_bias=self.norm_bias.to(wide), **dict(zip(_CAST, casts, strict=False))
        )


_CAST = ('conv', 'conv_bias', 'expand', 'expand_bias', 'project', 'project_bias')


def can_fuse(block: 'ConvNeXtBlock') -> bool:
    """Whether the layers of a block are unchanged, unhooked and not traced or transformed."""
    # Private: where torch lacks it, any call may be inside a transform of torch.func.
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
    scale: Tensor | None = block.gamma
    if kept is not None:
        scale = (torch.ones_like(block.pwconv2.bias) if scale is None else scale) / (1 - block.drop_path.rate)
        kept = None if kept.all() else kept.nonzero().flatten().to(x.device, non_blocking=True)
    layers = (block.dwconv, block.norm, block.pwconv1, block.pwconv2)
    grn = (None, None) if block.grn is None else (block.grn.gamma, block.grn.beta)
    weights = [*(w for layer in layers for w in (layer.weight, layer.bias)), scale, *grn]
    nhwc = x.permute(0, 2, 3, 1).contiguous()
    learns = torch.is_grad_enabled() and any(one is not None and one.requires_grad for one in (nhwc, *weights))
    dtype = map_dtype(block.pwconv1.weight)
    return FusedBlock.apply(nhwc, kept, dtype, block.norm.eps, learns, *weights).permute(0, 3, 1, 2)


class FusedBlock(torch.autograd.Function):
    """``x + scale * branch(x)``; the branch goes from the depthwise convolution to the second linear layer."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        kept: Tensor | None,
        dtype: torch.dtype,
        eps: float,
        learns: bool,
        *weights: Tensor | None,
    ) -> Tensor:
        """Compute the block.

        Args:
            ctx: Autograd's context.
            x: The map, (N, H, W, C), contiguous.
            kept: Indices of the samples whose branch is computed; None for all.
            dtype: Data type of the intermediate maps: that of autocast, or the weights'.
            eps: Of the LayerNorm.
            learns: Whether there may be a backward pass.
            weights: The fields of :class:`Weights`.

        Returns:
            (N, H, W, C), in the wider data type of ``x`` and the weights.
        """
        w = Weights._make(weights)
        out_dtype = torch.promote_types(x.dtype, w.project.dtype)
        with without_autocast(x.device):
            casts = w.cast(working_dtype(dtype, x.device))
            w = w.replace(casts)
            shortcut = x if kept is None else x[kept]
            inputs = shortcut.to(dtype)
            mapped = _depthwise(inputs, w).to(dtype)
            if learns:
                ctx.save_for_backward(inputs, mapped, kept, *weights, *casts)
                ctx.eps = eps
            del inputs
            # With no backward pass a tile of the output may overwrite its input: one map less, and no new pages.
            in_place = not learns and mapped.dtype == out_dtype
            out = mapped if in_place else torch.empty_like(shortcut, dtype=out_dtype)
            _tail(mapped, shortcut, w, eps, out)
        return out if kept is None else x.to(out_dtype, copy=True).index_copy_(0, kept, out)

    @staticmethod
    def backward(ctx: Any, dout: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of the map and the weights.

        Raises:
            RuntimeError: A second derivative is asked for.
        """
        if torch.is_grad_enabled():  # torch's once_differentiable overlooks a constant dout
            raise RuntimeError('A fused block has no second derivative (create_graph=True): build it with fused=False.')
        inputs, mapped, kept, *saved = ctx.saved_tensors
        with without_autocast(dout.device):
            number = len(Weights._fields)
            original = Weights._make(saved[:number])
            w = original.replace(saved[number:])
            dout = dout.contiguous()
            dbranch = dout if kept is None else dout[kept]
            units = Units.of(dbranch, original.scale, mapped.dtype)
            dmapped, sums = _tail_backward(mapped, dbranch, w, original, units, ctx.eps)
            dmapped = dmapped.to(w.conv.dtype)
            dinputs, dconv = depthwise_backward(inputs.to(w.conv.dtype), dmapped, w.conv)
            sums.add('conv', dconv)
            sums.add('conv_bias', sum_wide(dmapped, (0, 1, 2)))
            d = sums.finish(original, units)
            dx = units.add_branch(dout, dinputs, kept)
        return dx, None, None, None, None, *d


def _depthwise(x: Tensor, w: Weights) -> Tensor:
    """Depthwise convolution of (N, H, W, C), computed in the data type of the weights."""
    x = x.to(w.conv.dtype).permute(0, 3, 1, 2)
    out = F.conv2d(x, w.conv, w.conv_bias, padding=w.conv.shape[-1] // 2, groups=x.shape[1])
    return out.permute(0, 2, 3, 1).contiguous()  # a copy only on some devices


def _tail(mapped: Tensor, shortcut: Tensor, w: Weights, eps: float, out: Tensor) -> None:
    """Compute what follows the depthwise convolution, from LayerNorm to the sum."""
    for tile, hidden in _tiles(mapped, w, buffers=1):
        normed, *_ = _layer_norm(_rows(mapped, tile).to(w.expand.dtype), w, eps)
        hidden = linear(normed.to(w.expand.dtype), w.expand, w.expand_bias, hidden, gelu=True)
        if w.grn is not None:
            grn_(_by_sample(hidden, mapped), *w.grn)
        branch = linear(hidden, w.project, w.project_bias)
        if w.scale is None:
            torch.add(_rows(shortcut, tile), branch, out=_rows(out, tile))
        else:
            torch.addcmul(_rows(shortcut, tile), branch, w.scale, out=_rows(out, tile))


def _layer_norm(rows: Tensor, w: Weights, eps: float) -> tuple[Tensor, list[Tensor], Tensor]:
    """LayerNorm, in fp32 at least: the map, mean and deviation of its rows, and the rows as they went in."""
    if rows.device.type != 'cpu':  # whose kernel takes rows of half precision beside weights of single precision
        rows = rows.to(w.norm.dtype)
    normed, *statistics = torch.native_layer_norm(rows, w.norm.shape, w.norm, w.norm_bias, eps)
    return normed, statistics, rows


def _tail_backward(
    mapped: Tensor, dout: Tensor, w: Weights, original: Weights, units: Units, eps: float
) -> tuple[Tensor, Sums]:
    """Gradients of the depthwise output, and of the weights from LayerNorm to the scale, in units of their own."""
    sums = Sums()
    dmapped = torch.empty_like(mapped)
    scaled = w.project
    if units.scale is not None:
        # Layer scale as rows of the projection: applying it to the gradient costs no pass over the map.
        scaled = torch.mul(units.scale[:, None], original.project, out=torch.empty_like(w.project))
    for tile, hidden, activated, dhidden in _tiles(mapped, w, buffers=3):
        drows = units.shrink(_rows(dout, tile), w.expand.dtype)
        normed, statistics, rows = _layer_norm(_rows(mapped, tile).to(w.expand.dtype), w, eps)
        normed = normed.to(w.expand.dtype)
        hidden = linear(normed, w.expand, w.expand_bias, hidden)
        aten.gelu.out(hidden, out=activated)
        if w.grn is None:
            sums.add_product('project', drows.mT, activated)
            dhidden = linear(drows, scaled.mT, None, dhidden)
        else:
            gain = grn_(_by_sample(dhidden.copy_(activated), mapped), *w.grn)
            sums.add_product('project', drows.mT, dhidden)
            dhidden = linear(drows, scaled.mT, None, dhidden)
            dgrn = grn_backward_(_by_sample(dhidden, mapped), _by_sample(activated, mapped), gain, w.grn[0])
            for name, part in zip(('grn_gamma', 'grn_beta'), dgrn, strict=True):
                sums.add(name, part)
        aten.gelu_backward.grad_input(dhidden, hidden, grad_input=dhidden)
        sums.add_product('expand', dhidden.mT, normed)
        dnormed = (
            linear(dhidden, w.expand.mT, None) if dhidden.device.type == 'cpu' else multiply_wide(dhidden, w.expand)
        )
        drows_in, dnorm, dnorm_bias = aten.native_layer_norm_backward(
            dnormed.to(rows.dtype), rows, w.norm.shape, *statistics, w.norm, w.norm_bias, [True, True, True]
        )
        _rows(dmapped, tile).copy_(drows_in)
        sums.add('norm', dnorm)
        sums.add('norm_bias', dnorm_bias)
        sums.add('expand_bias', sum_wide(dhidden, 0))
        sums.add('project_bias', sum_wide(drows, 0))
    return dmapped, sums


def _tiles(mapped: Tensor, w: Weights, buffers: int) -> Iterator[tuple]:
    """Cut the rows of a map (N, H, W, C) into tiles of equal size, apart from a shorter last one.

    With GRN, whose statistics are those of a sample, a tile has only complete samples.

    Yields:
        A slice, the rows of the tile, and buffers of (rows, 4C), which the next tile reuses.
    """
    samples, height, width, _ = mapped.shape
    unit, count = (1, samples * height * width) if w.grn is None else (height * width, samples)
    most = max(1, tile_rows(mapped.device) // unit)
    tiles = max(1, -(-count // most))
    size = max(1, -(-count // tiles)) * unit
    memory = w.expand.new_empty(buffers, size, len(w.expand))
    for first in range(0, count * unit, size):
        rows = min(size, count * unit - first)
        yield slice(first, first + rows), *memory[:, :rows]


def tile_rows(device: torch.device) -> int:
    """Maximum number of rows of a tile."""
    # With fewer, the weights are read too often; with more, the hidden maps leave the cache (measured on 2 CPU cores,
    # 96 to 768 channels). Fewer do not fill a GPU.
    return 2048 if device.type == 'cpu' else 65536


def _rows(x: Tensor, tile: slice) -> Tensor:
    """The rows of a tile of (N, H, W, C), viewed as (N H W, C)."""
    return x.view(-1, x.shape[-1])[tile]


def _by_sample(tile: Tensor, mapped: Tensor) -> Tensor:
    """A tile of complete samples of (N, H, W, C), viewed as (samples, H W, columns)."""
    return tile.view(-1, mapped.shape[1] * mapped.shape[2], tile.shape[1])
