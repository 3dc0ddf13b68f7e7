"""Object detection in image files, frames of videos and tiles of large images: pictures with boxes and masks."""

import itertools
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import cv2
import numpy as np
import torch
from mmengine.model import BaseModel
from mmengine.structures import BaseDataElement, InstanceData
from mmengine.visualization import Visualizer

from .builders import build_visualizer
from .coco_output import CocoIds, CocoOutput, coco_detections
from .image_files import ImageFile
from .model_inputs import InputPipeline, limit_size, limited_size, run_samples
from .predicting import PredictionTask
from .tiles import Tiles, Window, merge_detections

_MASKS = 50  # that are drawn at once


class DetectionTask(PredictionTask):
    """Detects objects and draws them.

    Masks of an image above 2 megapixels are predicted at that size, and its picture is drawn at it: masks of a hundred
    objects would not fit into memory.

    Args:
        model: As of :func:`.build_detector`.
        ids: Of images and classes in the json.
        score_thr: Detections below it are left out.
        tiles: The windows in which larger images are looked at, besides as a whole.
        batch_size: Of windows that go through the model together.
    """

    def __init__(
        self,
        model: BaseModel,
        ids: CocoIds,
        score_thr: float = 0.3,
        tiles: Tiles | None = None,
        batch_size: int = 1,
    ) -> None:
        self._model, self._score_thr, self._tiles, self._batch_size = model, score_thr, tiles, batch_size
        self._classes = model.dataset_meta['classes']
        self._output = CocoOutput(self._classes, ids)
        self._pipeline = InputPipeline(model.cfg)
        self._visualizer = build_visualizer(model.cfg, model.dataset_meta)

    def predict(self, files: Sequence[ImageFile]) -> list[dict[str, Any]]:
        """Detect the objects in images, which go through the model together.

        Returns:
            Of each image its ``file``, ``height``, ``width``, ``drawn`` (H, W, 3) and ``detections`` as of
            :func:`.coco_detections`.
        """
        predictions = []
        for file, (image, detections) in zip(files, self.detect(files), strict=True):
            height, width = image['img'].shape[:2]
            drawn = draw_detections(self._visualizer, self._pipeline.show(image), detections)
            predictions.append(dict(file=file, height=height, width=width, detections=detections, drawn=drawn))
        return predictions

    def detect(self, files: Sequence[ImageFile]) -> list[tuple[dict[str, Any], list[tuple[int, dict]]]]:
        """Detect the objects in images; returns what was loaded of each by :class:`.InputPipeline`, and detections."""
        loaded = [self._pipeline.load(file.image, file.pixels) for file in files]
        found = self._find(loaded) if self._tiles is None else [self._find_in_tiles(one) for one in loaded]
        return [*zip(loaded, found, strict=True)]

    def _find(self, loaded: Sequence[dict[str, Any]]) -> list[list[tuple[int, dict]]]:
        samples = [self._pipeline.prepare(image) for image in loaded]
        ratios = [limit_size(sample) for sample in samples]
        found = []
        for image, ratio, result in zip(loaded, ratios, run_samples(self._model, samples), strict=True):
            instances = result.pred_instances.cpu().numpy()
            instances.bboxes *= ratio * 2
            found.append(coco_detections(instances, self._score_thr, image['img'].shape[:2]))
        return found

    def _find_in_tiles(self, image: dict[str, Any]) -> list[tuple[int, dict]]:
        assert self._tiles is not None
        height, width = image['img'].shape[:2]
        whole = Window(0, 0, width, height)
        found = [(whole, self._find([image])[0])]
        windows = iter([window for window in self._tiles.windows(height, width) if window != whole])
        while batch := [*itertools.islice(windows, self._batch_size)]:  # masks of one batch are in memory
            parts = self._find([self._pipeline.crop(image, *window) for window in batch])
            found += zip(batch, parts, strict=True)
        return merge_detections(found, (height, width)) if len(found) > 1 else found[0][1]

    def rows(self, prediction: dict[str, Any]) -> Iterable[dict[str, Any]]:
        """The annotations of a prediction in the json."""
        return self._output.add(prediction)

    def enclose(self) -> tuple[str, str]:
        """What stands before and after all annotations in the json."""
        return self._output.enclose()

    def describe(self, prediction: dict[str, Any]) -> str:
        """How many objects of each class."""
        counts = Counter(self._classes[label] for label, _ in prediction['detections'])
        return ', '.join(f'{number} {name}' for name, number in counts.most_common()) or 'nothing'


def draw_detections(visualizer: Visualizer, image: np.ndarray, detections: Sequence[tuple[int, dict]]) -> np.ndarray:
    """Draw boxes and masks over an image, at 2 megapixels at most.

    Args:
        visualizer: As of :func:`.build_visualizer`.
        image: RGB, (H, W, 3).
        detections: As of :func:`.coco_detections`.
    """
    from pycocotools import mask as coco_mask

    height, width = limited_size(*image.shape[:2])
    scale = np.array([width / image.shape[1], height / image.shape[0]] * 2)
    if image.shape[:2] != (height, width):
        image = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
    for first in range(0, max(1, len(detections)), _MASKS):
        part = detections[first : first + _MASKS]
        boxes = np.array([one['bbox'] for _, one in part]).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        instances = InstanceData(
            labels=torch.tensor([label for label, _ in part], dtype=torch.long),
            scores=torch.tensor([one['score'] for _, one in part]),
            bboxes=torch.from_numpy((boxes * scale).astype(np.float32)),
        )
        if part and 'segmentation' in part[0][1]:
            columns = (coco_mask.decode(one['segmentation']).T for _, one in part)  # as they lie in memory
            instances.masks = np.stack(
                [cv2.resize(mask, (height, width), interpolation=cv2.INTER_NEAREST).T for mask in columns]
            )
        result = BaseDataElement(pred_instances=instances)
        visualizer.add_datasample('', image, result, draw_gt=False, pred_score_thr=-1)
        image = visualizer.get_image()
    return image
