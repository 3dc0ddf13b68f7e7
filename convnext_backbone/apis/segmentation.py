"""Semantic segmentation of images, frames of videos and tiles: overlays with a legend, pngs of class ids, and json."""

import itertools
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from mmengine.model import BaseModel

from ..utils.image_io import write_picture
from ..visualization.overlays import class_shares, draw_classes
from .image_files import CLASS_IDS, ImageFile
from .model_inputs import InputPipeline, limit_size, run_samples
from .predicting import PredictionTask
from .tiles import Tiles


class SegmentationTask(PredictionTask):
    """Segments images, draws overlays, and writes class ids as pngs below ``class_ids``.

    Args:
        model: As of :func:`.build_segmentor`.
        out_dir: The folder of the pictures.
        tiles: The windows in which images are looked at.
        batch_size: Of windows that go through the model together.
    """

    def __init__(self, model: BaseModel, out_dir: Path, tiles: Tiles | None = None, batch_size: int = 1) -> None:
        self._model, self._out_dir, self._tiles, self._batch_size = model, out_dir, tiles, batch_size
        self._pipeline = InputPipeline(model.cfg)
        self._names, self._palette = model.dataset_meta['classes'], model.dataset_meta['palette']

    def predict(self, files: Sequence[ImageFile]) -> list[dict[str, Any]]:
        """Segment images, which go through the model together.

        Returns:
            Of each image its ``file``, ``drawn`` (H, W, 3), ``class_ids`` (path) and ``classes`` as of
            :func:`.class_shares`.
        """
        loaded = [self._pipeline.load(file.image, file.pixels) for file in files]
        found = self._predict_ids(loaded) if self._tiles is None else [self._predict_tiles(one) for one in loaded]
        predictions = []
        for file, image, ids in zip(files, loaded, found, strict=True):
            png = self._out_dir / CLASS_IDS / file.picture.relative_to(self._out_dir).with_suffix('.png')
            if file.frame is not None:
                png = png.with_suffix('') / f'{file.frame:06d}.png'
            write_picture(ids, png)
            drawn = draw_classes(self._pipeline.show(image), ids, self._names, self._palette)
            predictions.append(dict(file=file, drawn=drawn, class_ids=png, classes=class_shares(ids, self._names)))
        return predictions

    def _predict_ids(self, loaded: Sequence[dict[str, Any]]) -> list[np.ndarray]:
        """Predict the class id of each pixel, (H, W), as uint8 or, with more than 256 classes, uint16.

        Above 2 megapixels the scores are computed at that size and the ids are enlarged: scores of every class at every
        pixel of a large photo would not fit into memory.
        """
        samples = [self._pipeline.prepare(image) for image in loaded]
        for sample in samples:
            limit_size(sample)
        found = []
        for image, result in zip(loaded, run_samples(self._model, samples), strict=True):
            height, width = image['img'].shape[:2]
            ids = result.pred_sem_seg.data[0].cpu().numpy().astype(self._id_type())
            if ids.shape != (height, width):
                ids = cv2.resize(ids, (width, height), interpolation=cv2.INTER_NEAREST)
            found.append(ids)
        return found

    def _predict_tiles(self, image: dict[str, Any]) -> np.ndarray:
        """Predict the windows; a pixel gets the class in the one whose middle is nearest."""
        assert self._tiles is not None
        size = image['img'].shape[:2]
        ids = np.empty(size, self._id_type())
        pairs = zip(self._tiles.windows(*size), self._tiles.cores(*size), strict=True)
        while batch := [*itertools.islice(pairs, self._batch_size)]:  # scores of one batch are in memory
            found = self._predict_ids([self._pipeline.crop(image, *window) for window, _ in batch])
            for (window, core), part in zip(batch, found, strict=True):
                inner = part[core.top - window.top :, core.left - window.left :]
                height, width = core.bottom - core.top, core.right - core.left
                ids[core.top : core.bottom, core.left : core.right] = inner[:height, :width]
        return ids

    def _id_type(self) -> type[np.unsignedinteger]:
        return np.uint8 if self._model.num_classes <= 256 else np.uint16

    def rows(self, prediction: dict[str, Any]) -> Iterable[dict[str, Any]]:
        """The entries of a prediction in the json."""
        entry = prediction['file'].entry()
        return [{**entry, 'class_ids': str(prediction['class_ids']), 'classes': prediction['classes']}]

    def describe(self, prediction: dict[str, Any]) -> str:
        """The five largest classes."""
        return ', '.join(f'{one["class"]} {100 * one["share"]:.0f} %' for one in prediction['classes'][:5])
