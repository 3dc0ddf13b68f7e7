"""From ResNet to ConvNeXt, step by step (arXiv 2201.03545, section 2): a model for every step.

Each of :data:`STEPS` is one change of the design; :class:`ModernizedBlock` and :class:`ModernizedResNet` implement
them. The last model has ConvNeXt's parameters by ConvNeXt's names, so that checkpoints fit both.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import accumulate
from typing import Any, NamedTuple

import torch
from mmengine.registry import MODELS
from torch import Tensor, nn

from ..utils.errors import ArgumentError
from .archs import Sizes
from .backbone import NORM_EPS, Backbone, drop_path_rates
from .convnext import make_downsampling, make_stem
from .layers import DropPath, LayerNorm2d, PatchConv2d


@dataclass(frozen=True)
class Design:
    """Design decisions. The defaults are ResNet's, with the stride in the 3x3 convolution, as torchvision has it."""

    swin_depths: bool = False  # most blocks in the third stage, as in Swin
    patchify: bool = False  # the stem is one 4x4 convolution of stride 4, not 7x7 of stride 2, norm, ReLU and pooling
    depthwise: bool = False  # the spatial convolution is depthwise
    swin_width: bool = False  # more channels, for what depthwise convolutions save
    inverted: bool = False  # a block has four times the channels inside, not at its ends
    spatial_first: bool = False  # the spatial convolution comes before the 1x1 ones, not between them
    kernel_size: int = 3  # of the spatial convolution
    activation: Callable[[], nn.Module] = partial(nn.ReLU, inplace=True)
    one_activation: bool = False  # between the 1x1 convolutions, not after every convolution, the last with the sum
    one_norm: bool = False  # after the spatial convolution, not after every one
    layer_norm: bool = False  # not batch norm
    separate_downsampling: bool = False  # between the stages; with norms there, after the stem and after pooling
    layer_scale: bool = False  # no step of its own in the paper, but its final models have it (table 5)

    def make_norm(self, channels: int) -> nn.Module:
        """The norm of (N, C, H, W) maps."""
        return LayerNorm2d(channels, eps=NORM_EPS) if self.layer_norm else nn.BatchNorm2d(channels)

    def make_stem(self, in_channels: int, channels: int) -> nn.Module:
        """The stem, of stride 4."""
        if self.separate_downsampling:
            return make_stem(in_channels, channels)
        if self.patchify:
            return nn.Sequential(PatchConv2d(in_channels, channels, 4))
        conv = nn.Conv2d(in_channels, channels, kernel_size=7, stride=2, padding=3, bias=False)
        pool = nn.MaxPool2d(kernel_size=3, stride=2, padding=1)
        return nn.Sequential(conv, self.make_norm(channels), self.activation(), pool)

    def order_layers(self) -> Iterator[str]:
        """Names of the layers of a block's residual branch, in the order of execution."""
        convs = ('dwconv', 'pwconv1', 'pwconv2') if self.spatial_first else ('pwconv1', 'dwconv', 'pwconv2')
        norms = dict(dwconv='norm') if self.one_norm else dict(dwconv='norm', pwconv1='norm1', pwconv2='norm2')
        activated = ('pwconv1',) if self.one_activation else convs[:2]
        for conv in convs:
            yield conv
            if conv in norms:
                yield norms[conv]
            if conv in activated:
                yield 'act'


STEPS: dict[str, dict[str, Any]] = {
    'original': {},
    'stage_ratio': dict(swin_depths=True),
    'patchify_stem': dict(patchify=True),
    'depthwise': dict(depthwise=True),
    'width': dict(swin_width=True),
    'inverted': dict(inverted=True),
    'move_up': dict(spatial_first=True),
    'kernel_5': dict(kernel_size=5),
    'kernel_7': dict(kernel_size=7),
    'kernel_9': dict(kernel_size=9),
    'kernel_11': dict(kernel_size=11),
    'gelu': dict(kernel_size=7, activation=nn.GELU),  # 7: the larger ones gained nothing
    'fewer_activations': dict(one_activation=True),
    'fewer_norms': dict(one_norm=True),
    'layer_norm': dict(layer_norm=True),
    'separate_downsampling': dict(separate_downsampling=True, layer_scale=True),
}
_designs = accumulate(STEPS.values(), lambda design, change: replace(design, **change), initial=Design())
DESIGNS: dict[str, Design] = dict(zip(STEPS, list(_designs)[1:], strict=True))


class Regime(NamedTuple):
    """Depths and widths of a ResNet, and what the steps ``stage_ratio`` and ``width`` make of them."""

    depths: tuple[int, ...]
    width: int
    swin_depths: tuple[int, ...]
    swin_depths_width: int
    swin_width: int

    def sizes(self, design: Design, width_factor: float) -> tuple[Sizes, int]:
        """Depths and channels of the stages, and the channels of the stem."""
        depths, full = (self.swin_depths, self.swin_depths_width) if design.swin_depths else (self.depths, self.width)
        full = self.swin_width if design.swin_width else full
        width = full * width_factor
        if width < 1 or width != int(width):
            raise ArgumentError(
                f'width_factor={width_factor!r} makes {width:g} channels of {full}: take one that fits.'
            )
        first = int(width) if design.inverted else 4 * int(width)
        return (depths, tuple(first * 2**i for i in range(4))), int(width)


