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
    from .fused_block import Weights

_PEAK = 0.25  # of the gradients in their units: sums over the 65,536 rows of a tile stay in the range of fp16
_LEAST = 1e-30  # of what is divided by: a gradient of zeros stays one


class Units(NamedTuple):
    """What gradients are divided by within a block; None for types that have the range of fp32.

    Attributes:
        scale: Layer scale in units of its largest value, (C,).
        rows: The unit of the gradients of the block's output, (1,).
        branch: That of the gradients before layer scale, (1,).
    """

    scale: Tensor
    rows: Tensor | None = None
    branch: Tensor | None = None

    @classmethod
    def of(cls, dout: Tensor, scale: Tensor, dtype: torch.dtype) -> 'Units':
        """The units for maps of a type; nothing waits for the device.

        Args:
            dout: Gradient of the output, of any shape.
            scale: Layer scale, (C,).
            dtype: Of the maps.
        """
        if dtype != torch.float16 or not dout.numel():
            return cls(scale)
        rows, largest = (
            _power_of_two(torch.linalg.vector_norm(one, torch.inf, dtype=torch.float32)) for one in (dout, scale)
        )
        rows = rows / _PEAK
        return cls(scale / largest, rows, rows * largest)

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
            self.add(name, _multiply(left, right))

    def finish(self, weights: 'Weights', units: Units) -> 'Weights':
        """The gradients of weights; zeros for those without a sum, as of an empty batch."""
        totals, after = self._totals, ('project', 'project_bias')
        if units.branch is not None and units.rows is not None:
            torch._foreach_mul_([one for name, one in totals.items() if name not in after], units.branch.squeeze())
            torch._foreach_mul_([totals[name] for name in after], units.rows.squeeze())
        if 'project' in totals:
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
    """A sum in fp32 at least."""
    return x.sum(dim, dtype=torch.promote_types(x.dtype, torch.float32))


def _widen(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _multiply(left: Tensor, right: Tensor) -> Tensor:
    """A product whose sums of fp16 numbers do not overflow."""
    if left.dtype == torch.float16 and left.device.type == 'cuda' and hasattr(aten.mm, 'dtype'):
        return torch.mm(left, right, out_dtype=torch.float32)
    return left @ right


def _power_of_two(largest: Tensor) -> Tensor:
    """A power of two, (1,), from half of a number to the number: dividing by it rounds nothing."""
    largest = largest.clamp(min=_LEAST).view(1)
    mantissa, _ = torch.frexp(largest)
    return largest / (2 * mantissa)
