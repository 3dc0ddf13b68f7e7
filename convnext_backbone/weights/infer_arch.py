"""What kind of ConvNeXt a set of tensors is, from their canonical names and their shapes alone."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from ..models.archs import ARCHS, ISOTROPIC

STEM = 'downsample_layers.0.0.weight'
ISOTROPIC_STEM = 'stem.weight'


@dataclass(frozen=True)
class Architecture:
    """The architecture of a ConvNeXt.

    Attributes:
        depths: Blocks of each of the four stages, or of the only one of an isotropic model.
        channels: Of the same.
        use_grn: Whether it is a ConvNeXt V2.
        layer_scale: Whether its blocks have one.
        in_channels: Of its images; 0 where the stem is missing.
        classes: Of its classifier, if it has one.
        modernized: Whether it is a :class:`.ModernizedResNet` before its last step, which is a ConvNeXt.
    """

    depths: tuple[int, ...]
    channels: tuple[int, ...]
    use_grn: bool
    layer_scale: bool
    in_channels: int
    classes: int | None
    modernized: bool

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor]) -> 'Architecture':
        """Reads it from tensors by their canonical names; what is missing or of an odd shape counts as 0."""
        kinds = {name.partition('.')[0] for name in tensors}
        isotropic = 'blocks' in kinds and 'stages' not in kinds
        stems = [ISOTROPIC_STEM] if isotropic else [STEM, *(f'downsample_layers.{i}.1.weight' for i in (1, 2, 3))]
        pattern = re.compile(r'()blocks\.(\d+)\.' if isotropic else r'stages\.(\d+)\.(\d+)\.')
        blocks = {(match[1], match[2]) for match in map(pattern.match, tensors) if match}
        stages = [''] if isotropic else ['0', '1', '2', '3']
        return cls(
            depths=tuple(sum(stage == of for of, _ in blocks) for stage in stages),
            channels=tuple(_size(tensors.get(stem), 0) for stem in stems),
            use_grn=any('.grn.' in name for name in tensors),
            layer_scale=any(re.fullmatch(r'(stages\.\d+|blocks)\.\d+\.gamma', name) for name in tensors),
            in_channels=_size(tensors.get(stems[0]), 1),
            classes=_size(tensors.get('head.weight'), 0) or None,
            modernized=any(re.match(r'stages\.\d+\.\d+\.(norm1|shortcut)\.', name) for name in tensors),
        )

    @property
    def isotropic(self) -> bool:
        """Whether it has one stage and not four."""
        return len(self.depths) == 1

    @property
    def model(self) -> str:
        """The registered name of the class that builds it."""
        return 'ConvNeXtIsotropic' if self.isotropic else 'ConvNeXt'

    @property
    def arch(self) -> str | None:
        """What that class calls it, if it has a name there."""
        archs = ISOTROPIC if self.isotropic else ARCHS
        return next((name for name, sizes in archs.items() if sizes == (self.depths, self.channels)), None)

    @property
    def name(self) -> str | None:
        """Its name in the papers, if it has one there: ``'tiny'``, ``'isotropic small'``."""
        return f'isotropic {self.arch}' if self.arch and self.isotropic else self.arch

    @property
    def version(self) -> str:
        """``'V1'`` or ``'V2'``."""
        return 'V2' if self.use_grn else 'V1'

    def __str__(self) -> str:
        """``'tiny, V1'``."""
        if not any(self.depths):
            return 'not a ConvNeXt of a known dialect'
        if self.modernized:
            return f'ModernizedResNet of {list(self.depths)} blocks'
        sizes = f'depths {list(self.depths)}, channels {list(self.channels)}'
        isotropic = 'isotropic, ' if self.isotropic else ''
        return f'{self.name or isotropic + sizes}, {self.version}'

    def arguments(self) -> dict:
        """What :attr:`model` takes to be this one, defaults left out; empty if it cannot be."""
        if not all(self.depths + self.channels) or not self.in_channels or self.modernized:
            return {}
        arguments: dict = {'arch': self.arch or dict(depths=list(self.depths), channels=list(self.channels))}
        if self.in_channels != 3:
            arguments['in_channels'] = self.in_channels
        if self.use_grn:
            arguments['use_grn'] = True
        elif self.layer_scale == self.isotropic:  # each class has one or none by default
            arguments['layer_scale_init_value'] = 1e-6 if self.layer_scale else 0
        return arguments

    def config_line(self) -> str:
        """The line of a config that builds it; empty if none does."""
        arguments = ''.join(f', {name}={value!r}' for name, value in self.arguments().items())
        return f'backbone=dict(type={self.model!r}{arguments})' if arguments else ''


def _size(tensor: Tensor | None, dim: int) -> int:
    # What holds no numbers may claim any size.
    return tensor.shape[dim] if tensor is not None and tensor.ndim > dim and tensor.numel() else 0
