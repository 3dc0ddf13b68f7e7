"""Reconstruction of images by a masked autoencoder: pictures of what it sees and what it makes of that, and json."""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from mmengine.model import BaseModel
from PIL import Image

from ..datasets.unlabelled_images import keep_channels
from ..evaluation.reconstruction_pictures import draw_reconstruction, to_pixels
from ..utils.image_io import read_image
from .image_files import ImageFile
from .predicting import PredictionTask


class ReconstructionTask(PredictionTask):
    """Masks images, each always in the same way, and draws them next to what is visible and reconstructed.

    Args:
        model: As of :func:`.build_autoencoder`.
    """

    def __init__(self, model: BaseModel) -> None:
        self._model = model

    def predict(self, files: Sequence[ImageFile]) -> list[dict[str, Any]]:
        """Reconstruct images, which go through the model together.

        Returns:
            Of each image its ``file``, ``drawn`` (H, 3 * W + gaps, 3), the ``loss`` of what was removed, and the
            ``mask``, as of :meth:`.MaskedAutoencoder.encode`.
        """
        channels = self._model.backbone.in_channels
        images = [read_image(f.image, channels=channels) if f.pixels is None else f.pixels for f in files]
        inputs = torch.stack([self._model.transform(keep_channels(Image.fromarray(image))) for image in images])
        with torch.no_grad():
            results = self._model.test_step(dict(inputs=inputs))
        preprocessor = self._model.data_preprocessor
        predictions = []
        for file, image, found in zip(files, inputs, results, strict=True):
            mask = found['mask'].cpu().numpy()
            reconstruction = to_pixels(found['reconstruction'], preprocessor.mean, preprocessor.std)
            drawn = draw_reconstruction(to_pixels(image), mask, reconstruction)
            predictions.append(dict(file=file, drawn=drawn, loss=float(found['loss']), mask=mask.tolist()))
        return predictions

    def rows(self, prediction: dict[str, Any]) -> Iterable[dict[str, Any]]:
        """The entry of a prediction in the json."""
        return [{**prediction['file'].entry(), 'loss': prediction['loss'], 'mask': prediction['mask']}]

    def describe(self, prediction: dict[str, Any]) -> str:
        """The loss."""
        return f'loss {prediction["loss"]:.3f}'
