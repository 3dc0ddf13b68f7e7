"""Box AP of a detector on large pictures, seen whole and in tiles: images of a data set, stitched together."""

import argparse
import random
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.registry import DATASETS
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from tqdm import tqdm

from convnext_backbone.apis.builders import build_detector
from convnext_backbone.apis.coco_output import find_ids
from convnext_backbone.apis.detection import DetectionTask
from convnext_backbone.apis.image_files import ImageFile
from convnext_backbone.apis.tiles import Tiles
from convnext_backbone.config.load import load_config
from convnext_backbone.utils.image_io import read_image, write_picture

from .measuring import conditions
from .report import Benchmark

_LEAST_SCORE = 0.05
_ROOM = 20  # pixels between images, more or less: they stand at random in the cells of a grid


def stitch(images: list[dict], width: int, height: int, rng: random.Random) -> tuple[np.ndarray, list[dict]]:
    """A picture of images at random places, drawn with repetition, and what is annotated in it."""
    canvas = np.full((height, width, 3), 114, np.uint8)
    objects: list[dict] = []
    cell_width, cell_height = (_ROOM + max(info[side] for info in images) for side in ('width', 'height'))
    for top in range(0, height - cell_height + 1, cell_height):
        for left in range(0, width - cell_width + 1, cell_width):
            info = rng.choice(images)
            pixels = read_image(info['img_path'])
            y = top + rng.randint(0, cell_height - pixels.shape[0])
            x = left + rng.randint(0, cell_width - pixels.shape[1])
            canvas[y : y + pixels.shape[0], x : x + pixels.shape[1]] = pixels
            objects += [_move(one, x, y) for one in info['instances']]
    return canvas, objects


def _move(instance: dict, x: int, y: int) -> dict:
    left, top, right, bottom = instance['bbox']
    box = [left + x, top + y, right - left, bottom - top]
    return dict(bbox=box, area=box[2] * box[3], category_id=instance['bbox_label'], iscrowd=instance['ignore_flag'])


def box_ap(truth: list[list[dict]], found: list[list[tuple[int, dict]]], classes: int) -> dict[str, float]:
    """COCO's box AP, with as many detections in a picture as there are."""
    coco = COCO()
    rows = [dict(one, image_id=i) for i, objects in enumerate(truth) for one in objects]
    coco.dataset = dict(
        images=[dict(id=i) for i in range(len(truth))],
        annotations=[dict(row, id=number) for number, row in enumerate(rows, 1)],
        categories=[dict(id=i) for i in range(classes)],
    )
    coco.createIndex()
    results = [
        dict(image_id=i, category_id=label, bbox=one['bbox'], score=one['score'])
        for i, detections in enumerate(found)
        for label, one in detections
    ]
    if not results:
        return dict(box_ap=0.0, box_ap50=0.0)
    evaluation = COCOeval(coco, coco.loadRes(results), 'bbox')
    evaluation.params.maxDets = [10**4]
    evaluation.evaluate()
    evaluation.accumulate()
    precision = evaluation.eval['precision'][..., 0, -1]  # thresholds, recalls, classes
    return dict(box_ap=float(precision[precision > -1].mean()), box_ap50=float(precision[0][precision[0] > -1].mean()))


def _measure(args: argparse.Namespace) -> dict:
    cfg = load_config(args.config, data_root=args.data_root)
    model = build_detector(cfg, args.checkpoint)
    dataset: Any = DATASETS.build(cfg.test_dataloader.dataset)
    images = [dataset.get_data_info(i) for i in range(len(dataset))]
    classes = model.dataset_meta['classes']
    tiles = Tiles(args.tile, args.overlap)
    tiles.check()
    with tempfile.TemporaryDirectory() as folder:
        pictures = [*_write_pictures(images, args, Path(folder))]
        single = [(info['img_path'], [_move(one, 0, 0) for one in info['instances']]) for info in images]
        rows = []
        for name, used, what in (
            ('the images alone', None, single),
            ('stitched, whole', None, pictures),
            ('stitched, in tiles', tiles, pictures),
        ):
            task = DetectionTask(model, find_ids(cfg, classes), _LEAST_SCORE, used)
            start = time.perf_counter()
            found = [task.detect([ImageFile(Path(path), Path())])[0][1] for path, _ in tqdm(what, desc=name)]
            seconds = (time.perf_counter() - start) / len(what)
            rows.append(dict(images=name, **box_ap([objects for _, objects in what], found, len(classes))))
            rows[-1]['seconds'] = seconds
    objects = sum(len(objects) for _, objects in pictures)
    size = f'{args.width}x{args.height}'
    return dict(size=size, pictures=args.pictures, objects=objects, tile=args.tile, rows=rows) | conditions(1)


def _write_pictures(images: list[dict], args: argparse.Namespace, folder: Path) -> Iterator[tuple[Path, list[dict]]]:
    rng = random.Random(0)
    for i in range(args.pictures):
        canvas, objects = stitch(images, args.width, args.height, rng)
        write_picture(canvas, folder / f'{i}.png')
        yield folder / f'{i}.png', objects


TILES = Benchmark(
    'box AP on large pictures, whole and in tiles',
    {
        'config': dict(metavar='CONFIG', help='of a detector; its test data are stitched'),
        'checkpoint': dict(metavar='CHECKPOINT', help='its weights'),
        '--data-root': dict(metavar='DIR', help="takes the place of the config's data folder"),
        '--pictures': dict(type=int, default=4, help='large pictures'),
        '--width': dict(type=int, default=4000, help='of a picture'),
        '--height': dict(type=int, default=3000, help='of a picture'),
        '--tile': dict(type=int, default=640, help='size of a tile'),
        '--overlap': dict(type=float, default=0.2, help='share of a tile that the next one has too'),
    },
    _measure,
)
