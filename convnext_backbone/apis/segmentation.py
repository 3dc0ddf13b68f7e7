"""Semantic segmentation of image files: overlays with a legend, pngs of class ids, and json."""

import json
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import torch
from mmengine.dataset import Compose
from mmengine.model import BaseModel

from ..utils.image_io import name_pictures, read_image, swap_colours, write_picture
from ..visualization.overlays import class_shares, draw_classes
from .model_inputs import build_test_pipeline

_MAX_PIXELS = 2**21  # of a score map: with 150 classes it takes 1.2 GiB


def segment(model: BaseModel, images: list[Path], out_dir: Path) -> Iterator[dict]:
    """Segment images and write an overlay of each into a folder, and its class ids as a png below ``class_ids``.

    Args:
        model: As of :func:`.build_segmentor`.
        images: The image files.
        out_dir: Where to write.

    Yields:
        For each image ``image``, ``picture`` and ``class_ids`` (paths) and ``classes`` as of :func:`.class_shares`.
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


def predict_ids(model: BaseModel, pipeline: Compose, image: np.ndarray) -> np.ndarray:
    """Predict the class id of each pixel of an RGB image, (H, W), as uint8 or, with more than 256 classes, uint16.

    Above 2 megapixels the scores are computed at that size and the ids are enlarged: scores of every class at every
    pixel of a large photo would not fit into memory.
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
    """Convert predictions to json: the classes of each image with their shares."""
    return json.dumps(
        [dict(image=str(one['image']), class_ids=str(one['class_ids']), classes=one['classes']) for one in predictions],
        indent=1,
    )


def describe_segments(predictions: list[dict]) -> str:
    """List the five largest classes of each image, one line per image."""
    return '\n'.join(
        f'{one["image"]}: '
        + ', '.join(f'{found["class"]} {100 * found["share"]:.0f} %' for found in one['classes'][:5])
        for one in predictions
    )
