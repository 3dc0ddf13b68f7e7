"""Classification of images and frames of videos: pictures with the predicted classes, and json."""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from mmengine.model import BaseModel
from PIL import Image
from torch import Tensor

from ..datasets.class_names import describe_class
from ..utils.image_io import read_image
from ..visualization.legend import add_bars
from .image_files import ImageFile
from .predicting import PredictionTask


class ClassificationTask(PredictionTask):
    """Classifies images, and draws them with their three best classes.

    Args:
        model: As of :func:`.build_classifier`.
    """

    def __init__(self, model: BaseModel) -> None:
        self._model = model

    def predict(self, files: Sequence[ImageFile]) -> list[dict[str, Any]]:
        """Classify images, which go through the model together.

        Returns:
            Of each image its ``file``, ``drawn`` (H, W, 3) and ``classes`` as of :func:`top_classes`.
        """
        images = [read_image(file.image) if file.pixels is None else file.pixels for file in files]
        inputs = torch.stack([self._model.transform(Image.fromarray(image)) for image in images])
        with torch.no_grad():
            results = self._model.test_step(dict(inputs=inputs))
        predictions = []
        for file, image, result in zip(files, images, results, strict=True):
            classes = top_classes(result['scores'].cpu(), self._model.class_names)
            drawn = add_bars(image, [(found['description'], found['score']) for found in classes[:3]])
            predictions.append(dict(file=file, drawn=drawn, classes=classes))
        return predictions

    def rows(self, prediction: dict[str, Any]) -> Iterable[dict[str, Any]]:
        """The entry of a prediction in the json."""
        return [{**prediction['file'].entry(), 'classes': prediction['classes']}]

    def describe(self, prediction: dict[str, Any]) -> str:
        """The best classes."""
        return ', '.join(f'{found["description"]} {found["score"]:.2f}' for found in prediction['classes'])


def top_classes(scores: Tensor, names: Sequence[str], k: int = 5) -> list[dict]:
    """List the k best classes of an image's scores: ``label``, ``class``, ``description`` and ``score`` of each."""
    best = torch.topk(scores, min(k, len(scores)))
    return [
        {'label': label, 'class': names[label], 'description': describe_class(names[label]), 'score': score}
        for label, score in zip(best.indices.tolist(), best.values.tolist(), strict=True)
    ]
