"""A ConvNeXt block as one autograd function: the numbers of the plain block in a sixth of its memory, and faster.

For its backward pass the plain block keeps twelve values a position and channel, eight of them in the two hidden maps
of four times the width. This one keeps two: the input and the output of the depthwise convolution. Both passes walk
over the map in tiles of rows, whose hidden values stay in the cache; the backward pass recomputes them.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.ops import aten

from .block_weights import Weights, collect_weights
from .depthwise_grad import depthwise_backward
from .gpu_kernels import by_triton, tail_by_triton
from .gradient_sums import Sums, Units, multiply_wide, sum_wide
from .grn import grn_, grn_backward_
from .onednn_linear import linear, pack
from .precision import map_dtype, without_autocast, without_tuning, working_dtype
from .visible_patches import VisiblePatches

if TYPE_CHECKING:
    from .convnext import ConvNeXtBlock


TILE_VALUES = 1_250_000  # of a hidden map on a CPU: 5 MB, which stay in its cache
GPU_ROWS = 262_144  # of a tile: a quarter takes 10 to 25 % longer on an H200, as it waits for launches


def run_fused(block: 'ConvNeXtBlock', x: Tensor, patches: VisiblePatches | None = None) -> Tensor:
    """Compute a block by :class:`FusedBlock`; arguments as of the block."""
    kept, weights = block.drop_path.draw(len(x)), collect_weights(block)
    nhwc = x.permute(0, 2, 3, 1).contiguous()
    learns = torch.is_grad_enabled() and any(one is not None and one.requires_grad for one in (nhwc, *weights))
    dtype = map_dtype(block.pwconv1.weight)
    indices = None if kept is None else find_kept(kept, x.device)
    if learns:
        out = FusedBlock.apply(nhwc, indices, dtype, block.norm.eps, patches, *weights)
    else:
        out, _ = forward_pass(nhwc, indices, dtype, block.norm.eps, True, weights, patches)
    return out.permute(0, 3, 1, 2)


def find_kept(kept: Tensor, device: torch.device) -> Tensor | None:
    """The indices of samples that are kept, of a mask on the host; None if all are."""
    return None if kept.all() else kept.nonzero().flatten().to(device, non_blocking=True)


class Saved(NamedTuple):
    """What a forward pass keeps for the backward pass.

    Attributes:
        inputs: The input of the branch, (n, H, W, C), in the type of the maps.
        mapped: The output of the depthwise convolution, the same.
        casts: Of :meth:`Weights.cast`.
    """

    inputs: Tensor
    mapped: Tensor
    casts: list[Tensor]


class FusedBlock(torch.autograd.Function):
    """``x + scale * branch(x)``; the branch goes from the depthwise convolution to the second linear layer."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        kept: Tensor | None,
        dtype: torch.dtype,
        eps: float,
        patches: VisiblePatches | None,
        *weights: Tensor | None,
    ) -> Tensor:
        """Compute the block, as of :func:`forward_pass`."""
        out, saved = forward_pass(x, kept, dtype, eps, False, Weights._make(weights), patches)
        ctx.save_for_backward(kept, *weights, saved.inputs, saved.mapped, *saved.casts)
        ctx.eps, ctx.patches = eps, patches
        return out

    @staticmethod
    def backward(ctx: Any, dout: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of the map and the weights.

        Raises:
            RuntimeError: A second derivative is asked for.
        """
        if torch.is_grad_enabled():  # torch's once_differentiable overlooks a constant dout
            raise RuntimeError('A fused block has no second derivative (create_graph=True): build it with fused=False.')
        kept, *tensors = ctx.saved_tensors
        number = len(Weights._fields)
        inputs, mapped, *casts = tensors[number:]
        saved = Saved(inputs, mapped, casts)
        dx, d = backward_pass(dout, kept, ctx.eps, Weights._make(tensors[:number]), saved, ctx.patches)
        return dx, None, None, None, None, *d


def forward_pass(
    x: Tensor,
    kept: Tensor | None,
    dtype: torch.dtype,
    eps: float,
    in_place: bool,
    weights: Weights,
    patches: VisiblePatches | None = None,
) -> tuple[Tensor, Saved]:
    """Compute a block.

    Args:
        x: The map, (N, H, W, C), contiguous.
        kept: Indices of the n samples whose branch is computed; None for all.
        dtype: Data type of the intermediate maps: that of autocast, or the weights'.
        eps: Of the LayerNorm.
        in_place: There is no backward pass: what it would need may be overwritten.
        weights: Of the block.
        patches: Where the map is in masked images, if it has their visible positions alone.

    Returns:
        The output, (N, H, W, C), in the wider data type of ``x`` and the weights, and what the backward pass needs.
    """
    out_dtype = torch.promote_types(x.dtype, weights.project.dtype)
    with without_autocast(x.device), without_tuning(kept):
        casts = weights.cast(working_dtype(dtype, x.device))
        w = weights.replace(casts)
        shortcut = x if kept is None else x[kept]
        inputs = shortcut.to(dtype)
        patches = patches and patches.take(kept)
        mapped = (patches.depthwise(inputs, w, _depthwise) if patches else _depthwise(inputs, w)).to(dtype)
        if in_place:
            inputs = mapped  # which frees them
        # With no backward pass a tile of the output may overwrite its input: one map less, and no new pages.
        out = mapped if in_place and mapped.dtype == out_dtype else torch.empty_like(shortcut, dtype=out_dtype)
        _tail(mapped, shortcut, w, eps, out)
    out = out if kept is None else x.to(out_dtype, copy=True).index_copy_(0, kept, out)
    return out, Saved(inputs, mapped, casts)


def backward_pass(
    dout: Tensor,
    kept: Tensor | None,
    eps: float,
    weights: Weights,
    saved: Saved,
    patches: VisiblePatches | None = None,
) -> tuple[Tensor, Weights]:
    """Gradients of the map and the weights; arguments as of :func:`forward_pass`."""
    inputs, mapped, casts = saved
    with without_autocast(dout.device), without_tuning(kept):
        w = weights.replace(casts)
        dout = dout.contiguous()
        dbranch = dout if kept is None else dout[kept]
        units = Units.of(dbranch, weights.scale, mapped.dtype)
        dmapped, sums = _tail_backward(mapped, dbranch, w, weights, units, eps)
        dmapped = dmapped.to(w.conv.dtype)
        backward = patches.take(kept).depthwise_backward if patches else depthwise_backward
        dinputs, dconv, dconv_bias = backward(inputs.to(w.conv.dtype), dmapped, w.conv)
        sums.add('conv', dconv)
        sums.add('conv_bias', dconv_bias)
        return units.add_branch(dout, dinputs, kept), sums.finish(weights, units)


def _depthwise(x: Tensor, w: Weights) -> Tensor:
    """Depthwise convolution of (N, H, W, C), computed in the data type of the weights."""
    x = x.to(w.conv.dtype)
    if by_triton(x):
        from .triton_depthwise import depthwise

        return depthwise(x, w.conv, w.conv_bias)
    x = x.permute(0, 3, 1, 2)
    out = F.conv2d(x, w.conv, w.conv_bias, padding=w.conv.shape[-1] // 2, groups=x.shape[1])
    return out.permute(0, 2, 3, 1).contiguous()  # a copy only on some devices


def _tail(mapped: Tensor, shortcut: Tensor, w: Weights, eps: float, out: Tensor) -> None:
    """Compute what follows the depthwise convolution, from LayerNorm to the sum."""
    if tail_by_triton(mapped, w):
        from .triton_tail import tail

        tail(mapped, shortcut, w, eps, out).run()
        return
    expand, project = _pack(mapped, w.expand, w.project)
    for tile, hidden in _tiles(mapped, w, buffers=1):
        normed, *_ = _layer_norm(_rows(mapped, tile).to(w.expand.dtype), w, eps)
        hidden = linear(normed.to(w.expand.dtype), expand, w.expand_bias, hidden, gelu=True)
        if w.grn is not None:
            grn_(_by_sample(hidden, mapped), *w.grn)
        branch = linear(hidden, project, w.project_bias)
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
    expand, to_hidden, to_normed = _pack(mapped, w.expand, scaled.mT, w.expand.mT)
    for tile, hidden, activated, dhidden in _tiles(mapped, w, buffers=3):
        drows = units.shrink(_rows(dout, tile), w.expand.dtype)
        normed, statistics, rows = _layer_norm(_rows(mapped, tile).to(w.expand.dtype), w, eps)
        normed = normed.to(w.expand.dtype)
        hidden = linear(normed, expand, w.expand_bias, hidden)
        aten.gelu.out(hidden, out=activated)
        if w.grn is None:
            sums.add_product('project', drows.mT, activated)
            dhidden = linear(drows, to_hidden, None, dhidden)
        else:
            gain = grn_(_by_sample(dhidden.copy_(activated), mapped), *w.grn)
            sums.add_product('project', drows.mT, dhidden)
            dhidden = linear(drows, to_hidden, None, dhidden)
            dgrn = grn_backward_(_by_sample(dhidden, mapped), _by_sample(activated, mapped), gain, w.grn[0])
            for name, part in zip(('grn_gamma', 'grn_beta'), dgrn, strict=True):
                sums.add(name, part)
        aten.gelu_backward.grad_input(dhidden, hidden, grad_input=dhidden)
        sums.add_product('expand', dhidden.mT, normed)
        dnormed = linear(dhidden, to_normed, None) if dhidden.device.type == 'cpu' else multiply_wide(dhidden, w.expand)
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
    most = max(1, tile_rows(w.expand) // unit)
    tiles = max(1, -(-count // most))
    size = max(1, -(-count // tiles)) * unit
    memory = w.expand.new_empty(buffers, size, len(w.expand))
    for first in range(0, count * unit, size):
        rows = min(size, count * unit - first)
        yield slice(first, first + rows), *memory[:, :rows]


def _pack(mapped: Tensor, *weights: Tensor) -> list[Tensor]:
    """Pack weights for the tiles of a map, if there are several."""
    most = tile_rows(weights[0])
    rows = mapped[..., 0].numel()
    return [pack(weight, most) for weight in weights] if rows > 2 * most else [*weights]


def tile_rows(expand: Tensor) -> int:
    """Maximum number of rows of a tile; ``expand`` is the weight of the first linear layer, (4C, C)."""
    # With fewer, the weights are read too often; with more, the hidden maps leave the cache (measured on 2 CPU cores,
    # 96 to 768 channels).
    return max(2048, TILE_VALUES // len(expand)) if expand.device.type == 'cpu' else GPU_ROWS


def _rows(x: Tensor, tile: slice) -> Tensor:
    """The rows of a tile of (N, H, W, C), viewed as (N H W, C)."""
    return x.view(-1, x.shape[-1])[tile]


def _by_sample(tile: Tensor, mapped: Tensor) -> Tensor:
    """A tile of complete samples of (N, H, W, C), viewed as (samples, H W, columns)."""
    return tile.view(-1, mapped.shape[1] * mapped.shape[2], tile.shape[1])
