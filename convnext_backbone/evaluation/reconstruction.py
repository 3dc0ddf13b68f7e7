"""Reconstruction loss of a masked autoencoder on images that it does not learn from."""

from collections.abc import Sequence

from mmengine.registry import METRICS

from .accuracy import ShareMetric


@METRICS.register_module()
class ReconstructionMetric(ShareMetric):
    """Mean of the losses of all images, as the model predicts them (``loss`` of each)."""

    default_prefix = 'reconstruction'
    results: list[float]

    def process(self, data_batch: object, data_samples: Sequence[dict]) -> None:
        """Store the loss of each image."""
        self.results += [float(sample['loss']) for sample in data_samples]

    def compute_metrics(self, results: list[float]) -> dict[str, float]:
        """Compute the mean."""
        return dict(loss=sum(results) / len(results))
