"""Semantic segmentation of image files: overlays with a legend, pngs of class ids, and json."""

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import torch
from mmengine.model import BaseModel

from ..utils.errors import printable
from ..utils.image_io import write_picture
from ..visualization.overlays import class_shares, draw_classes
from .image_files import CLASS_IDS
from .model_inputs import build_test_pipeline, limit_size


def build_segmentation(model: BaseModel, out_dir: Path) -> Callable[[Path, Path], dict]:
    """Build the function that segments an image and writes an overlay, and its class ids as a png below ``class_ids``.

    Args:
        model: As of :func:`.build_segmentor`.
        out_dir: The folder of the pictures.

    Returns:
        A function of the paths of image and picture. It returns ``image``, ``picture`` and ``class_ids`` (paths) and
        ``classes`` as of :func:`.class_shares`.
    """
    prepare = build_test_pipeline(model.cfg)
    names, palette = model.dataset_meta['classes'], model.dataset_meta['palette']

    def segment(path: Path, picture: Path) -> dict:
        sample, image = prepare(path)
        ids = predict_ids(model, sample)
        png = (out_dir / CLASS_IDS / picture.relative_to(out_dir)).with_suffix('.png')
        write_picture(ids, png)
        write_picture(draw_classes(image, ids, names, palette), picture)
        return dict(image=path, picture=picture, class_ids=png, classes=class_shares(ids, names))

    return segment


def predict_ids(model: BaseModel, sample: dict) -> np.ndarray:
    """Predict the class id of each pixel of an image, (H, W), as uint8 or, with more than 256 classes, uint16.

    Above 2 megapixels the scores are computed at that size and the ids are enlarged: scores of every class at every
    pixel of a large photo would not fit into memory.
    """
    height, width = sample['data_samples'].ori_shape[:2]
    limit_size(sample)
    with torch.no_grad():
        (result,) = model.test_step({name: [value] for name, value in sample.items()})
    ids = result.pred_sem_seg.data[0].cpu().numpy().astype(np.uint8 if model.num_classes <= 256 else np.uint16)
    return ids if ids.shape == (height, width) else cv2.resize(ids, (width, height), interpolation=cv2.INTER_NEAREST)


def describe_segments(predictions: list[dict]) -> str:
    """List the five largest classes of each image, one line per image."""
    return '\n'.join(
        f'{printable(one["image"])}: '
        + ', '.join(f'{found["class"]} {100 * found["share"]:.0f} %' for found in one['classes'][:5])
        for one in predictions
    )
