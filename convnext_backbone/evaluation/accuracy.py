"""Top-1 and top-5 accuracy, the accuracy of each class, and a picture of what is taken for what."""

from collections.abc import Sequence

import torch
from mmengine.dist import all_gather_object
from mmengine.evaluator import BaseMetric
from mmengine.registry import METRICS
from torch import Tensor

from ..utils.errors import UserError

_TOP = 5


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
