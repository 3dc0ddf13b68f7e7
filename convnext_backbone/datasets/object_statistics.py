"""What COCO annotation files hold: objects by class and size, their aspect ratios, and what is wrong with them."""

from array import array
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from ..utils.errors import printable
from .coco_check import CocoObserver, check_coco
from .coco_format import Annotation, CocoFile, CocoProblem, Image
from .faults import Faults
from .samples import Sample, SplitStatistics

SIZES = {'small': 32**2, 'medium': 96**2, 'large': float('inf')}  # COCO's: areas in pixels, up to
_REACH = 2  # pixels by which boxes of all data sets leave their image
_CROWD = 'iscrowd=1'
_EXPECTED = (None, 'ignore=1', 'another class', _CROWD)  # reasons to leave out an annotation that somebody chose


class ObjectStatistics(SplitStatistics, CocoObserver):
    """A split of objects in images.

    Args:
        split: ``'train'``, ``'val'`` or ``'test'``.
        dataset: Config of a data set of mmdet that reads a COCO annotation file.
        classes: The names of its classes.
        faults: Gets what is wrong.

    Raises:
        UserError: The file cannot be read, or has other classes.
    """

    def __init__(self, split: str, dataset: Mapping, classes: Sequence[str], faults: Faults) -> None:
        self.split, self._classes, self._faults = split, classes, faults
        root, prefix = Path(dataset.get('data_root') or '.'), (dataset.get('data_prefix') or {}).get('img', '')
        self._folder, self._file = root / prefix, root / dataset['ann_file']
        self._labels: dict[float | str, int] = {}
        self._total = 0  # annotations
        self._images: list[Image] = []
        self._places: dict[float | str, int] = {}
        # Of each object, or crowd: its place in the file, its image, class, area and box.
        self._rows: tuple[Any, ...] = tuple(array(kind) for kind in 'iiifffff')
        self._crowds = 0
        # An evaluation refuses, and training leaves out: here both are counted.
        check_coco({**dataset, 'test_mode': False}, classes, self)
        self._number, self._image, self._label, self._areas, *box = map(np.asarray, self._rows)
        self._boxes = np.stack(box[2:], 1)
        self._add_faults()
        self._add_copies(self._image, self._label, *box)
        pairs = np.unique(np.stack([self._image, self._label], 1), axis=0)
        seen: list[list[int]] = [[] for _ in self._images]
        for image, label in pairs.tolist():
            seen[image].append(label)
        self.samples = [
            Sample(split, str(self._folder / one.file_name), place, tuple(seen[place]), (one.width, one.height))
            for place, one in enumerate(self._images)
        ]
        self._images_with = np.bincount(pairs[:, 1], minlength=len(classes))

    def begin(self, coco: CocoFile, images: Mapping[float | str, Image]) -> None:
        """Get the file and its images."""
        self._coco, self._images, self._total = coco, [*images.values()], len(coco.annotations)
        self._places = {name: place for place, name in enumerate(images)}
        places = {name: label for label, name in enumerate(self._classes)}
        self._labels = {one.id: places[one.name] for one in coco.entries('categories') if one.name in places}

    def see(self, number: int, annotation: Annotation, image: Image | None, why: str | None) -> None:
        """Get an annotation."""
        self._crowds += why == _CROWD
        if why is None:
            place, label = self._places[annotation.image_id], self._labels[annotation.category_id]
            values = (number, place, label, annotation.area, *annotation.bbox)
            for column, value in zip(self._rows, values, strict=True):
                column.append(value)
            x, y, width, height = annotation.bbox
            if image and (
                min(x, y) < -_REACH or x + width > image.width + _REACH or y + height > image.height + _REACH
            ):
                text = (
                    f'{self._file} has annotations[{number}] with bbox={[*annotation.bbox]} in an image of '
                    f'{image.width} x {image.height} pixels: mmdet cuts it off there.'
                )
                self._add('boxes that reach beyond their image', text, image)
        elif why not in _EXPECTED:
            shown = printable(
                f'image_id={annotation.image_id!r}, category_id={annotation.category_id!r}, bbox={[*annotation.bbox]}'
            )
            text = f'{self._file} has annotations[{number}] with {why} ({shown}): it is left out; correct it.'
            self._add(f'annotations with {why}', text, image)

    def refuse(self, problem: CocoProblem) -> None:
        """Get a problem."""
        paths = [str(self._folder / name) for name in problem.images]
        text = f'{self._file} {problem}.'
        self._faults.add(problem.kind, self.split, text, paths, self._total, problem.number)

    def _add(self, kind: str, text: str, image: Image | None) -> None:
        paths = [str(self._folder / image.file_name)] if image else []
        self._faults.add(kind, self.split, text, paths, self._total)

    def _add_faults(self) -> None:
        """Add what is wrong with the file as a whole."""
        number, objects = self._total, len(self._number)
        if self._crowds > objects:
            text = (
                f'{self._file} marks {self._crowds} of {number} annotations as crowds, which are neither learnt nor '
                f'counted: set iscrowd=0.'
            )
            self._faults.add(
                'annotations with iscrowd=1, which are most of all', self.split, text, (), number, self._crowds
            )
        elif not objects and self.split != 'test':
            self._faults.add('no annotations', self.split, f'{self._file} has no object that can be learnt or counted.')
        if self._faults.has('boxes that are not [x, y, width, height]', self.split):  # of which that is a consequence
            self._faults.drop('boxes that reach beyond their image', self.split)

    def _add_copies(self, *columns: np.ndarray) -> None:
        """Add objects of the same image, class and box."""
        order = np.lexsort(columns)
        same = order[1:][np.logical_and.reduce([one[order[1:]] == one[order[:-1]] for one in columns])]
        for row in same.tolist():
            image = self._images[self._image[row]]
            text = (
                f'{self._file} has annotations[{self._number[row]}] of {printable(image.file_name)} twice: it is '
                f'learnt and counted twice; remove one.'
            )
            self._add('objects that are there twice', text, image)

    def summary(self) -> dict[str, Any]:
        """Numbers for people and programs."""
        ratios = np.divide(*self._boxes.T) if len(self._boxes) else np.zeros(0)
        low, middle, high = np.percentile(ratios, (5, 50, 95)).tolist() if len(ratios) else (None,) * 3
        by_size = np.zeros((len(SIZES), len(self._classes)), int)
        np.add.at(by_size, (np.searchsorted([*SIZES.values()], self._areas), self._label), 1)
        numbers = by_size.sum(0)
        return dict(
            objects=len(self._number),
            crowds=self._crowds,
            **dict(zip(SIZES, by_size.sum(1).tolist(), strict=True)),
            aspect_ratios=dict(low=low, median=middle, high=high),
            classes={
                name: dict(
                    images=int(self._images_with[label]),
                    objects=int(numbers[label]),
                    **dict(zip(SIZES, by_size[:, label].tolist(), strict=True)),
                )
                for label, name in enumerate(self._classes)
            },
        )

    def sides(self, scale: tuple[int, int]) -> np.ndarray:
        """The sides of objects in pixels, the roots of their boxes, in images resized to fit a scale (long, short)."""
        sizes = np.array([(one.width, one.height) for one in self._images], float).reshape(-1, 2)
        factors = np.minimum(max(scale) / sizes.max(1, initial=1), min(scale) / sizes.min(1, initial=np.inf))
        return np.sqrt(self._boxes.prod(1)) * factors[self._image]

    def annotations_of(self, sample: Sample) -> list[tuple[int, Annotation]]:
        """Labels and annotations of the objects of an image."""
        decode = msgspec.json.Decoder(Annotation).decode
        rows = np.flatnonzero(self._image == sample.place)
        return [(int(self._label[row]), decode(self._coco.annotations[self._number[row]])) for row in rows]
