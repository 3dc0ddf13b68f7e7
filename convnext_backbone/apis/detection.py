"""Object detection on image files: pictures with boxes and masks."""

from collections.abc import Callable
from pathlib import Path

import cv2
import torch
from mmengine.model import BaseModel

from ..utils.image_io import write_picture
from .builders import build_visualizer
from .coco_output import coco_detections
from .model_inputs import build_test_pipeline, limit_size


def build_detection(model: BaseModel, score_thr: float = 0.3) -> Callable[[Path, Path], dict]:
    """Build the function that detects objects in an image and writes a picture of them.

    Masks of an image above 2 megapixels are predicted at that size, and its picture is drawn at it: masks of a hundred
    objects would not fit into memory.

    Args:
        model: As of :func:`.build_detector`.
        score_thr: Detections below it are left out.

    Returns:
        A function of the paths of image and picture. It returns ``image``, ``picture``, ``height``, ``width`` and the
        ``detections`` as of :func:`.coco_detections`.
    """
    prepare = build_test_pipeline(model.cfg)
    visualizer = build_visualizer(model.cfg, model.dataset_meta)

    def detect(path: Path, picture: Path) -> dict:
        sample, image = prepare(path)
        size = image.shape[:2]
        ratio = limit_size(sample)
        if ratio != (1, 1):
            shape = sample['data_samples'].ori_shape
            image = cv2.resize(image, shape[::-1], interpolation=cv2.INTER_AREA)
        with torch.no_grad():
            (result,) = model.test_step({name: [value] for name, value in sample.items()})
        visualizer.add_datasample(path.name, image, result, draw_gt=False, pred_score_thr=score_thr)
        write_picture(visualizer.get_image(), picture)
        instances = result.pred_instances.cpu().numpy()
        instances.bboxes *= ratio * 2
        detections = coco_detections(instances, score_thr, size)
        return dict(image=path, picture=picture, height=size[0], width=size[1], detections=detections)

    return detect


def describe_detections(predictions: list[dict]) -> str:
    """Count the detections."""
    return f'{sum(len(p["detections"]) for p in predictions)} detections in {len(predictions)} images'
