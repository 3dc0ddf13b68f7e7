"""The layout of a user's data: its splits as settings of data sets, and its classes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ..utils.errors import UserError, printable


class NoLayoutError(UserError):
    """A folder holds no data of a task at all; of data that is there but invalid other errors tell."""


@dataclass(frozen=True)
class Layout:
    """What a folder of images and annotations holds.

    Attributes:
        format: Its name for people, such as ``'COCO json'``.
        classes: Their names in the order of the labels; none of images without labels.
        splits: By ``'train'``, ``'val'`` and, where there is one, ``'test'``: the settings of a data set in a config
            that read this split, such as ``ann_file`` and ``data_prefix``.
        numbers: Images of each split.
        notes: Sentences on what a person should know: a class without annotations, a split that was drawn.
        palette: The colours of the classes as (R, G, B) of 0 to 255, where the data names them.
        without_mask: Detection: the share of objects without a mask, with which a mask head cannot learn; a note says
            how many they are.
    """

    format: str
    classes: tuple[str, ...]
    splits: Mapping[str, dict]
    numbers: Mapping[str, int]
    notes: Sequence[str] = ()
    palette: Sequence[Sequence[int]] = ()
    without_mask: float = 0

    def __str__(self) -> str:
        """One line, such as ``COCO json, 3 classes (cat, dog, cow), 240 train + 60 val images``."""
        number, more = len(self.classes), ', ...' if len(self.classes) > 4 else ''
        classes = f'{number} class{"es" * (number != 1)} ({", ".join(map(printable, self.classes[:4]))}{more}), '
        images = ' + '.join(f'{number} {split}' for split, number in self.numbers.items())
        return f'{self.format}, {classes if number else ""}{images} images'
