"""Test-time augmentation of detectors, with masks."""

from collections.abc import Sequence
from typing import Any

import torch
from mmengine.model import BaseTTAModel
from mmengine.registry import MODELS
from torch import Tensor
from torchvision.ops import batched_nms


@MODELS.register_module()
class InstanceTTAModel(BaseTTAModel):
    """Merges the detections in several views of an image by NMS, as mmdet's DetTTAModel, which refuses masks.

    A mask is that of the view in which its box was found: masks are not averaged.

    Args:
        iou_threshold: Boxes of a class that overlap a better one by more are dropped.
        max_per_img: The most detections of an image.
        **kwargs: Of mmengine's BaseTTAModel: ``module``, the detector.
    """

    def __init__(self, iou_threshold: float = 0.5, max_per_img: int = 100, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._iou_threshold, self._max_per_img = iou_threshold, max_per_img

    def test_step(self, data: dict) -> list[Any]:
        """Predict a batch of views, and merge the predictions of each image.

        The detector is not told of flips: mmdet's cascades would undo them in masks, and fail.
        """
        for samples in data['data_samples']:
            for sample in samples:
                sample.set_metainfo(dict(flip=False, flipped=sample.flip_direction if sample.flip else None))
        return super().test_step(data)

    def merge_preds(self, data_samples_list: Sequence[Sequence[Any]]) -> list[Any]:
        """Merge the predictions of each image; all views have them in the pixels of the image."""
        return [self._merge(views) for views in data_samples_list]

    def _merge(self, views: Sequence[Any]) -> Any:
        for view in views:
            if view.flipped:
                _flip_back(view.pred_instances, view.ori_shape, view.flipped)
        merged = views[0].pred_instances.cat([view.pred_instances for view in views])
        kept = batched_nms(merged.bboxes, merged.scores, merged.labels, self._iou_threshold)
        views[0].pred_instances = merged[kept[: self._max_per_img]]
        return views[0]


def _flip_back(instances: Any, shape: Sequence[int], direction: str) -> None:
    """Flip instances of an image of a height and a width, in place."""
    boxes: Tensor = instances.bboxes
    dims = []
    for axis, size, names in ((0, shape[1], ('horizontal', 'diagonal')), (1, shape[0], ('vertical', 'diagonal'))):
        if direction in names:
            boxes = boxes.clone()
            boxes[:, [axis, axis + 2]] = size - boxes[:, [axis + 2, axis]]
            dims.append(-1 - axis)
    instances.bboxes = boxes
    if 'masks' in instances:
        instances.masks = torch.flip(instances.masks, dims)
