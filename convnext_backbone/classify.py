"""Classes of photographs for people and for programs: pictures with captions, and json."""

import json
from collections.abc import Iterator
from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.registry import MODELS, init_default_scope
from PIL import Image
from torch import Tensor

from .checkpoint import fill_backbone
from .class_names import describe_class, imagenet_classes
from .classifier import ImageClassifier
from .image_io import name_pictures, read_image, write_picture
from .imagenet import build_transform
from .pictures import add_bars
from .reader import read_state


def build_classifier(cfg: Config, checkpoint: str) -> ImageClassifier:
    """Builds the classifier of a config and fills it, head and all, from a checkpoint of any dialect.

    Raises:
        CheckpointError: The file cannot be read.
        CheckpointMismatch: The file does not fill the model.
    """
    init_default_scope(cfg.get('default_scope', 'mmengine'))
    model = MODELS.build(cfg.model)
    state = read_state(checkpoint)
    fill_backbone(model, state, checkpoint, head=True)
    meta = (state.get('meta') or {}).get('dataset_meta') or {}
    model.class_names = meta.get('classes') or imagenet_classes(cfg.model.num_classes)
    model.transform = build_transform(False, **cfg.test_dataloader.dataset.transform)
    return model.to(get_device()).eval()


def top_classes(scores: Tensor, names: tuple[str, ...], k: int = 5) -> list[dict]:
    """The likeliest classes of an image, best first: ``label``, ``class``, ``description`` and ``score`` of each.

    Args:
        scores: (num_classes,).
        names: Of the classes.
        k: How many.
    """
    best = torch.topk(scores, min(k, len(scores)))
    return [
        {'label': label, 'class': names[label], 'description': describe_class(names[label]), 'score': score}
        for label, score in zip(best.indices.tolist(), best.values.tolist(), strict=True)
    ]


def classify(model: ImageClassifier, images: list[Path], out_dir: Path) -> Iterator[dict]:
    """Classifies images and writes each with the names of its likeliest classes into a folder.

    Args:
        model: As of :func:`build_classifier`.
        images: The image files.
        out_dir: Where the pictures go.

    Yields:
        For each image ``image`` and ``picture`` (paths) and ``classes`` as of :func:`top_classes`.

    Raises:
        UserError: An image cannot be decoded.
    """
    for path, picture in zip(images, name_pictures(images, out_dir), strict=True):
        image = read_image(path)
        with torch.no_grad():
            (prediction,) = model.test_step(dict(inputs=model.transform(Image.fromarray(image))[None]))
        classes = top_classes(prediction['scores'].cpu(), model.class_names)
        parts = [(found['description'], found['score']) for found in classes[:3]]
        write_picture(add_bars(image, parts), picture)
        yield dict(image=path, picture=picture, classes=classes)


def classes_json(predictions: list[dict]) -> str:
    """The likeliest classes of each image."""
    return json.dumps([dict(image=str(one['image']), classes=one['classes']) for one in predictions], indent=1)


def describe_classes(predictions: list[dict]) -> str:
    """The likeliest classes of each image, a line for each."""
    return '\n'.join(
        f'{one["image"]}: ' + ', '.join(f'{found["description"]} {found["score"]:.2f}' for found in one['classes'])
        for one in predictions
    )
