"""Detections as COCO json, with the ids of an annotation file where there is one."""

import itertools
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from mmengine.config import Config
from msgspec import Raw

from ..datasets.coco_format import CocoFile, CocoProblem, read_coco
from ..utils.errors import UserError, shorten
from .image_files import ImageFile
from .model_inputs import dataset_with_pipeline


class CocoIds(NamedTuple):
    """Ids of an annotation file: of the model's classes, in their order, and of the file's images by file name."""

    categories: list[Any]
    images: dict[str, Any]


def find_ids(cfg: Config, classes: Sequence[str], ann_file: str | None = None) -> CocoIds:
    """Find the ids that detections get: those of an annotation file, by name, or numbers from 1.

    Args:
        cfg: Its test or validation data names the file, if it exists and has the classes; else a line on stderr says
            that it is not used.
        classes: Of the model.
        ann_file: A file that takes the place of the config's.

    Raises:
        UserError: ``ann_file`` cannot be read, or lacks a class.
    """
    if ann_file is not None:
        return _read_ids(Path(ann_file), classes)
    for name in ('test_dataloader', 'val_dataloader'):
        dataset = dataset_with_pipeline((cfg.get(name) or {}).get('dataset') or {'pipeline': []})
        path = Path(dataset.get('data_root') or '.', dataset.get('ann_file') or '')
        if path.suffix == '.json' and path.is_file():
            try:
                return _read_ids(path, classes)
            except UserError as error:
                print(f'Categories and images are numbered from 1. {error}', file=sys.stderr)
                break
    return CocoIds([*range(1, len(classes) + 1)], {})


class _Categories(CocoFile, kw_only=True):
    """A file that may have categories alone."""

    images: list[Raw] = []


def _read_ids(path: Path, classes: Sequence[str]) -> CocoIds:
    categories: dict[str, list] = {}
    try:
        coco = read_coco(path, _Categories)
        for one in coco.entries('categories'):
            categories.setdefault(one.name, []).append(one.id)
        images = {one.file_name: one.id for one in coco.entries('images')}
    except OSError as error:
        raise UserError(f'The annotation file {path} cannot be read: {error.strerror}.') from error
    except CocoProblem as error:
        raise UserError(
            f"The annotation file {path} is no COCO json with 'categories': it {error}; name another with --ann."
        ) from error
    missing = [name for name in dict.fromkeys(classes) if len(categories.get(name, [])) < classes.count(name)]
    if missing:
        raise UserError(
            f'The annotation file {path} has no category for these classes of the model: {shorten(missing)}; it has '
            f'{shorten([*categories])}: name the file of the data it was trained on with --ann.'
        )
    return CocoIds([categories[name].pop(0) for name in classes], images)


def coco_detections(instances: Any, score_thr: float, size: tuple[int, int]) -> list[tuple[int, dict]]:
    """Convert mmdet's predicted instances of an image, as numpy arrays, to labels and COCO annotations, best first.

    Args:
        instances: Masks may be smaller than the image: they are enlarged, one after the other.
        score_thr: Detections below it are left out.
        size: Height and width of the image.
    """
    from pycocotools import mask as coco_mask

    detections: list[tuple[int, dict]] = []
    for i in np.argsort(-instances.scores):
        if instances.scores[i] < score_thr:
            break
        left, top, right, bottom = (float(side) for side in instances.bboxes[i])
        box = [left, top, right - left, bottom - top]
        detection: dict[str, Any] = dict(bbox=box, score=float(instances.scores[i]))
        if 'masks' in instances:
            rle = coco_mask.encode(_enlarge(instances.masks[i], size))
            detection['area'] = float(coco_mask.area(rle))
            detection['segmentation'] = dict(size=[int(n) for n in rle['size']], counts=rle['counts'].decode())
        detections.append((int(instances.labels[i]), detection))
    return detections


def _enlarge(mask: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A mask as bytes of the given height and width, column by column; its edges stay smooth where it is enlarged."""
    if mask.shape == size:
        return np.asfortranarray(mask.astype(np.uint8))
    columns = np.ascontiguousarray(mask.T).astype(np.uint8) * 255
    return (cv2.resize(columns, size, interpolation=cv2.INTER_LINEAR) > 127).view(np.uint8).T


class CocoOutput:
    """COCO json of predictions that come one by one: images, categories in the model's order, scored annotations.

    Images that the annotation file lacks, or that were predicted before, get the next free number. Frames of a video
    are images of their own, with ``frame_id`` and ``video_id`` as in CocoVID.

    Args:
        classes: Of the model.
        ids: As of :func:`find_ids`.
    """

    def __init__(self, classes: Sequence[str], ids: CocoIds) -> None:
        self._ids = ids
        self._categories = [dict(id=one, name=name) for one, name in zip(ids.categories, classes, strict=True)]
        self._images: list[dict] = []
        self._videos: dict[Path, tuple[int, Path]] = {}
        self._used: set[Any] = set()
        self._free = itertools.count(1 + max((one for one in ids.images.values() if isinstance(one, int)), default=0))
        self._annotations = itertools.count(1)

    def add(self, prediction: dict[str, Any]) -> list[dict]:
        """Add an image; returns its annotations."""
        file: ImageFile = prediction['file']
        image_id = _image_id(file.image, self._ids) if file.frame is None else None
        image_id = next(self._free) if image_id is None or image_id in self._used else image_id
        self._used.add(image_id)
        size = dict(height=prediction['height'], width=prediction['width'])
        image = dict(id=image_id, file_name=str(file.image), **size)
        if file.frame is not None:  # names are those of one image each
            video_id = self._videos.setdefault(file.picture, (len(self._videos) + 1, file.image))[0]
            image.update(file_name=f'{file.image}#frame={file.frame}', frame_id=file.frame, video_id=video_id)
        self._images.append(image)
        return [
            dict(
                id=next(self._annotations),
                image_id=image_id,
                iscrowd=0,
                category_id=self._ids.categories[label],
                **detection,
            )
            for label, detection in prediction['detections']
        ]

    def enclose(self) -> tuple[str, str]:
        """The json before and after the annotations of all images that were added."""
        content: dict[str, Any] = dict(images=self._images, categories=self._categories)
        if self._videos:
            content['videos'] = [dict(id=number, name=str(path)) for number, path in self._videos.values()]
        return f'{json.dumps(content)[:-1]}, "annotations": [', ']}'


def _image_id(image: Path, ids: CocoIds) -> Any:
    """The id of the longest file name that the path of an image ends with."""
    parts = image.absolute().parts
    names = ('/'.join(parts[i:]) for i in range(1, len(parts)))
    return next((ids.images[name] for name in names if name in ids.images), None)
