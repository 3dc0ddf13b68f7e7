"""The road from ResNet to ConvNeXt (arXiv 2201.03545, section 2): a model for every step.

:data:`STEPS` is the road, each step one change of the design on the last; :class:`ModernizedBlock` says what each
setting of a design does. The last model has ConvNeXt's parameters by ConvNeXt's names, so that checkpoints fit both.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import accumulate
from typing import NamedTuple

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
    """What the steps decide. The defaults are ResNet's, with its stride in the 3x3 convolution, as torchvision has."""

    swin_depths: bool = False  # most blocks in the third stage, as in Swin
    patchify: bool = False  # the stem is one 4x4 convolution of stride 4, not 7x7 of stride 2, norm, ReLU and pooling
    depthwise: bool = False  # the spatial convolution works on each channel by itself
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


STEPS: dict[str, dict] = {
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
    """The blocks and the width of a ResNet, and what becomes of them on the road."""

    depths: tuple[int, ...]
    width: int
    swin_depths: tuple[int, ...]  # from stage_ratio on
    swin_depths_width: int
    swin_width: int  # from width on

    def sizes(self, design: Design) -> tuple[tuple[int, ...], int]:
        """The blocks of the stages, and the width, of a design."""
        depths = self.swin_depths if design.swin_depths else self.depths
        width = self.swin_depths_width if design.swin_depths else self.width
        return depths, self.swin_width if design.swin_width else width


REGIMES = {
    'r50': Regime((3, 4, 6, 3), 64, (3, 3, 9, 3), 64, 96),
    'r200': Regime((3, 24, 36, 3), 64, (3, 3, 27, 3), 84, 128),
}


class Pointwise(nn.Linear):
    """A 1x1 convolution of (N, C, H, W), as a linear layer of its positions."""

    def forward(self, x: Tensor) -> Tensor:
        """Maps (N, C, H, W) to (N, out_features, H, W), channels-last."""
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class ModernizedBlock(nn.Module):
    """A residual block of a spatial convolution (``dwconv``, even where it is not depthwise) and two 1x1 ones.

    Args:
        design: What has been decided.
        before: Channels of the input.
        channels: Channels of the output.
        stride: Of the spatial convolution, and of the shortcut.
        drop_path_rate: Probability that a sample's branch is dropped in training.
        layer_scale_init_value: Start value of layer scale, where the design has it; 0 leaves it out.

    Attributes:
        layers (list[str]): The layers of the branch, in the order of their work.
    """

    def __init__(
        self,
        design: Design,
        before: int,
        channels: int,
        stride: int = 1,
        drop_path_rate: float = 0.0,
        layer_scale_init_value: float = 1e-6,
    ) -> None:
        super().__init__()
        hidden = channels * 4 if design.inverted else channels // 4
        spatial = before if design.spatial_first else hidden
        kernel = dict(kernel_size=design.kernel_size, padding=design.kernel_size // 2, stride=stride)
        groups = spatial if design.depthwise else 1
        # A batch norm takes away whatever a bias adds before it.
        self.dwconv = nn.Conv2d(spatial, spatial, **kernel, groups=groups, bias=design.layer_norm)
        self.pwconv1 = Pointwise(before, hidden, bias=design.one_norm)
        self.pwconv2 = Pointwise(hidden, channels, bias=design.one_norm)
        self.norm = make_norm(design, spatial)
        if not design.one_norm:
            self.norm1, self.norm2 = make_norm(design, hidden), make_norm(design, channels)
        self.act = design.activation()
        self.act_after_sum = not design.one_activation
        self.layers = list(order_layers(design))
        scaled = design.layer_scale and layer_scale_init_value
        self.gamma = nn.Parameter(torch.full((channels,), float(layer_scale_init_value))) if scaled else None
        self.drop_path = DropPath(drop_path_rate)
        self.shortcut = nn.Identity()
        if stride > 1 or before != channels:
            projection = nn.Conv2d(before, channels, kernel_size=1, stride=stride, bias=False)
            self.shortcut = nn.Sequential(projection, make_norm(design, channels))

    def forward(self, x: Tensor) -> Tensor:
        """Maps (N, before, H, W) to (N, channels, H / stride, W / stride)."""
        branch = x
        for layer in self.layers:
            branch = self.get_submodule(layer)(branch)
        if self.gamma is not None:
            branch = self.gamma[:, None, None] * branch
        x = self.shortcut(x) + self.drop_path(branch)
        return self.act(x) if self.act_after_sum else x


def order_layers(design: Design) -> Iterator[str]:
    """The layers of a block's branch, by name, in the order of their work."""
    convs = ('dwconv', 'pwconv1', 'pwconv2') if design.spatial_first else ('pwconv1', 'dwconv', 'pwconv2')
    norms = dict(dwconv='norm') if design.one_norm else dict(dwconv='norm', pwconv1='norm1', pwconv2='norm2')
    activated = ('pwconv1',) if design.one_activation else convs[:2]
    for conv in convs:
        yield conv
        if conv in norms:
            yield norms[conv]
        if conv in activated:
            yield 'act'


def make_norm(design: Design, channels: int) -> nn.Module:
    """The norm of a design, on maps (N, C, H, W)."""
    return LayerNorm2d(channels, eps=NORM_EPS) if design.layer_norm else nn.BatchNorm2d(channels)


@MODELS.register_module()
class ModernizedResNet(Backbone):
    """A ResNet on its way to ConvNeXt, as a backbone that returns a map for each of the chosen stages.

    Args:
        regime: ``'r50'`` leads from ResNet-50 to ConvNeXt-T (paper, table 10), ``'r200'`` from ResNet-200 to B (11).
        step: How far the way has been gone: a key of :data:`STEPS`.
        width_factor: On all channels, for smaller models.
        in_channels: As of :class:`.ConvNeXt`, like all that follow.
        drop_path_rate: 0.1 in the paper's runs of the first regime, 0.5 in those of the second.
        layer_scale_init_value: Start value of layer scale, which the last step has; 0 leaves it out.
        out_indices: The stages to return.
        out_norm: A LayerNorm ``norm{i}`` on each returned map.
        frozen_stages: Freezes the stem and the first k stages, the statistics of their norms too.
        with_cp: Recomputes each block in the backward pass; batch norms count a batch twice then.
        init_cfg: mmengine's.

    Attributes:
        out_channels, strides, depths, channels (tuple[int, ...]): As of :class:`.ConvNeXt`.
        pooled_norm (bool): Whether a classifier normalises what it pooled.

    Raises:
        ArgumentError: An argument is out of range; the text names it, its value and what is allowed.
    """

    stage_strides = (4, 8, 16, 32)

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
        design = find_design(step)
        sizes, stem_width = find_sizes(regime, design, width_factor)
        super().__init__(sizes, in_channels, out_indices, out_norm, frozen_stages, with_cp, init_cfg)
        self.pooled_norm = design.separate_downsampling
        rates = drop_path_rates(drop_path_rate, self.depths)
        self.downsample_layers, self.stages = nn.ModuleList(), nn.ModuleList()
        for i in range(max(self.out_indices) + 1):
            before, channels = (stem_width, *self.channels)[i : i + 2]
            stride = 2 if i else 1
            if i == 0:
                layers = make_first_layers(design, in_channels, stem_width)
            elif design.separate_downsampling:
                layers = make_downsampling(before, channels)
                before, stride = channels, 1
            else:
                layers = nn.Identity()
            self.downsample_layers.append(layers)
            self.stages.append(make_stage(design, before, channels, stride, rates[i], layer_scale_init_value))
        self._complete()

    def _parts(self) -> list[tuple[nn.Module, nn.Sequential]]:
        return list(zip(self.downsample_layers, self.stages, strict=True))


def make_stage(
    design: Design, before: int, channels: int, stride: int, rates: Sequence[float], layer_scale_init_value: float
) -> nn.Sequential:
    """The blocks of a stage, one for each rate of stochastic depth; the first one changes channels and resolution."""
    ends = [(before, stride), *[(channels, 1)] * (len(rates) - 1)]
    return nn.Sequential(
        *(
            ModernizedBlock(design, before, channels, stride, rate, layer_scale_init_value)
            for (before, stride), rate in zip(ends, rates, strict=True)
        )
    )


def make_first_layers(design: Design, in_channels: int, width: int) -> nn.Module:
    """What comes before the first stage, of stride 4."""
    if design.separate_downsampling:
        return make_stem(in_channels, width)
    if design.patchify:
        return nn.Sequential(PatchConv2d(in_channels, width, 4))
    conv = nn.Conv2d(in_channels, width, kernel_size=7, stride=2, padding=3, bias=False)
    pool = nn.MaxPool2d(kernel_size=3, stride=2, padding=1)
    return nn.Sequential(conv, make_norm(design, width), design.activation(), pool)


def find_design(step: str) -> Design:
    """What has been decided up to a step.

    Raises:
        ArgumentError: There is no such step.
    """
    if step not in STEPS:
        raise ArgumentError(f'step={step!r} is unknown: the steps are, in order, {", ".join(STEPS)}.')
    return DESIGNS[step]


def find_sizes(regime: str, design: Design, width_factor: float) -> tuple[Sizes, int]:
    """Blocks and channels of the stages, and the channels of the stem.

    Raises:
        ArgumentError: The regime is unknown, or the factor does not leave whole numbers of channels.
    """
    if regime not in REGIMES:
        raise ArgumentError(f'regime={regime!r} is unknown: it is one of {", ".join(REGIMES)}.')
    depths, full = REGIMES[regime].sizes(design)
    width = full * width_factor
    if width < 1 or width != int(width):
        raise ArgumentError(f'width_factor={width_factor!r} makes {width:g} channels of {full}: take one that fits.')
    first = int(width) if design.inverted else 4 * int(width)
    return (depths, tuple(first * 2**i for i in range(4))), int(width)
