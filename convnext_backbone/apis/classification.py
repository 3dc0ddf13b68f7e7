"""Classification of image files: pictures with the predicted classes, and json."""

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from ..datasets.class_names import describe_class
from ..models.classifier import ImageClassifier
from ..utils.errors import printable
from ..utils.image_io import read_image, write_picture
from ..visualization.legend import add_bars


def build_classification(model: ImageClassifier) -> Callable[[Path, Path], dict]:
    """Build the function that classifies an image and writes it with its three best classes.

    Args:
        model: As of :func:`.build_classifier`.

    Returns:
        A function of the paths of image and picture. It returns ``image``, ``picture`` and ``classes`` as of
        :func:`top_classes`.
    """

    def classify(path: Path, picture: Path) -> dict:
        image = read_image(path)
        with torch.no_grad():
            (prediction,) = model.test_step(dict(inputs=model.transform(Image.fromarray(image))[None]))
        classes = top_classes(prediction['scores'].cpu(), model.class_names)
        write_picture(add_bars(image, [(found['description'], found['score']) for found in classes[:3]]), picture)
        return dict(image=path, picture=picture, classes=classes)

    return classify


def top_classes(scores: Tensor, names: Sequence[str], k: int = 5) -> list[dict]:
    """List the k best classes of an image's scores: ``label``, ``class``, ``description`` and ``score`` of each."""
    best = torch.topk(scores, min(k, len(scores)))
    return [
        {'label': label, 'class': names[label], 'description': describe_class(names[label]), 'score': score}
        for label, score in zip(best.indices.tolist(), best.values.tolist(), strict=True)
    ]


def describe_classes(predictions: list[dict]) -> str:
    """List the best classes of each image, one line per image."""
    return '\n'.join(
        f'{printable(one["image"])}: '
        + ', '.join(f'{found["description"]} {found["score"]:.2f}' for found in one['classes'])
        for one in predictions
    )