REGIMES = {
    'r50': Regime((3, 4, 6, 3), 64, (3, 3, 9, 3), 64, 96),
    'r200': Regime((3, 24, 36, 3), 64, (3, 3, 27, 3), 84, 128),
}


class Pointwise(nn.Linear):
    """1x1 convolution of (N, C, H, W), as a linear layer."""

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C, H, W) to (N, out_features, H, W), channels-last."""
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class ModernizedBlock(nn.Module):
    """Residual block of a spatial convolution (``dwconv``, even where it is not depthwise) and two 1x1 ones."""

    def __init__(
        self,
        design: Design,
        in_channels: int,
        channels: int,
        stride: int,
        drop_path_rate: float,
        layer_scale_init_value: float,
    ) -> None:
        super().__init__()
        hidden = channels * 4 if design.inverted else channels // 4
        spatial = in_channels if design.spatial_first else hidden
        self.dwconv = nn.Conv2d(
            spatial,
            spatial,
            design.kernel_size,
            stride,
            padding=design.kernel_size // 2,
            groups=spatial if design.depthwise else 1,
            bias=design.layer_norm,  # a batch norm cancels the bias before it
        )
        self.pwconv1 = Pointwise(in_channels, hidden, bias=design.one_norm)
        self.pwconv2 = Pointwise(hidden, channels, bias=design.one_norm)
        self.norm = design.make_norm(spatial)
        if not design.one_norm:
            self.norm1, self.norm2 = design.make_norm(hidden), design.make_norm(channels)
        self.act = design.activation()
        self.act_after_sum = not design.one_activation
        self.layers = list(design.order_layers())  # of the branch, by name
        scaled = design.layer_scale and layer_scale_init_value
        self.gamma = nn.Parameter(torch.full((channels,), float(layer_scale_init_value))) if scaled else None
        self.drop_path = DropPath(drop_path_rate)
        self.shortcut: nn.Module = nn.Identity()
        if stride > 1 or in_channels != channels:
            projection = nn.Conv2d(in_channels, channels, kernel_size=1, stride=stride, bias=False)
            self.shortcut = nn.Sequential(projection, design.make_norm(channels))

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, in_channels, H, W) to (N, channels, H / stride, W / stride)."""
        branch = x
        for layer in self.layers:
            branch = getattr(self, layer)(branch)
        if self.gamma is not None:
            branch = self.gamma[:, None, None] * branch
        x = self.shortcut(x) + self.drop_path(branch)
        return self.act(x) if self.act_after_sum else x


@MODELS.register_module()
class ModernizedResNet(Backbone):
    """A ResNet on its way to ConvNeXt, returning the feature maps of the chosen stages.

    Args:
        regime: ``'r50'`` leads from ResNet-50 to ConvNeXt-T (paper, table 10), ``'r200'`` from ResNet-200 to B (11).
        step: The last step applied: a key of :data:`STEPS`.
        width_factor: Factor on all channels, for smaller models.
        in_channels, out_indices, out_norm, init_cfg: As in :class:`.ConvNeXt`.
        drop_path_rate: 0.1 in the paper's runs of the first regime, 0.5 in those of the second.
        layer_scale_init_value: Initial value of layer scale, which the last step has; 0 leaves it out.
        frozen_stages: Freeze the stem and the first k stages, with the statistics of their norms.
        with_cp: Recompute each block in the backward pass; batch norms then count a batch twice.

    Attributes:
        out_channels, strides, depths, channels (tuple[int, ...]): As in :class:`.ConvNeXt`.
    """

    def __init__(
        self,
        regime: str = 'r50',
        step: str = 'separate_downsampling',
        width_factor: float = 1.0,
        in_channels: int = 3,
        drop_path_rate: float = 0.0,
        layer_scale_init_value: float = 1e-6,
        out_indices: int | Sequence[int] = (0, 1, 2, 3),
        out_norm: bool = True,
        frozen_stages: int = 0,
        with_cp: bool = False,
        init_cfg: dict | list[dict] | None = None,
    ) -> None:
        if regime not in REGIMES:
            raise ArgumentError(f'regime={regime!r} is unknown: it is one of {", ".join(REGIMES)}.')
        if step not in STEPS:
            raise ArgumentError(f'step={step!r} is unknown: the steps are, in order, {", ".join(STEPS)}.')
        design = DESIGNS[step]
        sizes, stem_width = REGIMES[regime].sizes(design, width_factor)
        super().__init__(sizes, in_channels, out_indices, out_norm, frozen_stages, with_cp, init_cfg)
        self.pooled_norm = design.separate_downsampling
        rates = drop_path_rates(drop_path_rate, self.depths)
        self.downsample_layers, self.stages = nn.ModuleList(), nn.ModuleList()
        for i in range(max(self.out_indices) + 1):
            before, channels = (stem_width, *self.channels)[i : i + 2]
            downsample: nn.Module
            stride = 1
            if i == 0:
                downsample = design.make_stem(in_channels, stem_width)
            elif design.separate_downsampling:
                downsample, before = make_downsampling(before, channels), channels
            else:
                downsample, stride = nn.Identity(), 2
            first, *others = rates[i]
            blocks = [ModernizedBlock(design, before, channels, stride, first, layer_scale_init_value)]
            blocks += [ModernizedBlock(design, channels, channels, 1, rate, layer_scale_init_value) for rate in others]
            self.downsample_layers.append(downsample)
            self.stages.append(nn.Sequential(*blocks))
        self._finish_init()
