"""What a checkpoint file holds, and what became of its tensors."""

from dataclasses import dataclass, field

from ..utils.errors import printable, shorten


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
