"""ConvNeXt (arXiv 2201.03545) and ConvNeXt V2 (arXiv 2301.00808) as multi-scale backbones for the MM libraries.

Written from the papers; parameter names are those of the official code (https://github.com/facebookresearch/ConvNeXt),
so its checkpoints need no mapping. Weights have licences of their own: V1's are MIT, V2's CC BY-NC 4.0.
"""

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from mmengine.registry import MODELS
from torch import Tensor, nn

from ..utils.validation import FLAG, NOT_NEGATIVE
from .archs import ARCHS, parse_arch
from .backbone import NORM_EPS, Backbone, drop_path_rates
from .block_choice import can_fuse, is_worth_it
from .compiled_block import run_compiled
from .fused_block import run_fused
from .grn import GRN
from .layers import Downsampling, DropPath, LayerNorm2d, PatchConv2d
from .visible_patches import VisiblePatches


class ConvNeXtBlock(nn.Module):
    """Residual block (V1: paper, figure 4; V2: its paper, figure 5).

    depthwise 7x7 -> LayerNorm -> C to 4C -> GELU -> [V2: GRN] -> 4C to C -> [V1: layer scale] -> stochastic depth.

    Args:
        channels: Channels of the input and the output.
        drop_path_rate: Probability of dropping the residual branch of a sample in training.
        layer_scale_init_value: Initial value of layer scale; 0 leaves it out.
        use_grn: ConvNeXt V2: global response normalization instead of layer scale.
        fused: Compute the same by :class:`.FusedBlock`, in less memory and time.
    """

    def __init__(
        self,
        channels: int,
        drop_path_rate: float = 0.0,
        layer_scale_init_value: float = 1e-6,
        use_grn: bool = False,
        fused: bool = True,
    ) -> None:
        super().__init__()
        NOT_NEGATIVE.check('layer_scale_init_value', layer_scale_init_value)
        FLAG.check('use_grn', use_grn)
        FLAG.check('fused', fused)
        self.dwconv = nn.Conv2d(channels, channels, kernel_size=7, padding=3, groups=channels)
        self.norm = nn.LayerNorm(channels, eps=NORM_EPS)
        self.pwconv1 = nn.Linear(channels, 4 * channels)
        self.grn = GRN(4 * channels) if use_grn else None
        self.pwconv2 = nn.Linear(4 * channels, channels)
        has_layer_scale = layer_scale_init_value and not use_grn
        self.gamma = nn.Parameter(torch.full((channels,), float(layer_scale_init_value))) if has_layer_scale else None
        self.drop_path = DropPath(drop_path_rate)
        self.fused = fused

    def forward(self, x: Tensor, patches: VisiblePatches | None = None) -> Tensor:
        """Map (N, C, H, W) to (N, C, H, W), or of masked images the positions of their visible ``patches`` alone."""
        if self.fused and can_fuse(self):
            if torch.compiler.is_compiling():
                if patches is None:
                    return run_compiled(self, x)
            elif patches is not None or is_worth_it(self, x):  # layer by layer, patches take longer at any size
                return run_fused(self, x, patches)
        branch = self.dwconv(x) if patches is None else patches.apply(self.dwconv, x)
        branch = branch.permute(0, 2, 3, 1)  # (N, H, W, C)
        branch = F.gelu(self.pwconv1(self.norm(branch)))  # (N, H, W, 4C)
        if self.grn is not None:
            branch = self.grn(branch)
        branch = self.pwconv2(branch)
        if self.gamma is not None:
            branch = self.gamma * branch
        # The shortcut comes first: a sum takes the memory format of its first operand.
        return x + self.drop_path(branch.permute(0, 3, 1, 2))


def make_blocks(
    channels: int, drop_path_rates: Sequence[float], layer_scale_init_value: float, use_grn: bool, fused: bool
) -> nn.Sequential:
    """The blocks of a stage, one for each stochastic depth rate."""
    return nn.Sequential(
        *(ConvNeXtBlock(channels, rate, layer_scale_init_value, use_grn, fused) for rate in drop_path_rates)
    )


def make_stem(in_channels: int, channels: int) -> Downsampling:
    """The patchify stem: 4x4 convolution of stride 4 (paper, section 2.2) and LayerNorm."""
    return Downsampling(PatchConv2d(in_channels, channels, 4), LayerNorm2d(channels, eps=NORM_EPS))


def make_downsampling(in_channels: int, channels: int) -> Downsampling:
    """The separate downsampling layer between two stages (paper, section 2.6)."""
    return Downsampling(LayerNorm2d(in_channels, eps=NORM_EPS), PatchConv2d(in_channels, channels, 2))


@MODELS.register_module()
class ConvNeXt(Backbone):
    """ConvNeXt V1 or V2, returning the feature maps of the chosen stages for FPN, UPerHead and the like.

    Args:
        arch: A name of :data:`ARCHS`, a short form (t, s, b, l, xl), or ``dict(depths=..., channels=...)`` with four
            numbers each.
        in_channels: Channels of the input images.
        drop_path_rate: Stochastic depth of the last block; rises linearly from 0 at the first (paper, table 5).
        layer_scale_init_value: Initial value of layer scale; 0 leaves it out. V2 (``use_grn``) never has it.
        use_grn: ConvNeXt V2 instead of V1.
        out_indices: The stages to return, in this order; negative ones count from the end. Later stages than the last
            one returned are not built, so that every parameter gets a gradient under DDP.
        out_norm: Apply a LayerNorm ``norm{i}`` to each returned map, as the official code does for dense prediction.
        frozen_stages: Freeze the stem and the first k stages; 0 freezes nothing.
        with_cp: Recompute each block in the backward pass instead of keeping its activations.
        init_cfg: ``dict(type='Pretrained', checkpoint=...)`` loads by :func:`.load_backbone`, which raises unless every
            backbone tensor is filled. Others as in mmengine.
        fused: Compute each block as one autograd function, in a fraction of the memory and less time. Blocks that are
            compiled, traced, hooked or transformed by torch.func run layer by layer in any case.

    Attributes:
        out_channels (tuple[int, ...]): Channels of each returned map: the ``in_channels`` of a neck.
        strides (tuple[int, ...]): Stride of each returned map.
        depths, channels (tuple[int, ...]): Blocks and channels of all four stages.

    Raises:
        ArgumentError: An argument is out of range.
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
        fused: bool = True,
    ) -> None:
        sizes = parse_arch(arch, ARCHS)
        super().__init__(sizes, in_channels, out_indices, out_norm, frozen_stages, with_cp, init_cfg)
        rates = drop_path_rates(drop_path_rate, self.depths)
        self.downsample_layers = nn.ModuleList()
        self.stages = nn.ModuleList()
        for i in range(max(self.out_indices) + 1):
            channels = self.channels[i]
            downsample = make_downsampling(self.channels[i - 1], channels) if i else make_stem(in_channels, channels)
            self.downsample_layers.append(downsample)
            self.stages.append(make_blocks(channels, rates[i], layer_scale_init_value, use_grn, fused))
        self._finish_init()
