"""Top-1 and top-5 accuracy and the confusion matrix of a classifier."""

from collections.abc import Sequence
from typing import Any

import torch
from mmengine.dist import all_gather_object
from mmengine.evaluator import BaseMetric
from mmengine.registry import METRICS
from torch import Tensor

from ..utils.errors import UserError

_TOP = 5


class ShareMetric(BaseMetric):
    """Base class of metrics whose results of all processes count, each once."""

    def evaluate(self, size: int) -> dict[str, Any]:
        """Compute the scores over the results of all ranks.

        Args:
            size: Length of this rank's data set. Of a map-style data set a sampler gives each rank a share, and repeats
                samples to make all shares equal: the results beyond the size are cut off. A stream is of the length of
                its rank's share: where each rank has as many results as its size, none are repeated and all count.
        """
        if not all(all_gather_object(len(self.results) == size)):
            return super().evaluate(size)
        results = [result for part in all_gather_object(self.results) for result in part]
        self.results.clear()
        return {f'{self.prefix}/{name}': score for name, score in self.compute_metrics(results).items()}


@METRICS.register_module()
class AccuracyMetric(ShareMetric):
    """Top-1 and top-5 accuracy, from 0 to 1, of all images that could be read (label 0 or more).

    Attributes:
        confusion (Tensor | None): Confusion matrix of the last evaluation: the number of images by class (rows) and
            predicted class (columns), (classes, classes).
    """

    default_prefix = 'accuracy'
    confusion: Tensor | None = None
    results: list[tuple[int, int, list[int]]]

    def process(self, data_batch: object, data_samples: Sequence[dict]) -> None:
        """Store label, number of classes and the five best classes of each image."""
        for sample in data_samples:
            best = sample['scores'].topk(min(_TOP, len(sample['scores']))).indices.tolist()
            self.results.append((int(sample['label']), len(sample['scores']), best))

    def compute_metrics(self, results: list[tuple[int, int, list[int]]]) -> dict[str, float]:
        """Compute the accuracies and the confusion matrix of all images."""
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
