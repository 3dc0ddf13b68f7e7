"""Classes of pixels for people and for programs: overlays with a legend, pngs of class ids, and json."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np
import torch
from mmengine.config import Config
from mmengine.dataset import Compose
from torch import nn

from .errors import UserError
from .image_io import name_pictures, read_image, swap_colours, write_picture
from .inference import build_whole
from .inputs import build_test_pipeline
from .pictures import Entry, add_legend

_OPACITY = 0.5
_MAX_PIXELS = 2**21  # of a map of scores: with 150 classes it takes 1.2 GiB


def build_segmentor(cfg: Config, checkpoint: str) -> nn.Module:
    """Builds the segmentor of a config and fills it, whole, from a checkpoint.

    Raises:
        UserError: As of :func:`.build_whole`, or there are fewer names of classes, or colours, than classes.
    """
    model = build_whole(cfg, checkpoint)
    for what in ('classes', 'palette'):
        number = len(model.dataset_meta.get(what) or ())
        if number < model.num_classes:
            raise UserError(
                f'The model tells {model.num_classes} classes apart, but its data set has {number} {what}: set '
                f'test_dataloader.dataset.metainfo=dict(classes=(...), palette=[...]), one for each class.'
            )
    return model


def segment(model: nn.Module, images: list[Path], out_dir: Path) -> Iterator[dict]:
    """Tells the class of each pixel of images; writes an overlay of each, and its ids below ``class_ids``, to a folder.

    Args:
        model: As of :func:`build_segmentor`.
        images: The image files.
        out_dir: Where the pictures go.

    Yields:
        For each image ``image``, ``picture`` and ``class_ids`` (paths; the latter a png of one number for each pixel)
        and ``classes`` as of :func:`class_shares`.

    Raises:
        UserError: An image cannot be decoded.
    """
    pipeline = build_test_pipeline(model.cfg)
    names, palette = model.dataset_meta['classes'], model.dataset_meta['palette']
    pngs = name_pictures([path.with_suffix('.png') for path in images], out_dir / 'class_ids')
    for path, picture, png in zip(images, name_pictures(images, out_dir), pngs, strict=True):
        image = read_image(path)
        ids = predict_ids(model, pipeline, image)
        write_picture(ids, png)
        write_picture(draw_classes(image, ids, names, palette), picture)
        yield dict(image=path, picture=picture, class_ids=png, classes=class_shares(ids, names))


def predict_ids(model: nn.Module, pipeline: Compose, image: np.ndarray) -> np.ndarray:
    """The class of each pixel of an image.

    Args:
        model: As of :func:`build_segmentor`.
        pipeline: As of :func:`.build_test_pipeline`.
        image: (H, W, 3), RGB.

    Returns:
        (H, W), of bytes if these suffice. The scores of a photograph of more than 2 megapixels are compared at that
        size, and the result is enlarged: those of all classes of all of its pixels would not fit into memory.
    """
    height, width = image.shape[:2]
    sample = pipeline(dict(img=swap_colours(image)))
    shrink = min(1.0, (_MAX_PIXELS / (height * width)) ** 0.5)
    sample['data_samples'].set_metainfo(dict(ori_shape=(round(height * shrink), round(width * shrink))))
    with torch.no_grad():
        (result,) = model.test_step({name: [value] for name, value in sample.items()})
    ids = result.pred_sem_seg.data[0].cpu().numpy().astype(np.uint8 if model.num_classes <= 256 else np.uint16)
    return ids if shrink == 1 else cv2.resize(ids, (width, height), interpolation=cv2.INTER_NEAREST)


def class_shares(ids: np.ndarray, names: Sequence[str]) -> list[dict]:
    """The classes in an image, the largest first: ``label``, ``class`` and ``share`` of the pixels of each.

    Args:
        ids: (H, W). Those without a name are ``'void'``.
        names: Of the classes.
    """
    labels, counts = np.unique(ids, return_counts=True)
    return [
        {'label': int(labels[i]), 'class': name_class(labels[i], names), 'share': float(counts[i] / ids.size)}
        for i in np.argsort(-counts, kind='stable')
    ]


def name_class(label: int, names: Sequence[str]) -> str:
    """The name of a class; ``'void'`` for the label of unlabelled pixels, which is that of no class."""
    return names[label] if label < len(names) else 'void'


def draw_classes(
    image: np.ndarray, ids: np.ndarray, names: Sequence[str], palette: Sequence[Sequence[int]], title: str = ''
) -> np.ndarray:
    """Paints the classes of pixels over an image and explains them below it: colour, name and share of each.

    Args:
        image: (H, W, 3), RGB.
        ids: (H, W). What is no class is not painted.
        names: Of the classes.
        palette: Their colours, RGB.
        title: Stands above the legend.
    """
    painted, known = image.copy(), ids < len(names)
    colours = np.asarray(palette, np.float32)[ids[known]]
    painted[known] = np.rint(image[known] * (1 - _OPACITY) + colours * _OPACITY)
    entries = []
    for found in class_shares(ids, names):
        share = f'{100 * found["share"]:.1f} %' if found['share'] >= 0.001 else '< 0.1 %'
        colour = palette[found['label']] if found['label'] < len(names) else None
        entries.append(Entry(f'{found["class"]} {share}', colour))
    return add_legend(painted, entries, title)


def segments_json(predictions: list[dict]) -> str:
    """The classes of each image, with their shares."""
    return json.dumps(
        [dict(image=str(one['image']), class_ids=str(one['class_ids']), classes=one['classes']) for one in predictions],
        indent=1,
    )


def describe_segments(predictions: list[dict]) -> str:
    """The largest classes of each image, a line for each."""
    return '\n'.join(
        f'{one["image"]}: '
        + ', '.join(f'{found["class"]} {100 * found["share"]:.0f} %' for found in one['classes'][:5])
        for one in predictions
    )
