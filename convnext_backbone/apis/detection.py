"""Whole models from checkpoints; detections for people and for programs: pictures with boxes and masks, COCO json."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from torch import nn

from ..utils.image_io import name_pictures, read_image, swap_colours, write_picture
from .builders import build_visualizer


def predict(model: nn.Module, images: list[Path], out_dir: Path, score_thr: float = 0.3) -> Iterator[dict]:
    """Detects objects in images and draws them, one picture each, into a folder.

    Args:
        model: As of :func:`build_detector`.
        images: The image files.
        out_dir: Where the pictures go.
        score_thr: Detections below it are neither drawn nor returned.

    Yields:
        For each image ``image`` and ``picture`` (paths), ``height``, ``width``, the ``detections`` as of
        :func:`coco_detections`, and the model's ``classes``.

    Raises:
        UserError: An image cannot be decoded.
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


def coco_detections(instances: object, score_thr: float) -> list[dict]:
    """Detections of one image, best first, in COCO's terms.

    Args:
        instances: mmdet's predicted instances, as numpy arrays: ``bboxes`` (n, 4), ``scores``, ``labels``, maybe
            ``masks`` (n, H, W).
        score_thr: Those below are left out.
    """
    from pycocotools import mask as coco_mask

    detections = []
    for i in np.argsort(-instances.scores):
        if instances.scores[i] < score_thr:
            break
        left, top, right, bottom = (float(side) for side in instances.bboxes[i])
        detection = dict(
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
    """A COCO file of predictions: images, categories (ids from 1, in the model's order), annotations with scores."""
    images, annotations = [], []
    for image_id, prediction in enumerate(predictions, start=1):
        size = dict(height=prediction['height'], width=prediction['width'])
        images.append(dict(id=image_id, file_name=str(prediction['image']), **size))
        for detection in prediction['detections']:
            annotations.append(dict(id=len(annotations) + 1, image_id=image_id, iscrowd=0, **detection))
    categories = [dict(id=i, name=name) for i, name in enumerate(predictions[0]['classes'], start=1)]
    return json.dumps(dict(images=images, categories=categories, annotations=annotations))


def describe_detections(predictions: list[dict]) -> str:
    """How many there are."""
    return f'{sum(len(p["detections"]) for p in predictions)} detections in {len(predictions)} images'
