"""Object detection on image files: pictures with boxes and masks, and COCO json."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.model import BaseModel

from ..utils.image_io import name_pictures, read_image, swap_colours, write_picture
from .builders import build_visualizer


def predict(model: BaseModel, images: list[Path], out_dir: Path, score_thr: float = 0.3) -> Iterator[dict]:
    """Detect objects in images and write a picture of each into a folder.

    Args:
        model: As of :func:`.build_detector`.
        images: The image files.
        out_dir: Where to write.
        score_thr: Detections below it are left out.

    Yields:
        For each image ``image`` and ``picture`` (paths), ``height``, ``width``, the ``detections`` as of
        :func:`coco_detections`, and the model's ``classes``.
    """
    from mmdet.apis import inference_detector

    visualizer = build_visualizer(model.cfg, model.dataset_meta)
    for path, picture in zip(images, name_pictures(images, out_dir), strict=True):
        image = read_image(path)
        sample = inference_detector(model, swap_colours(image))
        visualizer.add_datasample(path.name, image, sample, draw_gt=False, pred_score_thr=score_thr)
        write_picture(visualizer.get_image(), picture)
        yield dict(
            image=path,
            picture=picture,
            height=image.shape[0],
            width=image.shape[1],
            detections=coco_detections(sample.pred_instances.cpu().numpy(), score_thr),
            classes=model.dataset_meta['classes'],
        )


def coco_detections(instances: Any, score_thr: float) -> list[dict]:
    """Convert mmdet's predicted instances of an image, as numpy arrays, to COCO annotations, best first."""
    from pycocotools import mask as coco_mask

    detections = []
    for i in np.argsort(-instances.scores):
        if instances.scores[i] < score_thr:
            break
        left, top, right, bottom = (float(side) for side in instances.bboxes[i])
        detection: dict[str, Any] = dict(
            category_id=int(instances.labels[i]) + 1,
            bbox=[left, top, right - left, bottom - top],
            score=float(instances.scores[i]),
        )
        if 'masks' in instances:
            rle = coco_mask.encode(np.asfortranarray(instances.masks[i].astype(np.uint8)))
            detection['area'] = float(coco_mask.area(rle))
            detection['segmentation'] = dict(size=[int(n) for n in rle['size']], counts=rle['counts'].decode())
        detections.append(detection)
    return detections


def coco_json(predictions: list[dict]) -> str:
    """Convert predictions to COCO json: images, categories (ids from 1, in the model's order), scored annotations."""
    images: list[dict] = []
    annotations: list[dict] = []
    for image_id, prediction in enumerate(predictions, start=1):
        size = dict(height=prediction['height'], width=prediction['width'])
        images.append(dict(id=image_id, file_name=str(prediction['image']), **size))
        for detection in prediction['detections']:
            annotations.append(dict(id=len(annotations) + 1, image_id=image_id, iscrowd=0, **detection))
    categories = [dict(id=i, name=name) for i, name in enumerate(predictions[0]['classes'], start=1)]
    return json.dumps(dict(images=images, categories=categories, annotations=annotations))


def describe_detections(predictions: list[dict]) -> str:
    """Count the detections."""
    return f'{sum(len(p["detections"]) for p in predictions)} detections in {len(predictions)} images'
