"""What a test of a detector or a segmentor tells besides its scores: those of each class, confusions, worst images."""

import heapq
import math
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from mmengine.config import Config
from mmengine.dist import all_gather_object, get_rank, get_world_size, is_main_process
from mmengine.hooks import Hook
from mmengine.runner import Runner

from ..config.recipes import task_of
from ..evaluation.detection_report import SCORE, Boxes, DetectionReport, record_precisions
from ..evaluation.segmentation_report import SegmentationReport
from ..utils.errors import printable
from ..utils.image_io import write_picture
from ..visualization.legend import add_legend, paste_grid, thumbnail_size
from ..visualization.objects import Drawn, draw_objects, make_palette
from ..visualization.overlays import draw_classes
from .model_inputs import InputPipeline

_WORST, _WIDTH = 20, 320  # images on the sheet, and pixels of the width of one


class ReportHook(Hook):
    """Writes ``per_class.json``, ``confusion.png`` and ``worst.jpg`` to the work_dir: base class of one for each task.

    Of all images a confusion matrix is kept, and of the worst what is drawn of them: the memory is bounded.

    Args:
        cfg: Of the test.
    """

    def __init__(self, cfg: Config) -> None:
        self._cfg = cfg
        self._seen = 0
        self._worst: list[tuple] = []  # a heap of badness, place in the data, and what is drawn; the best on top

    def before_test(self, runner: Runner) -> None:
        """Take the names and the colours of the classes."""
        self._dataset: Any = runner.test_dataloader.dataset
        self._classes = [printable(str(name)) for name in self._dataset.metainfo['classes']]
        palette = self._dataset.metainfo.get('palette')
        fits = isinstance(palette, (list, tuple)) and len(palette) >= len(self._classes)
        self._palette: Sequence = palette if fits else make_palette(len(self._classes))

    def after_test_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """Count a batch; samples that a sampler repeats, to give all processes as many, count once."""
        for sample in outputs:
            place = self._seen * get_world_size() + get_rank()
            self._seen += 1
            if place < len(self._dataset) and (judged := self._judge(sample)):
                badness, *drawn = judged
                if max(badness) > 0:
                    heapq.heappush(self._worst, (badness, -place, drawn))
                if len(self._worst) > _WORST:
                    heapq.heappop(self._worst)

    def after_test(self, runner: Runner) -> None:
        """Write the report of all processes."""
        parts = all_gather_object((self._report.confusion, self._worst))
        if not is_main_process():
            return
        self._report.confusion = sum(confusion for confusion, _ in parts)
        if not self._report.confusion.sum():
            runner.logger.info('The test data has no annotations to compare with: there is no report of its classes.')
            return
        folder = Path(self._cfg.work_dir)
        self._write(folder)
        pipeline = InputPipeline(self._cfg, 1)
        worst = heapq.nlargest(_WORST, (one for _, part in parts for one in part))
        tiles = [self._draw_pair(pipeline.read(path), *rest) for *_, (path, *rest) in worst if path.is_file()]
        if tiles:
            write_picture(paste_grid(tiles, 2), folder / 'worst.jpg')

    def _draw_pair(self, image: np.ndarray, title: str, *pair: Any) -> np.ndarray:
        """Annotation and prediction side by side, with a title."""
        size = thumbnail_size(image, _WIDTH)
        small = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
        drawn = [self._draw(small, one, size[0] / image.shape[1]) for one in pair]
        return add_legend(paste_grid(drawn, 2), [], title)

    _report: Any

    def _judge(self, sample: Any) -> tuple | None:
        """Count a sample.

        Returns:
            How bad it is, as numbers that are 0 for a perfect one; its path, its title, annotation and prediction. None
            if it has no annotation.
        """
        raise NotImplementedError

    def _write(self, folder: Path) -> None:
        raise NotImplementedError

    def _draw(self, image: np.ndarray, one: Any, scale: float) -> np.ndarray:
        """Draw an annotation or a prediction over a thumbnail."""
        raise NotImplementedError


