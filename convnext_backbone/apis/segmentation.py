"""Classes of pixels for people and for programs: overlays with a legend, pngs of class ids, and json."""

import json
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import torch
from mmengine.dataset import Compose
from torch import nn

from ..utils.image_io import name_pictures, read_image, swap_colours, write_picture
from ..visualization.overlays import class_shares, draw_classes
from .model_inputs import build_test_pipeline

_MAX_PIXELS = 2**21  # of a map of scores: with 150 classes it takes 1.2 GiB


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
