"""Loads a backbone from a checkpoint of any dialect, whole or not at all, and reports what became of its tensors."""

import os
import re
from dataclasses import dataclass, field

from mmengine.logging import print_log
from torch import Tensor, nn

from .convnext import ARCHS
from .dialects import STEM, choose_backbone
from .errors import CheckpointMismatch
from .reader import read_checkpoint


def mismatch_sentence(checkpoint: str, error: Exception) -> str:
    """One sentence on what torch or mmengine says of a state dict that does not fit."""
    details = ' '.join(line.strip() for line in str(error).splitlines()[1:])
    return (
        f'The checkpoint {checkpoint} does not fit the model of the config ({details[:300]}): use the config that it '
        f'was trained with.'
    )


@dataclass
class LoadReport:
    """What became of a checkpoint's tensors.

    Attributes:
        source: Where they came from.
        dialect: Whose names the file has, such as ``'timm'``.
        arch: What the file is, from its shapes: ``'tiny, V1'``.
        weights: ``'plain'`` or ``'averaged'``, those of an exponential moving average.
        adapted: What was computed from the stored tensors and not only copied.
        loaded: Names of the filled tensors.
        new: Names that the file does not have and may lack: the norms ``norm{i}`` of dense prediction.
        dropped: Names in the file that a backbone has no use for: classifier heads, or the rest of a detector.
        missing: Names that nothing filled.
        mismatched: Names whose shape differs, with both shapes.
        unexpected: Names in the file that no backbone has.
    """

    source: str
    dialect: str
    arch: str
    weights: str = 'plain'
    adapted: list[str] = field(default_factory=list)
    loaded: list[str] = field(default_factory=list)
    new: list[str] = field(default_factory=list)
    dropped: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    mismatched: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        whose = f'{self.dialect} names, {self.weights} weights'
        verb = 'would fit' if self.missing or self.mismatched or self.unexpected else 'loaded'
        lines = [f'Checkpoint {self.source} ({self.arch}), {whose}: {len(self.loaded)} tensors {verb}']
        for kind in ('adapted', 'new', 'dropped', 'missing', 'mismatched', 'unexpected'):
            names = getattr(self, kind)
            if names:
                shown = ', '.join(names[:4]) + (f', ... ({len(names)} in all)' if len(names) > 4 else '')
                lines.append(f'  {kind}: {shown}')
        return '\n'.join(lines)


def load_backbone(
    model: nn.Module, source: str | os.PathLike, prefix: str | None = None, ema: bool = False
) -> LoadReport:
    """Fills a :class:`ConvNeXt` from a checkpoint in any dialect of :mod:`.dialects`, whole or not at all.

    Args:
        model: The backbone.
        source: As of :func:`read_checkpoint`; a backbone, or what holds one: a classifier, a detector, a wrapper.
        prefix: What stands directly before the backbone's names, ``'backbone.'`` for instance. Found by itself if
            None; needed only where a file holds several backbones.
        ema: Take the averaged weights of a file that holds both. If False, they are only taken where nothing else is.

    Returns:
        The report, which is also logged.

    Raises:
        CheckpointError: The file cannot be read.
        CheckpointMismatch: Some tensor of the backbone would not be filled, or the file holds no backbone, several, or
            no averaged weights; the model is left as it was.
    """
    source = os.fspath(source)
    found = choose_backbone(read_checkpoint(source), source, prefix, ema)
    own = model.state_dict()
    report = LoadReport(source, found.dialect.name, describe(found.tensors), found.weights, dropped=found.outside)
    filled = {}
    for name, tensor in own.items():
        stored = found.tensors.get(name)
        if stored is None:
            (report.new if re.match(r'norm\d\.', name) else report.missing).append(name)
        elif stored.shape == tensor.shape:
            filled[name] = stored
        elif name == STEM and stored.shape == (tensor.shape[0], 3, *tensor.shape[2:]):
            filled[name] = adapt_stem(stored, tensor.shape[1])
            report.adapted.append(f'{name} from 3 to {tensor.shape[1]} input channels')
        else:
            report.mismatched.append(f'{name} {tuple(stored.shape)} for {tuple(tensor.shape)}')
    report.loaded += filled
    for name in sorted(found.tensors.keys() - own.keys()):
        (report.dropped if _unused(name, len(model.stages)) else report.unexpected).append(name)
    if report.missing or report.mismatched or report.unexpected:
        raise CheckpointMismatch(
            f'The checkpoint does not fit the backbone, which is {describe(own)}; nothing was loaded.\n{report}'
            f'{_fitting_line(found.tensors)}'
        )
    model.load_state_dict(filled, strict=False)
    print_log(str(report), logger='current')
    return report


def adapt_stem(weight: Tensor, in_channels: int) -> Tensor:
    """The stem for another number of input channels, by timm's rule (``adapt_input_conv``).

    Args:
        weight: (C, 3, 4, 4).
        in_channels: 1 sums over the colours; more repeat them in turn, scaled so that the sum stays what it was.

    Returns:
        (C, in_channels, 4, 4).
    """
    if in_channels == 1:
        return weight.sum(dim=1, keepdim=True)
    turns = -(-in_channels // 3)
    return weight.repeat(1, turns, 1, 1)[:, :in_channels] * (3 / in_channels)


def _unused(name: str, stages: int) -> bool:
    """Whether a backbone of so many stages has no use for a tensor: heads, norms of other maps, later stages."""
    later = re.match(r'(?:stages|downsample_layers)\.(\d+)\.', name)
    return int(later[1]) >= stages if later else re.match(r'head\.|norm\d?\.', name) is not None


def describe(tensors: dict[str, Tensor]) -> str:
    """Names the architecture of a backbone from its tensors: ``'tiny, V1'``."""
    depths, width = _depths_and_width(tensors)
    if not width or not any(depths):
        return 'not a ConvNeXt of a known dialect'
    version = 'V2' if _has_grn(tensors) else 'V1'
    arch = _arch_name(tensors)
    return f'{arch}, {version}' if arch else f'depths {depths}, {width} channels after the stem, {version}'


def _fitting_line(tensors: dict[str, Tensor]) -> str:
    """The line of a config that builds the backbone which a checkpoint holds; empty where its shapes do not tell."""
    arch = _arch_name(tensors)
    grn = ', use_grn=True' if _has_grn(tensors) else ''
    return f"\nThe config line that fits: backbone=dict(type='ConvNeXt', arch='{arch}'{grn})" if arch else ''


def _depths_and_width(tensors: dict[str, Tensor]) -> tuple[tuple[int, ...], int]:
    """Blocks per stage, and channels after the stem, 0 where there is none."""
    blocks = {(int(m[1]), int(m[2])) for name in tensors if (m := re.match(r'stages\.(\d+)\.(\d+)\.', name))}
    stem = tensors.get(STEM)
    width = stem.shape[0] if stem is not None and stem.ndim else 0
    return tuple(sum(stage == i for stage, _ in blocks) for i in range(4)), width


def _arch_name(tensors: dict[str, Tensor]) -> str | None:
    depths, width = _depths_and_width(tensors)
    return next((arch for arch, (d, channels) in ARCHS.items() if (d, channels[0]) == (depths, width)), None)


def _has_grn(tensors: dict[str, Tensor]) -> bool:
    return any('.grn.' in name for name in tensors)
