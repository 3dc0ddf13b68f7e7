"""ConvNeXt (arXiv 2201.03545) and ConvNeXt V2 (arXiv 2301.00808) as a multi-scale backbone for the MM libraries.

Written from the papers; parameter names are those of the official code (https://github.com/facebookresearch/ConvNeXt),
so its checkpoints need no mapping. Weights have licences of their own: V1's are MIT, V2's CC BY-NC 4.0.
"""

import difflib
from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from mmengine.model import BaseModule, PretrainedInit, initialize
from mmengine.registry import MODELS
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from .errors import ArgumentError
from .layers import GRN, DropPath, LayerNorm2d, init_truncated_normal

# name: (blocks per stage, channels per stage). V1: paper section 3; atto to nano and huge: V2, table 9 in its appendix.
ARCHS: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = {
    'atto': ((2, 2, 6, 2), (40, 80, 160, 320)),
    'femto': ((2, 2, 6, 2), (48, 96, 192, 384)),
    'pico': ((2, 2, 6, 2), (64, 128, 256, 512)),
    'nano': ((2, 2, 8, 2), (80, 160, 320, 640)),
    'tiny': ((3, 3, 9, 3), (96, 192, 384, 768)),
    'small': ((3, 3, 27, 3), (96, 192, 384, 768)),
    'base': ((3, 3, 27, 3), (128, 256, 512, 1024)),
    'large': ((3, 3, 27, 3), (192, 384, 768, 1536)),
    'xlarge': ((3, 3, 27, 3), (256, 512, 1024, 2048)),
    'huge': ((3, 3, 27, 3), (352, 704, 1408, 2816)),
}
ALIASES = {'t': 'tiny', 's': 'small', 'b': 'base', 'l': 'large', 'xl': 'xlarge'}
STRIDES = (4, 8, 16, 32)
NORM_EPS = 1e-6


class ConvNeXtBlock(nn.Module):
    """One residual block (V1: paper figure 4; V2: figure 5 of its paper).

    depthwise 7x7 -> LayerNorm -> C to 4C -> GELU -> [V2: GRN] -> 4C to C -> [V1: layer scale] -> stochastic depth.

    Args:
        channels: Channels of the input and the output.
        drop_path_rate: Probability that a sample's branch is dropped in training.
        layer_scale_init_value: Start value of layer scale; 0 leaves it out.
        use_grn: ConvNeXt V2: global response normalisation in the place of layer scale.
    """

    def __init__(
        self, channels: int, drop_path_rate: float = 0.0, layer_scale_init_value: float = 1e-6, use_grn: bool = False
    ) -> None:
        super().__init__()
        self.dwconv = nn.Conv2d(channels, channels, kernel_size=7, padding=3, groups=channels)
        self.norm = nn.LayerNorm(channels, eps=NORM_EPS)
        self.pwconv1 = nn.Linear(channels, 4 * channels)
        self.grn = GRN(4 * channels) if use_grn else None
        self.pwconv2 = nn.Linear(4 * channels, channels)
        has_layer_scale = layer_scale_init_value and not use_grn
        self.gamma = nn.Parameter(torch.full((channels,), float(layer_scale_init_value))) if has_layer_scale else None
        self.drop_path = DropPath(drop_path_rate)

    def forward(self, x: Tensor) -> Tensor:
        """Maps (N, C, H, W) to (N, C, H, W), in the memory layout of the input."""
        branch = self.dwconv(x).permute(0, 2, 3, 1)  # (N, H, W, C)
        branch = F.gelu(self.pwconv1(self.norm(branch)))  # (N, H, W, 4C)
        if self.grn is not None:
            branch = self.grn(branch)
        branch = self.pwconv2(branch)
        if self.gamma is not None:
            branch = self.gamma * branch
        # The shortcut comes first: the sum takes the layout of its first operand.
        return x + self.drop_path(branch.permute(0, 3, 1, 2))


