"""Base class of the backbones: arguments, forward pass, frozen stages and initialization."""

from collections.abc import Iterator, Mapping, Sequence
from typing import ClassVar

import torch
from mmengine.model import BaseModule, PretrainedInit, initialize
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ..utils.errors import ArgumentError, printable
from ..utils.validation import FLAG, PROPER_PART, SIZE, integers
from .archs import Sizes
from .layers import LayerNorm2d, init_truncated_normal

NORM_EPS = 1e-6


class Backbone(BaseModule):
    """Base of the ConvNeXt family; arguments and attributes are described by the subclasses.

    A subclass builds ``downsample_layers`` (the stem first) and ``stages``, then calls :meth:`_finish_init`.
    """

    stage_strides: ClassVar[tuple[int, ...]] = (4, 8, 16, 32)
    pooled_norm = True  # whether a classifier normalizes the pooled features

    def __init__(
        self,
        sizes: Sizes,
        in_channels: int,
        out_indices: int | Sequence[int],
        out_norm: bool,
        frozen_stages: int,
        with_cp: bool,
        init_cfg: dict | list[dict] | None,
    ) -> None:
        super().__init__(init_cfg=init_cfg)
        self.depths, self.channels = sizes
        SIZE.check('in_channels', in_channels)
        self.in_channels = in_channels
        self.out_indices = parse_out_indices(out_indices, len(self.depths))
        self.out_channels = tuple(self.channels[i] for i in self.out_indices)
        self.strides = tuple(self.stage_strides[i] for i in self.out_indices)
        FLAG.check('out_norm', out_norm)
        FLAG.check('with_cp', with_cp)
        integers(0, len(self.depths)).check('frozen_stages', frozen_stages)
        self.out_norm, self.frozen_stages, self.with_cp = out_norm, frozen_stages, with_cp

    def _finish_init(self) -> None:
        """Add the output norms, initialize as in the paper and freeze."""
        if self.out_norm:
            for i in self.out_indices:
                self.add_module(f'norm{i}', LayerNorm2d(self.channels[i], eps=NORM_EPS))
        self.apply(init_truncated_normal)
        self._freeze()

    def stage_modules(self) -> list[tuple[nn.Module, nn.Sequential]]:
        """For each stage that is built: the stem or downsampling layer before it, and its blocks."""
        return list(zip(self.downsample_layers, self.stages, strict=True))

    def iter_blocks(self) -> Iterator[nn.Module]:
        """Iterate over the residual blocks, the units that FSDP shards."""
        for _, blocks in self.stage_modules():
            yield from blocks

    def init_weights(self) -> None:
        """Apply ``init_cfg``, a pretrained checkpoint last; without it the weights stay as constructed.

        Raises:
            ArgumentError: ``init_cfg`` is invalid.
            CheckpointMismatch: A pretrained checkpoint does not fill every tensor of the backbone.
        """
        init_from_config(self)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Compute the feature maps of the chosen stages.

        Args:
            x: Images, (N, in_channels, H, W); H and W at least the largest stride, not necessarily a multiple of it.

        Returns:
            A map (N, C_i, H // stride_i, W // stride_i) for each of ``out_indices``, in the memory format of ``x``.

        Raises:
            ArgumentError: The number of channels is wrong, or the images are too small.
        """
        self.check_input(x)
        channels_last = x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()
        # Linear layers and LayerNorm work on NHWC: in this format nothing is permuted on the way.
        x = x.contiguous(memory_format=torch.channels_last)
        maps = {}
        for i, (downsample, blocks) in enumerate(self.stage_modules()):
            x = downsample(x)
            for block in blocks:
                x = self.run_block(block, x)
            if i in self.out_indices:
                out = getattr(self, f'norm{i}')(x) if self.out_norm else x
                # The output keeps the input's memory format: custom detection ops (mmcv's RoIAlign) read any memory as
                # NCHW and would silently compute on permuted values.
                maps[i] = out if channels_last else out.contiguous()
        return tuple(maps[i] for i in self.out_indices)

    def run_block(self, block: nn.Module, x: Tensor, *arguments: object) -> Tensor:
        """Run a block; with ``with_cp`` its activations are recomputed in the backward pass."""
        if self.with_cp and x.requires_grad:
            return checkpoint(block, x, *arguments, use_reentrant=False)
        return block(x, *arguments)

    def check_input(self, x: Tensor) -> None:
        """Raise ArgumentError unless the backbone takes this input."""
        if not isinstance(x, Tensor):
            raise ArgumentError(
                f'The input is a {type(x).__name__}, but this backbone takes images as one tensor: name a '
                f'data_preprocessor of the model that makes it.'
            )
        if x.ndim != 4 or x.shape[1] != self.in_channels:
            raise ArgumentError(
                f'The input has the shape {tuple(x.shape)}, but this backbone takes (N, {self.in_channels}, H, W): '
                f'pass such images or build it with another in_channels.'
            )
        least = self.stage_strides[-1]
        if min(x.shape[2:]) < least:
            raise ArgumentError(
                f'The input is {x.shape[2]}x{x.shape[3]} pixels, but both sides must have at least {least} '
                f'(the last stage has stride {least}): resize or pad the images.'
            )

    def train(self, mode: bool = True) -> 'Backbone':
        """Set the mode and freeze the frozen stages again."""
        super().train(mode)
        self._freeze()
        return self

    def _freeze(self) -> None:
        for downsample, blocks in self.stage_modules()[: self.frozen_stages]:
            downsample.eval().requires_grad_(False)
            blocks.eval().requires_grad_(False)


def init_from_config(model: BaseModule) -> None:
    """Apply the ``init_cfg`` of a backbone or classifier, pretrained weights last; raises as its ``init_weights``."""
    given = model.init_cfg
    entries = [given] if isinstance(given, Mapping) else given or []
    if not isinstance(entries, Sequence) or not all(isinstance(one, Mapping) and 'type' in one for one in entries):
        raise ArgumentError(
            f'init_cfg={printable(repr(given))} is wrong: it takes a dict with a type, or a list of such dicts.'
        )
    # A config may name mmengine's own class; the name finds the strict one that is registered in its place.
    entries = [{**entry, 'type': 'Pretrained'} if entry['type'] is PretrainedInit else entry for entry in entries]
    initialize(model, sorted(entries, key=lambda entry: entry['type'] == 'Pretrained'))
    model._is_init = True


def drop_path_rates(rate: float, depths: Sequence[int]) -> list[list[float]]:
    """Stochastic depth rates of the blocks of each stage, rising linearly from 0 to ``rate``."""
    PROPER_PART.check('drop_path_rate', rate)
    # On the CPU even where a model is built on the meta device, which holds no numbers.
    return [part.tolist() for part in torch.linspace(0, rate, sum(depths), device='cpu').split(list(depths))]


def parse_out_indices(out_indices: int | Sequence[int], stages: int) -> tuple[int, ...]:
    """Indices of stages, counted from 0, in the given order."""
    indices = tuple(out_indices) if isinstance(out_indices, Sequence) else (out_indices,)
    if not indices or not all(map(integers(-stages, stages - 1).fits, indices)):
        raise ArgumentError(
            f'out_indices={printable(repr(out_indices))} is out of range: each is a stage, 0 to {stages - 1} or '
            f'-{stages} to -1.'
        )
    chosen = tuple(i % stages for i in indices)
    if len(set(chosen)) < len(chosen):
        raise ArgumentError(f'out_indices={out_indices!r} names a stage twice.')
    return chosen
