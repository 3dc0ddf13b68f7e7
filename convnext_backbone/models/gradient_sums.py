"""Gradients of a fused block in half precision: the units that keep them in range, and sums that keep their digits.

Layer scale begins at 1e-6. Times weights of 0.02 it is less than half of the least number of fp16, and so would be what
passes through it. So the backward pass of a block works with the gradient of its output divided by its largest value,
and with layer scale divided by its largest; what comes out is multiplied by both, in fp32.
"""

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor
from torch.ops import aten

if TYPE_CHECKING:
    from .block_weights import Weights

_LEAST = 1e-30  # of what is divided by: a gradient of zeros stays one
_EXPONENT = 0x7F800000  # the bits of a number's exponent in fp32


class Units(NamedTuple):
    """What gradients are divided by within a block; None for types that have the range of fp32.

    Attributes:
        scale: Layer scale in units of its largest value, (C,); None without it.
        rows: The unit of the gradients of the block's output, (1,).
        branch: That of the gradients before layer scale, (1,).
    """

    scale: Tensor | None
    rows: Tensor | None = None
    branch: Tensor | None = None

    @classmethod
    def of(cls, dout: Tensor, scale: Tensor | None, dtype: torch.dtype) -> 'Units':
        """The units for maps of a type; nothing waits for the device.

        Args:
            dout: Gradient of the output, of any shape.
            scale: Layer scale, (C,), if there is one.
            dtype: Of the maps.
        """
        if dtype != torch.float16 or not dout.numel():
            return cls(scale)
        measured = [dout] if scale is None else [dout, scale]
        largest = dout.new_empty(len(measured), dtype=torch.float32)
        for place, one in enumerate(measured):
            torch.linalg.vector_norm(one, torch.inf, dtype=torch.float32, out=largest[place])
        largest.clamp_(min=_LEAST)
        if dout.dtype == torch.float16:  # by a power of two nothing is rounded
            largest.view(torch.int32).bitwise_and_(_EXPONENT)
        rows, scales = largest[:1], largest[1:]
        return cls(None, rows, rows) if scale is None else cls(scale / scales, rows, rows * scales)

    def shrink(self, dout: Tensor, dtype: torch.dtype) -> Tensor:
        """Gradients of the output in their unit, in the type of the maps."""
        if self.rows is None:
            return dout.to(dtype)
        return torch.div(dout, self.rows, out=dout.new_empty(dout.shape, dtype=dtype))

    def add_branch(self, dout: Tensor, dbranch: Tensor, kept: Tensor | None) -> Tensor:
        """Add the gradient of the branch, which may be overwritten, to that of the shortcut.

        Args:
            dout: Gradient of the output, (N, H, W, C).
            dbranch: That of the input of the branch, in its unit, (n, H, W, C).
            kept: The n samples that it is of; None for all.
        """
        if kept is not None:
            return dout.index_add(0, kept, (dbranch if self.branch is None else dbranch * self.branch).to(dout.dtype))
        if self.branch is not None:
            return torch.addcmul(dout, dbranch, self.branch, out=torch.empty_like(dout))
        return dbranch.add_(dout) if dbranch.dtype == dout.dtype else dout + dbranch


class Sums:
    """Gradients of weights by name, summed over tiles in fp32 at least."""

    def __init__(self) -> None:
        self._totals: dict[str, Tensor] = {}

    def add(self, name: str, part: Tensor) -> None:
        """Add the part of a tile, which may become the sum."""
        total = self._totals.get(name)
        self._totals[name] = _widen(part) if total is None else total.add_(part)

    def add_product(self, name: str, left: Tensor, right: Tensor) -> None:
        """Add a matrix product."""
        total = self._totals.get(name)
        if total is not None and total.dtype == left.dtype:
            total.addmm_(left, right)
        else:
            self.add(name, multiply_wide(left, right))

    def finish(self, weights: 'Weights', units: Units) -> 'Weights':
        """The gradients of weights; zeros for those without a sum, as of an empty batch."""
        totals = self._totals
        if units.branch is not None and units.rows is not None:
            last = ('project', 'project_bias') if weights.scale is not None else ()
            torch._foreach_mul_([one for name, one in totals.items() if name not in last], units.branch.squeeze())
            if last:
                torch._foreach_mul_([totals[name] for name in last], units.rows.squeeze())
        if weights.scale is not None and 'project' in totals:
            # The gradients of the projection still lack the scale: they give that of the scale, then get it.
            project, bias = totals['project'], totals['project_bias']
            totals['scale'] = (project * weights.project).sum(1) + bias * weights.project_bias
            totals.update(project=project * weights.scale[:, None], project_bias=bias * weights.scale)
        return weights._replace(
            **{
                name: totals[name].to(weight.dtype) if name in totals else torch.zeros_like(weight)
                for name, weight in weights._asdict().items()
                if weight is not None
            }
        )


def sum_wide(x: Tensor, dim: int | tuple[int, ...]) -> Tensor:
    """A sum in fp32 at least; a CPU would convert the map first, so there it is rounded once, after it is summed."""
    return x.sum(dim) if x.device.type == 'cpu' else x.sum(dim, dtype=torch.promote_types(x.dtype, torch.float32))


def _widen(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))


def multiply_wide(left: Tensor, right: Tensor) -> Tensor:
    """A matrix product, of half precision in fp32 where the device has a kernel: sums may leave the range of fp16."""
    if left.dtype.itemsize == 2 and left.device.type != 'cpu' and hasattr(aten.mm, 'dtype'):
        return torch.mm(left, right, out_dtype=torch.float32)
    return left @ right
