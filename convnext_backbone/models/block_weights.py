"""The weights of a ConvNeXt block as a fused block takes them, and their conversion to the data type of the maps."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

if TYPE_CHECKING:
    from .convnext import ConvNeXtBlock

_CAST = ('conv', 'conv_bias', 'expand', 'expand_bias', 'project', 'project_bias')


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


def collect_weights(block: 'ConvNeXtBlock') -> Weights:
    """The weights of a block, with layer scale over the rate at which stochastic depth keeps a sample."""
    scale: Tensor | None = block.gamma
    if block.drop_path.drops:
        scale = (torch.ones_like(block.pwconv2.bias) if scale is None else scale) / (1 - block.drop_path.rate)
    layers = (block.dwconv, block.norm, block.pwconv1, block.pwconv2)
    grn = (None, None) if block.grn is None else (block.grn.gamma, block.grn.beta)
    return Weights._make([*(w for layer in layers for w in (layer.weight, layer.bias)), scale, *grn])
