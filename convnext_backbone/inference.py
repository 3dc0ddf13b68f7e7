"""Detections for people and for programs: pictures with boxes and masks, and COCO json."""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path

import cv2
import numpy as np
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import DATASETS, MODELS, VISUALIZERS, init_default_scope
from torch import nn

from .checkpoint import mismatch_sentence
from .errors import CheckpointMismatch, UserError
from .reader import read_state
from .run_config import IMAGE_SUFFIXES
from .saving import write_atomically


def find_images(sources: Iterable[str]) -> list[Path]:
    """The image files that are named, and those directly in the folders that are named.

    Raises:
        UserError: A source does not exist, or a folder holds no image.
    """
    images = []
    for source in map(Path, sources):
        if source.is_dir():
            found = sorted(path for path in source.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES)
            if not found:
                raise UserError(f'The folder {source} holds no image ({", ".join(sorted(IMAGE_SUFFIXES))}).')
            images += found
        elif source.is_file():
            images.append(source)
        else:
            raise UserError(f'The image {source} does not exist: name image files or folders of them.')
    return images


def build_detector(cfg: Config, checkpoint: str) -> nn.Module:
    """Builds the model of a config and fills it, whole, from a checkpoint.

    Raises:
        CheckpointError: The file cannot be read.
        CheckpointMismatch: The file does not fill the model.
    """
    state = read_state(checkpoint)
    init_default_scope(cfg.get('default_scope', 'mmdet'))
    model = revert_sync_batchnorm(MODELS.build(cfg.model))
    try:
        model.load_state_dict(state.get('state_dict', state))
    except RuntimeError as error:
        raise CheckpointMismatch(mismatch_sentence(checkpoint, error)) from error
    meta = (state.get('meta') or {}).get('dataset_meta') or {}
    classes = (
        meta.get('classes') or DATASETS.build(dict(cfg.test_dataloader.dataset, lazy_init=True)).metainfo['classes']
    )
    model.dataset_meta = {'palette': 'random', **meta, 'classes': classes}
    model.cfg = cfg  # where mmdet's inference looks for the pipeline
    return model.to(get_device()).eval()


def predict(model: nn.Module, images: list[Path], out_dir: Path, score_thr: float = 0.3) -> Iterator[dict]:
    """Detects objects in images and draws them, one picture each, into a folder.

    Args:
        model: As of :func:`build_detector`.
        images: The image files.
        out_dir: Where the pictures go.
        score_thr: Detections below it are neither drawn nor returned.

    Yields:
        For each image ``image`` and ``picture`` (paths), ``height``, ``width`` and the ``detections`` as of
        :func:`coco_detections`.

    Raises:
        UserError: An image cannot be decoded.
    """
    from mmdet.apis import inference_detector

    # mmdet's own opacity of masks, 0.8, hides what lies under them.
    visualizer = VISUALIZERS.build({'alpha': 0.4, **model.cfg.visualizer, 'vis_backends': None, 'save_dir': None})
    visualizer.dataset_meta = model.dataset_meta
    for path, picture in zip(images, name_pictures(images, out_dir), strict=True):
        image = cv2.imread(str(path), cv2.IMREAD_COLOR)
        if image is None:
            raise UserError(f'The image {path} cannot be decoded: replace it or leave it out.')
        sample = inference_detector(model, image)
        visualizer.add_datasample(
            path.name, cv2.cvtColor(image, cv2.COLOR_BGR2RGB), sample, draw_gt=False, pred_score_thr=score_thr
        )
        write_picture(cv2.cvtColor(visualizer.get_image(), cv2.COLOR_RGB2BGR), picture)
        detections = coco_detections(sample.pred_instances.cpu().numpy(), score_thr)
        yield dict(image=path, picture=picture, height=image.shape[0], width=image.shape[1], detections=detections)


def write_picture(image: np.ndarray, path: Path) -> None:
    """Writes an (H, W, 3) BGR image, whole or not at all."""
    write_atomically(cv2.imencode(path.suffix, image)[1].tobytes(), path)


def name_pictures(images: list[Path], out_dir: Path) -> list[Path]:
    """One picture for each image: images of the same name in different folders get a number."""
    taken: set[str] = set()
    names = []
    for path in images:
        suffix = path.suffix.lower() if path.suffix.lower() in {'.jpg', '.jpeg', '.png'} else '.png'
        stem, number = path.stem, 2
        while stem + suffix in taken:
            stem, number = f'{path.stem}_{number}', number + 1
        taken.add(stem + suffix)
        names.append(out_dir / (stem + suffix))
    return names


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


def coco_json(predictions: list[dict], classes: Iterable[str]) -> str:
    """A COCO file of predictions: images, categories (ids from 1, in the model's order), annotations with scores."""
    images, annotations = [], []
    for image_id, prediction in enumerate(predictions, start=1):
        size = dict(height=prediction['height'], width=prediction['width'])
        images.append(dict(id=image_id, file_name=str(prediction['image']), **size))
        for detection in prediction['detections']:
            annotations.append(dict(id=len(annotations) + 1, image_id=image_id, iscrowd=0, **detection))
    categories = [dict(id=i, name=name) for i, name in enumerate(classes, start=1)]
    return json.dumps(dict(images=images, categories=categories, annotations=annotations))


def contact_sheet(pictures: list[Path], path: Path, columns: int = 3, width: int = 360) -> None:
    """Pastes up to a dozen pictures into one, for a quick look."""
    tiles = []
    for picture in pictures[:12]:
        image = cv2.imread(str(picture))
        tiles.append(cv2.resize(image, (width, round(image.shape[0] * width / image.shape[1]))))
    height = max(tile.shape[0] for tile in tiles)
    columns = min(columns, len(tiles))
    sheet = np.full((-(-len(tiles) // columns) * height, columns * width, 3), 255, np.uint8)
    for i, tile in enumerate(tiles):
        y, x = i // columns * height, i % columns * width
        sheet[y : y + tile.shape[0], x : x + width] = tile
    write_picture(sheet, path)
