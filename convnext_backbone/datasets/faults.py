"""Faults of data by name: how many there are, which images have them, and whether they spoil a result."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from ..utils.errors import UserError

OTHER_CLASSES = 'classes that are not those of training'
NO_LABEL, UNLISTED = 'images without a label', 'images that no table lists'

# From which share on a fault is an error: it ends a run, or spoils the result and nothing says so. Other faults of
# annotations are such as mmdet leaves out, of which a few do no harm.
_A_FEW, _NEVER = 0.01, math.inf
SERIOUS_FROM: Mapping[str, float] = {
    'unusable data': 0,
    'no annotations': 0,
    # Images
    'missing images': 0,
    'unreadable images': 0,
    'images without a mask': 0,
    'images in no list': _NEVER,
    'images with two classes': 0,
    NO_LABEL: 0,
    UNLISTED: _NEVER,  # the test images of a contest
    'images of another size than their annotations': 0,
    'pictures that another split has, too': _A_FEW,
    'pictures that are there twice': _NEVER,
    'pictures that are there in several classes': _A_FEW,
    # Objects
    'invalid entries': 0,
    'lines that are no objects': 0,
    'invalid annotation files': 0,
    'ids that are there twice': 0,
    'boxes that are not [x, y, width, height]': 0,
    'annotations with iscrowd=1, which are most of all': 0,
    'annotations with a segmentation of fewer than three points': 0,  # in an evaluation pycocotools fails
    'annotations with another image_id than any image': 0,
    'annotations with text as image_id, where the id of the image is a number': 0,
    'annotations with a number as image_id, where the id of the image is text': 0,
    'annotations with another category_id than any category': 0,
    'annotations with text as category_id, where the id of the category is a number': 0,
    'annotations with a number as category_id, where the id of the category is text': 0,
    'boxes that reach beyond their image': _NEVER,
    'objects that are there twice': _NEVER,
    # Masks
    'unusable masks': 0,
    'masks of another size than their image': 0,
    'values that no class has': 0,
    # Classes
    OTHER_CLASSES: 0,
    'classes without annotations': _NEVER,
    'class names that are almost the same': _NEVER,
}


@dataclass
class Problem:
    """A kind of fault in a split.

    Attributes:
        kind: In a few words, in the plural.
        split: ``'train'``, ``'val'``, ``'test'``; or ``''`` for the data as a whole.
        example: A sentence on the first one, with what to do.
        total: The number of images, annotations or classes, of which some have it; 0 if it is none of them.
        number: Of those that have it.
        images: The paths of images with it, as far as they are known.
    """

    kind: str
    split: str
    example: str
    total: int = 0
    number: int = 0
    images: dict[str, None] = field(default_factory=dict)

    @property
    def is_error(self) -> bool:
        """Whether a result would be spoilt, or a run end."""
        return self.number >= SERIOUS_FROM.get(self.kind, _A_FEW) * max(1, self.total)

    def __str__(self) -> str:
        """One line without the example."""
        number = f'{self.number} of {self.total}' if self.total else str(self.number)
        return f'{f"{self.split}: " * bool(self.split)}{self.kind} ({number})'

    def as_json(self) -> dict:
        """What a program reads."""
        return dict(
            kind=self.kind,
            split=self.split,
            severity='error' if self.is_error else 'warning',
            number=self.number,
            total=self.total,
            example=self.example,
            images=[*self.images],
        )


def name_image_fault(error: BaseException | None) -> str:
    """The kind of fault of an image whose reading failed so."""
    return 'missing images' if isinstance(error, FileNotFoundError) else 'unreadable images'


class Faults:
    """Collects the faults of data."""

    def __init__(self) -> None:
        self._problems: dict[tuple[str, str], Problem] = {}

    def add(
        self, kind: str, split: str, example: str, images: Iterable[str] = (), total: int = 0, number: int = 1
    ) -> None:
        """Add a number of faults of a kind; the first example is kept.

        Args:
            kind: In a few words.
            split: That they are in.
            example: A sentence.
            images: Paths of those that have them.
            total: Of how many; the largest that was given counts.
            number: How many they are.
        """
        problem = self._problems.setdefault((split, kind), Problem(kind, split, example))
        problem.number += number
        problem.total = max(problem.total, total)
        problem.images.update(dict.fromkeys(images))

    def mention(self, kind: str, split: str, note: str, remedy: str, total: int, number: int) -> str:
        """Add what a run only says, such as files that it leaves out; returns the note."""
        Faults.add(self, kind, split, f'{note}; {remedy}.', (), total, number)
        return note

    def put_off(self, error: UserError) -> None:
        """Get an error that the look at each file will find again, by name and number."""

    def has(self, kind: str, split: str) -> bool:
        """Whether there are some of a kind."""
        return (split, kind) in self._problems

    def drop(self, kind: str, split: str) -> None:
        """Forget those of a kind, which follow from others."""
        self._problems.pop((split, kind), None)

    def list(self) -> list[Problem]:
        """All problems, errors first."""
        return sorted(self._problems.values(), key=lambda problem: not problem.is_error)


class RaisedFaults(Faults):
    """Raises the first fault, as a run does."""

    def add(
        self, kind: str, split: str, example: str, images: Iterable[str] = (), total: int = 0, number: int = 1
    ) -> None:
        """Raise the sentence.

        Raises:
            UserError: Always.
        """
        raise UserError(example)

    def put_off(self, error: UserError) -> None:
        """Raise the error."""
        raise error


RAISED = RaisedFaults()
