"""The isotropic ConvNeXt (arXiv 2201.03545, section 3.3): one stage at one resolution, as a vision transformer has.

Parameter names are those of the official code (https://github.com/facebookresearch/ConvNeXt), so its checkpoints need
no mapping; their licence is MIT.
"""

from collections.abc import Mapping, Sequence

from mmengine.registry import MODELS
from torch import nn

from .archs import ISOTROPIC, parse_arch
from .backbone import Backbone, drop_path_rates
from .convnext import make_blocks
from .layers import PatchConv2d


@MODELS.register_module()
class ConvNeXtIsotropic(Backbone):
    """Isotropic ConvNeXt that returns its only map, of stride 16.

    Args:
        arch: A name of :data:`ISOTROPIC`, a short form (s, b, l), or ``dict(depths=..., channels=...)`` with one number
            each.
        in_channels: Channels of the input images.
        drop_path_rate: Stochastic depth of the last block; rises linearly from 0 at the first.
        layer_scale_init_value: Start value of layer scale; 0 leaves it out. The official recipe has 1e-6 for
            the large one, none for the others.
        use_grn: The blocks of ConvNeXt V2, which have no layer scale.
        out_norm: A LayerNorm ``norm0`` on the map, as for dense prediction.
        frozen_stages: 1 freezes the stem and the blocks, 0 nothing.
        with_cp: Recomputes each block in the backward pass instead of keeping its activations.
        init_cfg: As of :class:`.ConvNeXt`.
        fused: As of :class:`.ConvNeXt`.

    Attributes:
        out_channels (tuple[int, ...]): Channels of the map: what a neck takes as ``in_channels``.
        strides (tuple[int, ...]): Its stride.
        depths, channels (tuple[int, ...]): Of the only stage.

    Raises:
        ArgumentError: An argument is out of range; the text names it, its value and what is allowed.
    """

    stage_strides = (16,)

    def __init__(
        self,
        arch: str | Mapping[str, Sequence[int]] = 'small',
        in_channels: int = 3,
        drop_path_rate: float = 0.0,
        layer_scale_init_value: float = 0.0,
        use_grn: bool = False,
        out_norm: bool = True,
        frozen_stages: int = 0,
        with_cp: bool = False,
        init_cfg: dict | list[dict] | None = None,
        fused: bool = True,
    ) -> None:
        super().__init__(parse_arch(arch, ISOTROPIC), in_channels, (0,), out_norm, frozen_stages, with_cp, init_cfg)
        rates = drop_path_rates(drop_path_rate, self.depths)
        self.stem = PatchConv2d(in_channels, self.channels[0], 16)  # the official one has no norm
        self.blocks = make_blocks(self.channels[0], rates[0], layer_scale_init_value, use_grn, fused)
        self._complete()

    def _parts(self) -> list[tuple[nn.Module, nn.Sequential]]:
        return [(self.stem, self.blocks)]
