"""The architecture of a ConvNeXt from the canonical names and shapes of its tensors."""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from torch import Tensor

from ..models.archs import ARCHS, ISOTROPIC

STEM = 'downsample_layers.0.0.weight'
ISOTROPIC_STEM = 'stem.weight'


@dataclass(frozen=True)
class Architecture:
    """The architecture of a ConvNeXt."""

    depths: tuple[int, ...]  # of the four stages, or of the only one of an isotropic model
    channels: tuple[int, ...]
    use_grn: bool  # ConvNeXt V2
    layer_scale: bool
    in_channels: int  # 0 where the stem is missing
    classes: int | None  # of its classifier, if it has one
    modernized: bool  # a ModernizedResNet before its last step, which is a ConvNeXt
    unlike: str  # what it has that no ConvNeXt of this package has; often empty

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor]) -> 'Architecture':
        """Infer it from tensors by canonical names; sizes that are missing or ill-shaped are 0."""
        kinds = {name.partition('.')[0] for name in tensors}
        isotropic = 'blocks' in kinds and 'stages' not in kinds
        stages = ['blocks'] if isotropic else [f'stages.{i}' for i in range(4)]
        modernized = any(re.match(r'stages\.\d+\.\d+\.(norm1|shortcut)\.', name) for name in tensors)
        return cls(
            depths=tuple(_count(rf'{re.escape(stage)}\.(\d+)\.', tensors) for stage in stages),
            channels=tuple(_size(tensors.get(f'{stage}.0.dwconv.weight'), 0) for stage in stages),
            use_grn=any('.grn.' in name for name in tensors),
            layer_scale=any(re.fullmatch(r'(stages\.\d+|blocks)\.\d+\.gamma', name) for name in tensors),
            in_channels=_size(tensors.get(ISOTROPIC_STEM if isotropic else STEM), 1),
            classes=_size(tensors.get('head.weight'), 0) or None,
            modernized=modernized,
            unlike='' if modernized or isotropic else ' and '.join(_differences(tensors)),
        )

    @property
    def isotropic(self) -> bool:
        """Whether it has one stage instead of four."""
        return len(self.depths) == 1

    @property
    def model(self) -> str:
        """The registered name of its class."""
        return 'ConvNeXtIsotropic' if self.isotropic else 'ConvNeXt'

    @property
    def arch(self) -> str | None:
        """The name of the architecture in that class, if it has one."""
        archs = ISOTROPIC if self.isotropic else ARCHS
        return next((name for name, sizes in archs.items() if sizes == (self.depths, self.channels)), None)

    def __str__(self) -> str:
        """``'tiny, V1'``, ``'isotropic small, V1'``."""
        if not any(self.depths):
            return 'not a ConvNeXt in a known weights format'
        if self.modernized:
            return f'ModernizedResNet of {list(self.depths)} blocks'
        name = self.arch or f'depths {list(self.depths)}, channels {list(self.channels)}'
        kind = '' if not self.isotropic else 'isotropic ' if self.arch else 'isotropic, '
        return f'{kind}{name}, {"V2" if self.use_grn else "V1"}' + (f' with {self.unlike}' if self.unlike else '')

    def arguments(self) -> dict:
        """Arguments of :attr:`model` that build it, without defaults; empty if none do."""
        if not all(self.depths + self.channels) or not self.in_channels or self.modernized or self.unlike:
            return {}
        arguments: dict = {'arch': self.arch or dict(depths=list(self.depths), channels=list(self.channels))}
        if self.in_channels != 3:
            arguments['in_channels'] = self.in_channels
        if self.use_grn:
            arguments['use_grn'] = True
        elif self.layer_scale == self.isotropic:  # the default is to have it in ConvNeXt, not in ConvNeXtIsotropic
            arguments['layer_scale_init_value'] = 1e-6 if self.layer_scale else 0
        return arguments

    def config_line(self) -> str:
        """The line of a config that builds it; empty if none does."""
        arguments = ''.join(f', {name}={value!r}' for name, value in self.arguments().items())
        return f'backbone=dict(type={self.model!r}{arguments})' if arguments else ''


def _differences(tensors: Mapping[str, Tensor]) -> Iterator[str]:
    """What tells the relatives of ConvNeXt, most of them timm's, from the models of the papers."""
    if any(re.fullmatch(r'downsample_layers\.0\.[23]\.weight', name) for name in tensors):
        yield 'a stem of overlapping convolutions'
    elif (kernel := _kernel(tensors.get(STEM))) not in ('', '4x4'):
        yield f'a stem of {kernel} patches'
    parts = {name.split('.', 3)[3] for name in tensors if re.match(r'stages\.\d+\.\d+\.', name)}  # of blocks
    kernels = {_kernel(tensor) for name, tensor in tensors.items() if name.endswith('.dwconv.weight')} - {'', '7x7'}
    if kernels:
        yield f'depthwise convolutions of {", ".join(sorted(kernels))}'
    if 'norm.weight' in parts and 'norm.bias' not in parts:
        yield 'norms without a bias, such as RMS norm'
    if 'dwconv.weight' in parts and 'dwconv.bias' not in parts:
        yield 'convolutions without a bias'


def _kernel(weight: Tensor | None) -> str:
    return '' if weight is None or weight.ndim != 4 or not weight.numel() else f'{weight.shape[2]}x{weight.shape[3]}'


def _count(pattern: str, names: Iterable[str]) -> int:
    return len({match[1] for match in map(re.compile(pattern).match, names) if match})


def _size(tensor: Tensor | None, dim: int) -> int:
    # An empty tensor may claim any size.
    return tensor.shape[dim] if tensor is not None and tensor.ndim > dim and tensor.numel() else 0
