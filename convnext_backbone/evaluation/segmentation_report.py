"""What a segmentor takes for what, and how well it finds each class and the pixels of each image."""

import math
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from .class_report import draw_confusion, find_confused, write_per_class


class SegmentationReport:
    """Counts pixels by annotated and predicted class.

    Args:
        classes: Their names.
        ignore_index: The label of pixels that do not count.

    Attributes:
        confusion (Tensor): Pixels by class (rows) and predicted class (columns), (classes, classes).
    """

    def __init__(self, classes: Sequence[str], ignore_index: int = 255) -> None:
        self._classes, self._ignore_index = classes, ignore_index
        self.confusion = torch.zeros(len(classes), len(classes), dtype=torch.long)

    def add(self, predicted: Tensor, truth: Tensor) -> float:
        """Count an image, (H, W) both; returns its mean IoU from 0 to 1, NaN if no pixel counts."""
        number = len(self._classes)
        truth, predicted = truth.to(predicted.device).long(), predicted.long()
        counts = (truth != self._ignore_index) & (truth >= 0) & (truth < number)
        cells = truth[counts] * number + predicted[counts]
        confusion = torch.bincount(cells, minlength=number**2).view(number, number).cpu()
        self.confusion += confusion
        return float(_iou(confusion).nanmean())

    def write(self, folder: Path) -> None:
        """Write ``per_class.json``, with scores in percent as mmseg has them, and ``confusion.png``."""
        pixels = self.confusion.sum(1)
        scores = dict(IoU=_iou(self.confusion), Acc=self.confusion.diagonal() / pixels.double())
        rows = [
            {
                'class': name,
                'pixels': int(pixels[label]),
                **{key: _percent(float(values[label])) for key, values in scores.items()},
                'taken_for': find_confused(self.confusion[label].tolist(), label, self._classes),
            }
            for label, name in enumerate(self._classes)
        ]
        write_per_class(rows, folder)
        title = f'mIoU {100 * float(scores["IoU"].nanmean()):.2f}'
        draw_confusion(self.confusion, self._classes, folder / 'confusion.png', title, 'pixels')


def _iou(confusion: Tensor) -> Tensor:
    """IoU of each class; NaN of one that is neither there nor predicted."""
    right = confusion.diagonal()
    return right / (confusion.sum(0) + confusion.sum(1) - right).double()


def _percent(value: float) -> float | None:
    return 100 * value if math.isfinite(value) else None