class DetectionReportHook(ReportHook):
    """AP of each class as COCO's evaluation has it, and the images with the lowest F1 of their boxes."""

    def before_test(self, runner: Runner) -> None:
        """Find the annotations: in the data set, where boxes are those of the whole image, whatever the pipeline."""
        super().before_test(runner)
        self._report = DetectionReport(self._classes)
        self._places = {self._dataset.get_data_info(i).get('img_id'): i for i in range(len(self._dataset))}
        self._recording = ExitStack()
        self._precisions = self._recording.enter_context(record_precisions())

    def _judge(self, sample: Any) -> tuple | None:
        info = self._dataset.get_data_info(self._places.get(sample.get('img_id'), 0))
        objects = info.get('instances')
        if objects is None or info.get('img_id') != sample.get('img_id'):
            return None
        truth = _boxes([one['bbox'] for one in objects], [one['bbox_label'] for one in objects])
        crowd = np.array([bool(one.get('ignore_flag')) for one in objects], bool)
        found = sample.pred_instances
        order = [i for i in found.scores.argsort(descending=True).tolist() if found.scores[i] >= SCORE]
        detected = _boxes(found.bboxes[order].cpu().numpy(), found.labels[order].cpu().numpy())
        result = self._report.add(detected, truth, crowd)
        path = Path(info['img_path'])
        errors = f'{result.found} found, {result.missed} missed, {result.false} false'
        title = f'{printable(path.name)}: F1 {result.f1:.2f}\n{errors}. Left: annotated'
        return (1 - result.f1, result.missed + result.false), path, title, truth, detected

    def after_test(self, runner: Runner) -> None:
        """Write the report."""
        self._recording.close()
        super().after_test(runner)

    def _write(self, folder: Path) -> None:
        self._report.write({kind: self._by_name(found) for kind, found in self._precisions.items()}, folder)

    def _by_name(self, found: dict) -> dict:
        return {printable(str(name)): precisions for name, precisions in found.items()}

    def _draw(self, image: np.ndarray, one: Boxes, scale: float) -> np.ndarray:
        sizes = one.boxes - np.tile(one.boxes[:, :2], 2) * [0, 0, 1, 1]
        objects = [Drawn(int(label), box) for box, label in zip(sizes.tolist(), one.labels, strict=True)]
        return draw_objects(image, objects, self._classes, self._palette, scale)


class SegmentationReportHook(ReportHook):
    """IoU and accuracy of each class, and the images with the lowest mean IoU."""

    def before_test(self, runner: Runner) -> None:
        """Find the label that does not count."""
        super().before_test(runner)
        ignored = [getattr(metric, 'ignore_index', None) for metric in runner.test_evaluator.metrics]
        self._report = SegmentationReport(self._classes, *[label for label in ignored if label is not None][:1])

    def _judge(self, sample: Any) -> tuple | None:
        if sample.get('gt_sem_seg') is None:
            return None
        truth, predicted = sample.gt_sem_seg.data[0], sample.pred_sem_seg.data[0]
        score = self._report.add(predicted, truth)
        if math.isnan(score):
            return None
        path = Path(sample.img_path)
        maps = [_shrink(one.cpu().numpy()) for one in (truth, predicted)]
        return (1 - score,), path, f'{printable(path.name)}: mIoU {100 * score:.1f}\nLeft: annotated', *maps

    def _write(self, folder: Path) -> None:
        self._report.write(folder)

    def _draw(self, image: np.ndarray, one: np.ndarray, scale: float) -> np.ndarray:
        ids = cv2.resize(one, image.shape[1::-1], interpolation=cv2.INTER_NEAREST)
        return draw_classes(image, ids, self._classes, self._palette)


def build_report_hook(cfg: Config) -> ReportHook | None:
    """Build the hook of a config's task; None for a classifier, whose own hook writes one, and for pre-training."""
    hooks = dict(detection=DetectionReportHook, segmentation=SegmentationReportHook)
    hook = hooks.get(task_of(cfg))
    return hook(cfg) if hook else None


def _boxes(boxes: Any, labels: Any) -> Boxes:
    return Boxes(np.asarray(boxes, np.float64).reshape(-1, 4), np.asarray(labels, np.int64).reshape(-1))


def _shrink(ids: np.ndarray) -> np.ndarray:
    """A map of labels of a thumbnail's size."""
    return cv2.resize(ids.astype(np.int16), thumbnail_size(ids, _WIDTH), interpolation=cv2.INTER_NEAREST)
