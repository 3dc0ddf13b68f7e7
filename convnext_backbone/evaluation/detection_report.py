"""What a detector takes for what, and how well it finds each class and the objects of each image."""

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from .class_report import draw_confusion, find_confused, write_per_class

IOU, SCORE = 0.5, 0.3  # overlap with an object from which it is found, and score from which a detection counts


class Boxes(NamedTuple):
    """Boxes of an image: x1, y1, x2 and y2 in pixels, (N, 4), and the labels of their classes, (N,)."""

    boxes: np.ndarray
    labels: np.ndarray


class ImageResult(NamedTuple):
    """What of an image is right: objects that were found as what they are, other detections, and other objects."""

    found: int
    false: int
    missed: int

    @property
    def f1(self) -> float:
        """From 0 to 1; 1 where there is nothing to find and nothing was found."""
        errors = self.false + self.missed
        return 2 * self.found / (2 * self.found + errors) if errors else 1.0


class DetectionReport:
    """Counts detections by annotated and predicted class.

    Objects and detections are paired from the best score on, first within their class; what overlaps most comes first.
    Detections on crowds are neither right nor wrong, as in COCO's evaluation.

    Attributes:
        confusion (np.ndarray): Objects by class (rows) and predicted class (columns), (classes + 1, classes + 1); the
            last column are those that are missed, the last row detections where there is no object.
    """

    def __init__(self, classes: Sequence[str]) -> None:
        self._classes = classes
        self.confusion = np.zeros((len(classes) + 1, len(classes) + 1), np.int64)

    def add(self, detected: Boxes, truth: Boxes, crowd: np.ndarray) -> ImageResult:
        """Count an image: detections that count, best first, and its objects, of which some are crowds, (N,)."""
        background = len(self._classes)
        overlaps = _overlaps(detected.boxes, truth.boxes, crowd)
        ignored = (overlaps[:, crowd] >= IOU).sum(1) > 0
        objects, overlaps = truth.labels[~crowd], overlaps[:, ~crowd]
        pairs: dict[int, int] = {}
        free = np.ones(len(objects), bool)
        for within in (True, False):
            for i, label in enumerate(detected.labels):
                fits = free & (overlaps[i] >= IOU) & ((objects == label) == within)
                if i not in pairs and fits.any():
                    pairs[i] = int(np.where(fits, overlaps[i], -1).argmax())
                    free[pairs[i]] = False
        kept = [i for i in range(len(detected.labels)) if i in pairs or not ignored[i]]
        for i in kept:
            self.confusion[objects[pairs[i]] if i in pairs else background, detected.labels[i]] += 1
        np.add.at(self.confusion, (objects[free], background), 1)
        found = sum(objects[j] == detected.labels[i] for i, j in pairs.items())
        return ImageResult(int(found), len(kept) - int(found), len(objects) - int(found))

    def write(self, precisions: dict[str, dict[str, Any]], folder: Path) -> None:
        """Write ``per_class.json`` and ``confusion.png``; precisions as of :func:`record_precisions`."""
        rows = []
        for label, name in enumerate(self._classes):
            row = {'class': name, 'instances': int(self.confusion[label].sum())}
            for kind, prefix in (('bbox', ''), ('segm', 'mask_')):
                if kind in precisions:
                    ap, ap50 = precisions[kind].get(name, (None, None))
                    row |= {f'{prefix}AP': ap, f'{prefix}AP50': ap50}
            rows.append(row | {'taken_for': find_confused(self.confusion[label].tolist(), label, self._classes)})
        write_per_class(rows, folder)
        title = f'IoU from {IOU}, scores from {SCORE}'
        names = [*self._classes, 'background']
        draw_confusion(torch.from_numpy(self.confusion), names, folder / 'confusion.png', title, 'objects')


def _overlaps(boxes: np.ndarray, truth: np.ndarray, crowd: np.ndarray) -> np.ndarray:
    """IoU of boxes and objects, (N, M); with crowds the share of the box."""
    from pycocotools import mask

    if not len(boxes) or not len(truth):
        return np.zeros((len(boxes), len(truth)))
    corners = [np.asarray(part, np.float64).reshape(-1, 4) for part in (boxes, truth)]
    sizes = [np.concatenate([part[:, :2], part[:, 2:] - part[:, :2]], 1) for part in corners]
    return np.asarray(mask.iou(*sizes, crowd.astype(np.uint8)))


@contextlib.contextmanager
def record_precisions() -> Iterator[dict[str, dict[str, Any]]]:
    """Context of what COCO's evaluation computes within it, which mmdet's metric keeps to itself.

    Yields:
        The AP and the AP at an IoU of 0.5 of each class by its name, None where that has no objects; by ``'bbox'`` and
        ``'segm'``. It is filled by the first evaluation of each.
    """
    from pycocotools.cocoeval import COCOeval

    found: dict[str, dict[str, Any]] = {}
    accumulate = COCOeval.accumulate

    def record(self: Any, *args: Any, **kwargs: Any) -> None:
        accumulate(self, *args, **kwargs)
        if self.params.useCats:
            found.setdefault(self.params.iouType, _precisions(self))

    COCOeval.accumulate = record
    try:
        yield found
    finally:
        COCOeval.accumulate = accumulate


def _precisions(evaluation: Any) -> dict[str, Any]:
    params, precision = evaluation.params, evaluation.eval['precision'][..., 0, -1]  # (IoU, recall, class): all sizes
    half = np.isclose(params.iouThrs, 0.5)
    names = [one['name'] for one in evaluation.cocoGt.loadCats(params.catIds)]
    return {name: (_mean(precision[..., k]), _mean(precision[half, :, k])) for k, name in enumerate(names)}


def _mean(values: np.ndarray) -> float | None:
    known = values[values > -1]
    return float(known.mean()) if known.size else None
