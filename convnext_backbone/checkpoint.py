"""Loads a backbone from a checkpoint of any dialect, whole or not at all, and reports what became of its tensors."""

import os
import re
from dataclasses import dataclass, field

from mmengine.logging import print_log
from torch import Tensor, nn

from .architecture import ISOTROPIC_STEM, STEM, Architecture
from .contents import Found, choose_backbone
from .errors import CheckpointMismatch, printable, shorten
from .reader import read_checkpoint

_HEAD = ('head.weight', 'head.bias')
_MAY_LACK = re.compile(r'norm\d?\.|head\.')
_STAGE = re.compile(r'(?:stages|downsample_layers)\.(\d)\.')


def mismatch_sentence(checkpoint: str, error: Exception) -> str:
    """One sentence on what torch or mmengine says of a state dict that does not fit."""
    details = printable(' '.join(line.strip() for line in str(error).splitlines()[1:]))
    return (
        f'The checkpoint {printable(checkpoint)} does not fit the model of the config ({details}): use the config that '
        f'it was trained with.'
    )


@dataclass
class FileReport:
    """What a checkpoint file holds.

    Attributes:
        source: Where it came from.
        dialect: Whose names it has, such as ``'timm'``.
        arch: What it is, from its shapes: ``'tiny, V1'``.
        in_channels: Of the images that its stem takes.
        classes: Of its classifier, None if it has none.
        weights: ``'plain'`` or ``'averaged'``, those of an exponential moving average.
    """

    source: str
    dialect: str
    arch: str
    in_channels: int
    classes: int | None
    weights: str

    def headline(self) -> str:
        """All of it in a line."""
        classes = f', {self.classes} classes' if self.classes else ''
        what = f'{self.arch}, {self.in_channels} input channels{classes}'
        return f'Checkpoint {printable(self.source)} ({what}), {self.dialect} names, {self.weights} weights'


@dataclass
class LoadReport(FileReport):
    """What became of a checkpoint's tensors.

    Attributes:
        adapted: What was computed from the stored tensors and not only copied.
        loaded: Names of the filled tensors.
        new: Names that the file does not have and may lack: the norms ``norm{i}`` of dense prediction, and norm and
            head of a classifier.
        unfit: Names of a classifier's head that the file has for another number of classes, with both shapes.
        dropped: Names in the file that a backbone has no use for: those of a classifier, whatever its number of
            classes, or of the rest of a detector.
        missing: Names that nothing filled.
        mismatched: Names whose shape differs, with both shapes.
        unexpected: Names in the file that no backbone has.
    """

    adapted: list[str] = field(default_factory=list)
    loaded: list[str] = field(default_factory=list)
    new: list[str] = field(default_factory=list)
    unfit: list[str] = field(default_factory=list)
    dropped: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    mismatched: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        verb = 'would fit' if self.missing or self.mismatched or self.unexpected else 'loaded'
        lines = [f'{self.headline()}: {len(self.loaded)} tensors {verb}']
        kinds = ('adapted', 'new', 'unfit', 'dropped', 'missing', 'mismatched', 'unexpected')
        return '\n'.join([*lines, *(f'  {kind}: {shorten(names)}' for kind in kinds if (names := getattr(self, kind)))])


def load_backbone(
    model: nn.Module, source: str | os.PathLike, prefix: str | None = None, ema: bool = False
) -> LoadReport:
    """Fills a backbone from a checkpoint in any dialect of :mod:`.dialects`, whole or not at all.

    Args:
        model: The backbone, or an :class:`.ImageClassifier`, whose norm and head are filled too if they are there and
            fit.
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
    shapes = dict(model.named_parameters())  # a sharded model's state is empty in all processes but the first
    own = {name.removeprefix('backbone.'): shapes.get(name, tensor) for name, tensor in model.state_dict().items()}
    report, filled = compare(own, found, source)
    if report.missing or report.mismatched or report.unexpected:
        line = Architecture.of(found.tensors).config_line()
        raise CheckpointMismatch(
            f'The checkpoint does not fit the backbone, which is {Architecture.of(own)}; nothing was loaded.\n{report}'
            + (f'\nThe config line that fits: {line}' if line else '')
        )
    in_classifier = 'head.weight' in own
    model.load_state_dict({_place(name, in_classifier): tensor for name, tensor in filled.items()}, strict=False)
    print_log(str(report), logger='current')
    return report


def require_whole(report: LoadReport) -> None:
    """Makes sure that a classifier that is not trained any more got its norm and its head too.

    Raises:
        CheckpointMismatch: It did not.
    """
    if report.new or report.unfit:
        raise CheckpointMismatch(
            f'The checkpoint {report.source} does not fit the classifier of the config '
            f'({", ".join(report.new + report.unfit)}): use the config that it was trained with.'
        )


def compare(own: dict[str, Tensor], found: Found, source: str) -> tuple[LoadReport, dict[str, Tensor]]:
    """Says what becomes of a checkpoint's tensors.

    Args:
        own: The tensors of a backbone.
        found: The backbone in the file.
        source: The file, for the report.

    Returns:
        The report, and what fills the backbone.
    """
    arch = Architecture.of(found.tensors)
    report = LoadReport(source, found.dialect.name, str(arch), arch.in_channels, arch.classes, found.weights)
    modules = {name.rpartition('.')[0] for name in found.tensors}
    filled = {}
    for name, tensor in own.items():
        stored = found.tensors.get(name)
        if stored is None:
            may_be_new = _MAY_LACK.match(name) and name.rpartition('.')[0] not in modules
            (report.new if may_be_new else report.missing).append(name)
        elif stored.shape == tensor.shape:
            filled[name] = stored
        elif name in (STEM, ISOTROPIC_STEM) and stored.shape == (tensor.shape[0], 3, *tensor.shape[2:]):
            filled[name] = adapt_stem(stored, tensor.shape[1])
            report.adapted.append(f'{name} from 3 to {tensor.shape[1]} input channels')
        else:
            unfit = report.unfit if name in _HEAD else report.mismatched
            unfit.append(f'{name} {tuple(stored.shape)} for {tuple(tensor.shape)}')
    report.loaded += filled
    stages = 1 + max((int(match[1]) for match in map(_STAGE.match, own) if match), default=3)
    for name in sorted(found.tensors.keys() - own.keys()):
        (report.dropped if _unused(name, stages) else report.unexpected).append(name)
    report.dropped += found.outside
    return report, filled


def _place(canonical: str, in_classifier: bool) -> str:
    """The name in a model of a tensor: a classifier has the backbone below ``backbone.``, norm and head beside it."""
    return canonical if not in_classifier or canonical.startswith(('norm.', 'head.')) else f'backbone.{canonical}'


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
    later = _STAGE.match(name)
    return int(later[1]) >= stages if later else re.match(r'head\.|norm\d?\.', name) is not None