@MODELS.register_module()
class ConvNeXt(BaseModule):
    """ConvNeXt V1 or V2 that returns a map for each of the chosen stages, for FPN, UPerHead and their like.

    Args:
        arch: A name of :data:`ARCHS`, a short form (t, s, b, l, xl), or ``dict(depths=..., channels=...)`` with four
            numbers each.
        in_channels: Channels of the input images.
        drop_path_rate: Stochastic depth of the last block; rises linearly from 0 at the first (paper, table 5).
        layer_scale_init_value: Start value of layer scale; 0 leaves it out. V2 (``use_grn``) never has it.
        use_grn: ConvNeXt V2 instead of V1.
        out_indices: The stages to return, in this order; negative ones count from the end. Stages after the last one
            needed are not built, so that every parameter gets a gradient under DDP.
        out_norm: A LayerNorm ``norm{i}`` on each returned map, as for dense prediction in the official code.
        frozen_stages: Freezes the stem and the first k stages; 0 freezes nothing.
        with_cp: Recomputes each block in the backward pass instead of keeping its activations.
        init_cfg: mmengine's; ``dict(type='Pretrained', checkpoint=...)`` goes through :func:`.load_backbone`, which
            raises unless every backbone tensor was filled.

    Attributes:
        out_channels (tuple[int, ...]): Channels of each returned map: what a neck takes as ``in_channels``.
        strides (tuple[int, ...]): Stride of each returned map.
        depths, channels (tuple[int, ...]): Of the four stages of the architecture.

    Raises:
        ArgumentError: An argument is out of range; the text names it, its value and what is allowed.
    """

    def __init__(
        self,
        arch: str | Mapping[str, Sequence[int]] = 'tiny',
        in_channels: int = 3,
        drop_path_rate: float = 0.0,
        layer_scale_init_value: float = 1e-6,
        use_grn: bool = False,
        out_indices: int | Sequence[int] = (0, 1, 2, 3),
        out_norm: bool = True,
        frozen_stages: int = 0,
        with_cp: bool = False,
        init_cfg: dict | list[dict] | None = None,
    ) -> None:
        super().__init__(init_cfg=init_cfg)
        self.depths, self.channels = parse_arch(arch)
        self.in_channels = _check_int('in_channels', in_channels, low=1)
        if not 0 <= drop_path_rate < 1:
            raise ArgumentError(f'drop_path_rate={drop_path_rate!r} is out of range: it is a probability in [0, 1).')
        self.out_indices = parse_out_indices(out_indices)
        self.out_channels = tuple(self.channels[i] for i in self.out_indices)
        self.strides = tuple(STRIDES[i] for i in self.out_indices)
        self.frozen_stages = _check_int('frozen_stages', frozen_stages, low=0, high=4)
        self.with_cp = with_cp

        rates = torch.linspace(0, drop_path_rate, sum(self.depths), device='cpu').split(self.depths)
        self.downsample_layers = nn.ModuleList()
        self.stages = nn.ModuleList()
        for i in range(max(self.out_indices) + 1):
            self.downsample_layers.append(self._make_downsample(i))
            self.stages.append(
                nn.Sequential(
                    *(
                        ConvNeXtBlock(self.channels[i], rate, layer_scale_init_value, use_grn)
                        for rate in rates[i].tolist()
                    )
                )
            )
        self.out_norm = out_norm
        if out_norm:
            for i in self.out_indices:
                self.add_module(f'norm{i}', LayerNorm2d(self.channels[i], eps=NORM_EPS))
        self.apply(init_truncated_normal)
        self._freeze()

    def _make_downsample(self, stage: int) -> nn.Sequential:
        """The stem (patchify: 4x4, stride 4) or what stands between two stages (paper, section 2.6)."""
        if stage == 0:
            width = self.channels[0]
            return nn.Sequential(nn.Conv2d(self.in_channels, width, 4, stride=4), LayerNorm2d(width, eps=NORM_EPS))
        before, after = self.channels[stage - 1 : stage + 1]
        return nn.Sequential(LayerNorm2d(before, eps=NORM_EPS), nn.Conv2d(before, after, 2, stride=2))

    def init_weights(self) -> None:
        """Does what ``init_cfg`` says, a pretrained checkpoint last. Without one, the constructor's weights stay.

        Raises:
            ArgumentError: An entry for a checkpoint has a key that it does not take.
            CheckpointMismatch: A pretrained checkpoint does not fill every tensor of the backbone.
        """
        from .checkpoint import load_backbone  # which knows the architectures of this file

        entries = [self.init_cfg] if isinstance(self.init_cfg, Mapping) else list(self.init_cfg or [])
        pretrained = [entry for entry in entries if entry['type'] in ('Pretrained', PretrainedInit)]
        initialize(self, [entry for entry in entries if entry not in pretrained])
        for entry in pretrained:
            unknown = set(entry) - {'type', 'checkpoint', 'prefix', 'ema', 'map_location'}
            if unknown or 'checkpoint' not in entry:
                raise ArgumentError(
                    f'init_cfg={dict(entry)!r} is wrong: it takes checkpoint, and maybe prefix and ema.'
                )
            load_backbone(self, entry['checkpoint'], entry.get('prefix'), entry.get('ema', False))
        self._is_init = True

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Computes the maps of the chosen stages.

        Args:
            x: Images, (N, in_channels, H, W), H and W at least 32; they need not be multiples of 32.

        Returns:
            One map (N, C_i, H // stride_i, W // stride_i) for each of ``out_indices``, in the layout of ``x``.

        Raises:
            ArgumentError: Another number of channels, or an image side under 32 pixels.
        """
        self._check_input(x)
        maps = {}
        for i, (downsample, stage) in enumerate(zip(self.downsample_layers, self.stages, strict=True)):
            x = downsample(x)
            for block in stage:
                if self.with_cp and x.requires_grad:
                    x = checkpoint(block, x, use_reentrant=False)
                else:
                    x = block(x)
            if i in self.out_indices:
                maps[i] = getattr(self, f'norm{i}')(x) if self.out_norm else x
        return tuple(maps[i] for i in self.out_indices)

    def _check_input(self, x: Tensor) -> None:
        if x.ndim != 4 or x.shape[1] != self.in_channels:
            raise ArgumentError(
                f'The input has the shape {tuple(x.shape)}, but this backbone takes (N, {self.in_channels}, H, W): '
                f'pass such images or build it with another in_channels.'
            )
        if min(x.shape[2:]) < 32:
            raise ArgumentError(
                f'The input is {x.shape[2]}x{x.shape[3]} pixels, but both sides must have at least 32 '
                f'(the last stage has stride 32): resize or pad the images.'
            )

    def train(self, mode: bool = True) -> 'ConvNeXt':
        """Sets the mode and freezes the frozen stages again; returns self."""
        super().train(mode)
        self._freeze()
        return self

    def _freeze(self) -> None:
        for frozen in (*self.downsample_layers[: self.frozen_stages], *self.stages[: self.frozen_stages]):
            frozen.eval().requires_grad_(False)


def parse_arch(arch: str | Mapping[str, Sequence[int]]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The depths and the channels of an architecture.

    Raises:
        ArgumentError: An unknown name (the text gives the nearest), or a dict that is not four depths and channels.
    """
    if isinstance(arch, str):
        name = ALIASES.get(arch.lower(), arch.lower())
        if name not in ARCHS:
            near = difflib.get_close_matches(name, [*ARCHS, *ALIASES], n=1, cutoff=0.4)
            hint = f'did you mean {near[0]!r}? ' if near else ''
            raise ArgumentError(
                f'arch={arch!r} is unknown: {hint}Known are {", ".join(ARCHS)} and the short forms '
                f'{", ".join(ALIASES)}, or dict(depths=..., channels=...).'
            )
        return ARCHS[name]
    if not isinstance(arch, Mapping) or set(arch) != {'depths', 'channels'}:
        raise ArgumentError(f'arch={arch!r} is neither a name nor dict(depths=..., channels=...).')
    depths, channels = (tuple(arch[key]) for key in ('depths', 'channels'))
    for key, numbers in (('depths', depths), ('channels', channels)):
        if len(numbers) != 4 or not all(isinstance(n, int) and n > 0 for n in numbers):
            raise ArgumentError(
                f'arch[{key!r}]={arch[key]!r} is wrong: it takes four positive integers, one per stage.'
            )
    return depths, channels


def parse_out_indices(out_indices: int | Sequence[int]) -> tuple[int, ...]:
    """The stages as numbers from 0 to 3, in the caller's order.

    Raises:
        ArgumentError: An index out of range, one named twice, or none at all.
    """
    indices = (out_indices,) if isinstance(out_indices, int) else tuple(out_indices)
    if not indices or not all(isinstance(i, int) and -4 <= i <= 3 for i in indices):
        raise ArgumentError(f'out_indices={out_indices!r} is out of range: each is a stage, 0 to 3 or -4 to -1.')
    stages = tuple(i % 4 for i in indices)
    if len(set(stages)) < len(stages):
        raise ArgumentError(f'out_indices={out_indices!r} names a stage twice.')
    return stages


def _check_int(name: str, value: int, low: int, high: int | None = None) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < low or (high is not None and value > high):
        allowed = f'an integer from {low} to {high}' if high is not None else f'an integer of at least {low}'
        raise ArgumentError(f'{name}={value!r} is out of range: it takes {allowed}.')
    return value
