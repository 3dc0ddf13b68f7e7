"""Writes drawn pictures in the layouts of COCO, ADE20K and ImageNet."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from tqdm import tqdm

from .drawing import CLASSES, SPLITS, Scene, draw, trace

VERSION = 1  # of the drawings: raise it when the same arguments draw something else
MARKER = 'make_shapes.json'
ADE_SPLITS = {'train': 'training', 'val': 'validation'}  # our name -> ADE20K's
CROP_SIZE = 96  # pixels
PREVIEW_TILES, PREVIEW_WIDTH, PREVIEW_COLUMNS = 12, 400, 4
WHITE, BLACK = (255, 255, 255), (0, 0, 0)


def _write_image(path: Path, image: np.ndarray) -> None:
    """Write an image; unlike `cv2.imwrite` this raises where the disk is full, and takes every path."""
    path.write_bytes(cv2.imencode(path.suffix.lower(), image)[1].tobytes())


def _annotate(scene: Scene, image_id: int, first_id: int) -> list[dict[str, Any]]:
    """COCO's annotations of one picture."""
    annotations = []
    for k, label in enumerate(scene.labels, start=1):
        mask = (scene.seen == k).astype(np.uint8)
        polygons = [polygon.ravel().astype(float).tolist() for polygon in trace(mask)]
        area, bbox = float(mask.sum()), [float(value) for value in cv2.boundingRect(mask)]
        ids = dict(id=first_id + k - 1, image_id=image_id, category_id=label + 1)
        annotations.append(dict(**ids, segmentation=polygons, area=area, bbox=bbox, iscrowd=0))
    return annotations


def _square_crop(picture: np.ndarray, bbox: list[float]) -> np.ndarray:
    """A square around a box (x, y, w, h) with some context, moved inside the picture where it would stick out."""
    height, width = picture.shape[:2]
    x, y, w, h = bbox
    side = min(round(1.3 * max(w, h)), width, height)
    left, top = (int(np.clip(c - side / 2, 0, room - side)) for c, room in ((x + w / 2, width), (y + h / 2, height)))
    method = cv2.INTER_AREA if side > CROP_SIZE else cv2.INTER_CUBIC
    return cv2.resize(picture[top : top + side, left : left + side], (CROP_SIZE, CROP_SIZE), interpolation=method)


def _write_scene(out: Path, split: str, stem: str, scene: Scene, annotations: list[dict[str, Any]]) -> None:
    """One picture in all its forms, except for COCO's annotations."""
    ade_picture, ade_mask = (out / 'ade' / kind / ADE_SPLITS[split] / stem for kind in ('images', 'annotations'))
    for path in (out / f'{split}2017' / stem, ade_picture):
        _write_image(path.with_suffix('.jpg'), scene.picture)
    ids = np.array([0, *(label + 1 for label in scene.labels)], np.uint8)
    _write_image(ade_mask.with_suffix('.png'), ids[scene.seen])
    for k, (label, annotation) in enumerate(zip(scene.labels, annotations, strict=True), start=1):
        crop = _square_crop(scene.picture, annotation['bbox'])
        _write_image(out / 'imagenet' / split / CLASSES[label] / f'{stem}_{k}.JPEG', crop)


def _preview(picture: np.ndarray, annotations: list[dict[str, Any]]) -> np.ndarray:
    """A picture, resized, with its annotations drawn over it."""
    scale = PREVIEW_WIDTH / picture.shape[1]
    tile = cv2.resize(picture, None, fx=scale, fy=scale, interpolation=cv2.INTER_LINEAR)
    for annotation in annotations:
        polygons = [np.rint(scale * np.reshape(p, (-1, 2))).astype(np.int32) for p in annotation['segmentation']]
        x, y, w, h = (round(scale * value) for value in annotation['bbox'])
        for color, thickness in (BLACK, 3), (WHITE, 1):
            cv2.polylines(tile, polygons, True, color, thickness, cv2.LINE_AA)
            cv2.rectangle(tile, (x, y), (x + w, y + h), color, thickness)
        name = CLASSES[annotation['category_id'] - 1]
        cv2.rectangle(tile, (x, y), (x + 8 * len(name) + 6, y + 17), BLACK, cv2.FILLED)
        cv2.putText(tile, name, (x + 4, y + 13), cv2.FONT_HERSHEY_SIMPLEX, 0.45, WHITE, 1, cv2.LINE_AA)
    return tile


def _contact_sheet(tiles: list[np.ndarray]) -> np.ndarray:
    tiles = tiles + [np.zeros_like(tiles[0])] * (-len(tiles) % PREVIEW_COLUMNS)
    return np.vstack([np.hstack(tiles[i : i + PREVIEW_COLUMNS]) for i in range(0, len(tiles), PREVIEW_COLUMNS)])


def _count(coco: dict[str, Any]) -> dict[str, Any]:
    shapes = Counter(annotation['category_id'] for annotation in coco['annotations'])
    by_class = {name: shapes[i] for i, name in enumerate(CLASSES, start=1)}
    return dict(images=len(coco['images']), shapes=sum(by_class.values()), by_class=by_class)


def write_set(out: Path, arguments: dict[str, Any]) -> dict[str, Any]:
    """Draw and write everything into a folder; returns the marker of a finished set, which is written last."""
    folders = ['annotations', *(f'{split}2017' for split in SPLITS)]
    folders += [f'imagenet/{split}/{name}' for split in SPLITS for name in CLASSES]
    folders += [f'ade/{kind}/{name}' for kind in ('images', 'annotations') for name in ADE_SPLITS.values()]
    for folder in folders:
        (out / folder).mkdir(parents=True)
    categories = [dict(supercategory='shape', id=i, name=name) for i, name in enumerate(CLASSES, start=1)]
    cocos: dict[str, dict[str, Any]] = {}
    for split in SPLITS:
        info = dict(description=f'Drawn shapes, {split} split, seed {arguments["seed"]}', version=str(VERSION))
        cocos[split] = dict(info=info, licenses=[], images=[], annotations=[], categories=categories)
    width, height = arguments['size']
    tiles: list[np.ndarray] = []
    jobs = [(split, index) for split in SPLITS for index in range(arguments[split])]
    for split, index in tqdm(jobs, desc='drawing', disable=None):  # None: where nobody watches
        coco, image_id, stem = cocos[split], index + 1, f'{index + 1:012d}'
        scene = draw(arguments['seed'], split, index, (width, height), arguments['max_objects'])
        annotations = _annotate(scene, image_id, first_id=len(coco['annotations']) + 1)
        _write_scene(out, split, stem, scene, annotations)
        coco['images'].append(dict(id=image_id, file_name=f'{stem}.jpg', width=width, height=height))
        coco['annotations'] += annotations
        if len(tiles) < PREVIEW_TILES:
            tiles.append(_preview(scene.picture, annotations))
    for split, coco in cocos.items():
        (out / f'annotations/instances_{split}2017.json').write_text(json.dumps(coco))
    _write_image(out / 'preview.png', _contact_sheet(tiles))
    (out / 'classes.txt').write_text('\n'.join(CLASSES) + '\n')
    marker = dict(arguments=arguments, counts={split: _count(coco) for split, coco in cocos.items()})
    (out / MARKER).write_text(json.dumps(marker, indent=2) + '\n')
    return marker
