"""Reports on a checkpoint: what the file holds, and which tensors were loaded."""

from dataclasses import dataclass, field

from ..utils.errors import printable, shorten


@dataclass
class FileReport:
    """Contents of a checkpoint file."""

    source: str  # path or address
    dialect: str  # the weights format, such as 'timm'
    arch: str  # the architecture inferred from the shapes, such as 'tiny, V1'
    in_channels: int  # channels of the images that its stem takes
    classes: int | None  # of its classifier, None if it has none
    weights: str  # 'plain' or 'averaged' (exponential moving average)

    def headline(self) -> str:
        """Summary in one line."""
        classes = f', {self.classes} classes' if self.classes else ''
        what = f'{self.arch}, {self.in_channels} input channels{classes}'
        return f'Checkpoint {printable(self.source)} ({what}), {self.dialect} names, {self.weights} weights'


@dataclass
class LoadReport(FileReport):
    """Result of loading a checkpoint, tensor by tensor; all but ``loaded`` and ``adapted`` are names.

    Attributes:
        loaded: Tensors of the model that were filled.
        adapted: Those of them that were computed from the stored ones, not copied.
        new: Tensors that the file may lack and does: the norms ``norm{i}`` of dense prediction, a classifier's norm
            and head.
        unfit: Tensors of a classifier's head that the file has for another number of classes, with both shapes.
        dropped: Tensors of the file that the backbone does not need: a classifier's, or the rest of a detector.
        missing: Tensors that the file lacks.
        mismatched: Tensors of another shape, with both shapes.
        unexpected: Tensors of the file that no backbone has.
    """

    adapted: list[str] = field(default_factory=list)
    loaded: list[str] = field(default_factory=list)
    new: list[str] = field(default_factory=list)
    unfit: list[str] = field(default_factory=list)
    dropped: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    mismatched: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)

    @property
    def complete(self) -> bool:
        """Whether every tensor of the backbone is filled and none of the file is unexpected."""
        return not (self.missing or self.mismatched or self.unexpected)

    def __str__(self) -> str:
        verb = 'loaded' if self.complete else 'would fit'
        lines = [f'{self.headline()}: {len(self.loaded)} tensors {verb}']
        kinds = ('adapted', 'new', 'unfit', 'dropped', 'missing', 'mismatched', 'unexpected')
        return '\n'.join([*lines, *(f'  {kind}: {shorten(names)}' for kind in kinds if (names := getattr(self, kind)))])
