"""What a test writes besides its scores: predictions, and pictures of them, as the tools of mmdet and mmseg do."""

import json
import os
from collections.abc import Iterable
from itertools import zip_longest
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from mmengine.config import Config
from mmengine.dist import all_gather_object, is_main_process
from mmengine.fileio import dump
from mmengine.hooks import Hook
from mmengine.registry import METRICS
from mmengine.runner import Runner

from ..config.dataset_types import name_datasets
from ..config.recipes import task_of
from ..datasets.class_names import describe_class, imagenet_classes
from ..utils.errors import UserError, printable
from ..utils.files import check_work_dir, write_atomically
from ..utils.image_io import write_picture
from ..visualization.legend import add_bars, paste_grid
from ..visualization.overlays import draw_classes
from .builders import build_visualizer
from .coco_output import coco_detections, find_ids
from .model_inputs import InputPipeline

_FILES = ('.json', '.pkl', '.pickle')


class OutputHook(Hook):
    """Writes the predictions of a test, and a picture of each image: base class of one for each task.

    The samples of mmdet and mmseg name the files of their images.

    Args:
        cfg: Of the test.
        out: Where predictions are written, or None: a file, .json or .pkl; for segmentation a folder.
        show_dir: A folder of pictures, or None.

    Raises:
        UserError: ``out`` is of another kind, data of the test lies there, or a folder cannot be written.
    """

    _writes_file = True

    def __init__(self, cfg: Config, out: str | None, show_dir: str | None) -> None:
        self._cfg = cfg
        self._rows: dict[str, Any] = {}
        self._out: Any = Path(out) if out else None
        self._show_dir = Path(show_dir) if show_dir else None
        for flag, path, is_file in (('--out', self._out, self._writes_file), ('--show-dir', self._show_dir, False)):
            if path:
                if (path.suffix in _FILES) != is_file:
                    kind = f'a file that ends with {", ".join(_FILES)}' if is_file else 'a folder'
                    raise UserError(f'{flag} {printable(path)} does not fit: it is to name {kind}.')
                _check_place(path, cfg, flag)
                check_work_dir(path.parent if is_file else path, flag)

    def before_test(self, runner: Runner) -> None:
        """Name the outputs of the data."""
        dataset: Any = runner.test_dataloader.dataset
        self._meta = dataset.metainfo
        self._places = _name_outputs(dataset.get_data_info(i)['img_path'] for i in range(len(dataset)))
        self._pipeline = InputPipeline(self._cfg, 1)

    def after_test_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """Write pictures and masks of a batch, and keep what the file will hold."""
        wanted = self._out or self._show_dir
        for name, place, sample in self._samples(data_batch, outputs) if wanted else ():
            if self._show_dir:
                named = place.suffix.lower() in ('.jpg', '.jpeg', '.png')
                write_picture(self._draw(sample), self._show_dir / (place if named else f'{place}.png'))
            if self._out:
                self._rows[name] = self._store(sample, place)

    def after_test(self, runner: Runner) -> None:
        """Write the file."""
        ranks = [rows.items() for rows in all_gather_object(self._rows)]
        if self._out and is_main_process():  # in the order of the data, without what fills up the last batch
            self._write(dict(row for rows in zip_longest(*ranks) for row in rows if row))

    def _samples(self, data_batch: Any, outputs: Any) -> Iterable[tuple[str, Path, Any]]:
        """The samples of a batch, with the names of their images and those of their pictures, as relative paths."""
        return [(sample.img_path, self._places[sample.img_path], sample) for sample in outputs]

    def _draw(self, sample: Any) -> np.ndarray:
        raise NotImplementedError

    def _store(self, sample: Any, place: Path) -> Any:
        """What is kept of a prediction until the end."""
        raise NotImplementedError

    def _write(self, rows: dict[str, Any]) -> None:
        """Write what was kept, by name of the image."""


class DetectionOutput(OutputHook):
    """COCO's results as json, or what mmdet's own tools read as .pkl; annotation and prediction side by side."""

    def before_test(self, runner: Runner) -> None:
        """Find the ids of the classes; a .pkl is written by mmdet's metric."""
        super().before_test(runner)
        self._visualizer = build_visualizer(self._cfg, self._meta)
        if self._out and self._out.suffix == '.json':
            self._ids = find_ids(self._cfg, self._meta['classes']).categories
        elif self._out:
            metric = METRICS.build(dict(type='mmdet.DumpDetResults', out_file_path=str(self._out)))
            runner.test_evaluator.metrics.append(metric)
            self._out = None

    def _draw(self, sample: Any) -> np.ndarray:
        self._visualizer.add_datasample('', self._pipeline.read(Path(sample.img_path)), sample)
        return self._visualizer.get_image()

    def _store(self, sample: Any, place: Path) -> list[dict]:
        found = coco_detections(sample.pred_instances.cpu().numpy(), 0.0, sample.ori_shape[:2])
        return [dict(image_id=sample.img_id, category_id=self._ids[label], **detection) for label, detection in found]

    def _write(self, rows: dict[str, Any]) -> None:
        write_atomically(json.dumps([detection for row in rows.values() for detection in row]).encode(), self._out)


