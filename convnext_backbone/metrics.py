"""Top-1 and top-5 accuracy, the accuracy of each class, and a picture of what is taken for what."""

import json
from collections.abc import Sequence
from pathlib import Path

import torch
from mmengine.dist import all_gather_object
from mmengine.evaluator import BaseMetric
from mmengine.registry import METRICS
from torch import Tensor

from .errors import UserError
from .files import write_atomically

_TOP = 5
_MOST_NAMED = 40  # more names do not fit the axes of a picture


@METRICS.register_module()
class AccuracyMetric(BaseMetric):
    """Top-1 and top-5 accuracy, from 0 to 1.

    Images without a class (those that could not be read) do not count.

    Attributes:
        confusion (Tensor | None): After an evaluation, how often the images of a class (row) were taken for which
            (column), (classes, classes).
    """

    default_prefix = 'accuracy'
    confusion: Tensor | None = None

    def __init__(self, **settings: object) -> None:
        super().__init__(**settings)
        self.unpadded = False

    def evaluate(self, size: int) -> dict[str, float]:
        """The scores of the results of all processes; ``size`` cuts off what a sampler repeats to even them out.

        A stream repeats nothing (``unpadded``), and its size is that of its own process's part.
        """
        if not self.unpadded:
            return super().evaluate(size)
        self.results = [result for part in all_gather_object(self.results) for result in part]
        scores = {f'{self.prefix}/{name}': score for name, score in self.compute_metrics(self.results).items()}
        self.results.clear()
        return scores

    def process(self, data_batch: object, data_samples: Sequence[dict]) -> None:
        """Keeps the label and the five best classes of each image."""
        for sample in data_samples:
            best = sample['scores'].topk(min(_TOP, len(sample['scores']))).indices.tolist()
            self.results.append((int(sample['label']), len(sample['scores']), best))

    def compute_metrics(self, results: list[tuple[int, int, list[int]]]) -> dict[str, float]:
        """The accuracies of all images."""
        seen = [result for result in results if result[0] >= 0]
        if not seen:
            raise UserError('No image of the evaluation could be read: look at the names in the log above.')
        classes = seen[0][1]
        self.confusion = torch.zeros(classes, classes, dtype=torch.long)
        for label, _, best in seen:
            self.confusion[label, best[0]] += 1
        return dict(
            top1=sum(label == best[0] for label, _, best in seen) / len(seen),
            top5=sum(label in best for label, _, best in seen) / len(seen),
        )


def write_class_report(confusion: Tensor, names: Sequence[str], folder: Path) -> None:
    """Writes ``per_class.json``, the accuracy of each class, and ``confusion.png`` into a folder.

    Args:
        confusion: As of :class:`AccuracyMetric`.
        names: Of the classes.
        folder: An existing folder.
    """
    rows = []
    for label, (name, row) in enumerate(zip(names, confusion.tolist(), strict=True)):
        images = sum(row)
        mistaken = max((count, other) for other, count in enumerate(row) if other != label) if len(row) > 1 else (0, 0)
        rows.append(
            {
                'class': name,
                'images': images,
                'top1': row[label] / images if images else None,
                'taken_for': names[mistaken[1]] if mistaken[0] else None,
            }
        )
    write_atomically((json.dumps(rows, indent=1) + '\n').encode(), folder / 'per_class.json')
    draw_confusion(confusion, names, folder / 'confusion.png')


def draw_confusion(confusion: Tensor, names: Sequence[str], path: Path) -> None:
    """Draws how the images of each class (rows) are classified (columns), in parts of the row."""
    from matplotlib.figure import Figure  # only where a picture is wanted

    parts = confusion / confusion.sum(dim=1, keepdim=True).clamp(min=1)
    few = len(names) <= _MOST_NAMED
    figure = Figure(figsize=(3 + 0.3 * len(names), 2.4 + 0.3 * len(names)) if few else (9, 8), layout='constrained')
    axes = figure.subplots()
    image = axes.imshow(parts, cmap='Blues', vmin=0, vmax=1, interpolation='nearest')
    figure.colorbar(image, ax=axes, label='part of the images of a class')
    accuracy = float(confusion.diagonal().sum() / confusion.sum().clamp(min=1))
    axes.set(title=f'top-1 {accuracy:.3f}', xlabel='classified as', ylabel='is')
    if few:
        axes.set_xticks(range(len(names)), names, rotation=90)
        axes.set_yticks(range(len(names)), names)
        for row, column in torch.nonzero(parts >= 0.005).tolist():
            part = float(parts[row, column])
            colour = 'white' if part > 0.5 else 'black'
            axes.text(column, row, f'{100 * part:.0f}', ha='center', va='center', fontsize=7, color=colour)
    figure.savefig(path, dpi=110)
