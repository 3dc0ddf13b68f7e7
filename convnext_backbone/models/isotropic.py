"""The isotropic ConvNeXt (arXiv 2201.03545, section 3.3): one stage at one resolution, as in a vision transformer.

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
    """Isotropic ConvNeXt, returning its only feature map, of stride 16.

    Args:
        arch: A name of :data:`ISOTROPIC`, a short form (s, b, l), or ``dict(depths=..., channels=...)`` with one number
            each.
        in_channels, drop_path_rate, with_cp, init_cfg, fused: As in :class:`.ConvNeXt`.
        layer_scale_init_value: 1e-6 for the large model in the official recipe, none for the others.
        use_grn: The blocks of ConvNeXt V2, which have no layer scale.
        out_norm: Apply a LayerNorm ``norm0`` to the map, as for dense prediction.
        frozen_stages: 1 freezes the stem and the blocks, 0 nothing.

    Attributes:
        out_channels, strides, depths, channels (tuple[int, ...]): Of the only stage.
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
        self._finish_init()

    def stage_modules(self) -> list[tuple[nn.Module, nn.Sequential]]:
        """The stem and the blocks."""
        return [(self.stem, self.blocks)]