class SegmentationOutput(OutputHook):
    """Masks of class ids as mmseg writes them, those of the annotations; annotation and prediction side by side."""

    _writes_file = False

    def before_test(self, runner: Runner) -> None:
        """Name the outputs of the data."""
        super().before_test(runner)
        self._stems_differ = len({path.with_suffix('') for path in self._places.values()}) == len(self._places)

    def _draw(self, sample: Any) -> np.ndarray:
        image = self._pipeline.read(Path(sample.img_path))
        maps = dict(annotation=sample.get('gt_sem_seg'), prediction=sample.pred_sem_seg)
        drawn = [
            draw_classes(image, one.data[0].cpu().numpy(), self._meta['classes'], self._meta['palette'], title)
            for title, one in maps.items()
            if one is not None
        ]
        return paste_grid(drawn, 2)

    def _store(self, sample: Any, place: Path) -> None:
        ids = sample.pred_sem_seg.data[0].cpu().numpy() + int(sample.get('reduce_zero_label', False))
        mask = place.with_suffix('.png') if self._stems_differ else f'{place}.png'
        write_picture(ids.astype(np.uint8 if len(self._meta['classes']) < 256 else np.uint16), self._out / mask)


class ClassificationOutput(OutputHook):
    """The scores of all classes of each image; model inputs with their best classes."""

    def before_test(self, runner: Runner) -> None:
        """Name the classes of the data."""
        dataset: Any = runner.test_dataloader.dataset
        self._classes = dataset.metainfo['classes'] or imagenet_classes(self._cfg.model.num_classes)

    def _samples(self, data_batch: Any, outputs: Any) -> Iterable[tuple[str, Path, Any]]:
        for name, image, sample in zip(data_batch['names'], data_batch['inputs'], outputs, strict=True):
            place = Path(os.path.normpath(f'/{name}')).relative_to('/')  # in a tar file it may be any
            yield name, place, dict(sample, name=name, image=image)

    def _draw(self, sample: Any) -> np.ndarray:
        scores, truth = sample['scores'].cpu(), int(sample['label'])
        shown = scores.argsort(descending=True)[:3].tolist()
        shown += [truth] * (truth >= 0 and truth not in shown)
        parts = [(describe_class(self._classes[k]) + ' (annotated)' * (k == truth), float(scores[k])) for k in shown]
        return add_bars(sample['image'].permute(1, 2, 0).cpu().numpy(), parts)

    def _store(self, sample: Any, place: Path) -> dict:
        scores = sample['scores'].cpu().numpy().astype(np.float64).round(6)
        return dict(image=sample['name'], label=int(sample['label']), scores=scores)

    def _write(self, rows: dict[str, Any]) -> None:
        content = dict(classes=self._classes, images=[*rows.values()])
        if self._out.suffix == '.json':
            write_atomically(msgspec.json.encode(content, enc_hook=np.ndarray.tolist), self._out)
        else:
            dump(content, str(self._out))


def build_output_hook(cfg: Config, out: str | None, show_dir: str | None) -> OutputHook | None:
    """Build the hook of a config's task, None for pre-training; arguments and errors as of :class:`OutputHook`."""
    hooks = dict(detection=DetectionOutput, segmentation=SegmentationOutput, classification=ClassificationOutput)
    hook = hooks.get(task_of(cfg))
    if hook is None and (out or show_dir):
        raise UserError(
            f'--out and --show-dir are for what a model predicts, but {cfg.filename} is for pre-training: leave them '
            f'out.'
        )
    return hook(cfg, out, show_dir) if hook else None


def _name_outputs(images: Iterable[str]) -> dict[str, Path]:
    """Relative paths for what is written of images: in one folder as they are in one, unless two have the same name."""
    absolute = {image: Path(os.path.abspath(image)) for image in images}
    if len({path.stem for path in absolute.values()}) == len(absolute):
        return {image: Path(path.name) for image, path in absolute.items()}
    root = os.path.commonpath([path.parent for path in absolute.values()])
    return {image: path.relative_to(root) for image, path in absolute.items()}


def _check_place(path: Path, cfg: Config, flag: str) -> None:
    """Raise if data of the test could be overwritten: it lies below a path, or the path below one of its folders."""
    for _, dataset in name_datasets(cfg, 'test'):
        prefix = dataset.get('data_prefix') or ''
        parts = [dataset.get('ann_file') or None, *(prefix.values() if isinstance(prefix, dict) else [prefix])]
        for part in (part for part in parts if part is not None):
            place = Path(dataset.get('data_root') or '.', part).resolve()
            if place.is_relative_to(path.resolve()) or path.resolve().is_relative_to(place):
                raise UserError(f'{flag} {printable(path)} would overwrite test data in {place}: name another place.')
