#!/usr/bin/env python
"""Draw textured shapes and write them as three small data sets: detection, segmentation and classification.

    python tools/make_shapes.py data/shapes

Five classes that only their outline tells apart, one to six shapes in a picture, some behind others, on cluttered
ground. One drawing serves all three tasks:

    OUT/train2017, val2017, annotations     COCO: polygons of what is visible (`data_root` of a detection config)
    OUT/ade/{images,annotations}            ADE20K: id 0 is the ground, 1 to 5 the classes (`reduce_zero_label=True`)
    OUT/imagenet/{train,val}/<class>        an image folder: one square crop for each annotated shape
    OUT/classes.txt, preview.png            the class names in the order of their ids; twelve pictures, annotated
    OUT/make_shapes.json                    the arguments and the counts: the mark of a finished set

A picture depends on the seed, its split, its number, the size and `--max-objects`, not on how many are drawn. From five
pictures on, a split holds every class.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import cv2
import numpy as np

CLASSES = ('circle', 'square', 'triangle', 'star', 'cross')
SPLITS = {'train': 'training', 'val': 'validation'}  # our name -> ADE20K's
VERSION = 1  # of the drawings: raise it when the same arguments draw something else
MARKER = 'make_shapes.json'
MIN_RADIUS = 20  # pixels: the narrowest shape, a square, is then 28 wide
MIN_VISIBLE = 0.6  # of a shape's whole area, after occlusion and the picture's border
MIN_PIXELS = 40  # of each visible part
SUPERSAMPLING = 4
CROP_SIZE = 96
PREVIEW_TILES = 12
OWN_FILES = re.compile(
    r'(train|val)2017/\d{12}\.jpg|annotations/instances_(train|val)2017\.json|classes\.txt|preview\.png|make_shapes\.json'
    r'|ade/images/(training|validation)/\d{12}\.jpg|ade/annotations/(training|validation)/\d{12}\.png'
    rf'|imagenet/(train|val)/({"|".join(CLASSES)})/\d{{12}}_\d+\.JPEG'
)


class Refusal(Exception):
    """What the user can mend; its text is the one sentence that says how."""


# ---- drawing ---------------------------------------------------------------------------------------------------------


class Shape(NamedTuple):
    """A shape as it is placed: `label` indexes CLASSES, `coverage` (H, W) is its anti-aliased opacity from 0 to 1."""

    label: int
    coverage: np.ndarray
    area: float


class Scene(NamedTuple):
    """A picture (H, W, 3) of uint8, the labels of its shapes, and the map (H, W): 0 the ground, k the k-th shape."""

    picture: np.ndarray
    labels: list[int]
    seen: np.ndarray


def unit_outline(name: str) -> np.ndarray:
    """Returns the class's outline (N, 2) around the origin; radii are chosen so that all look about equally large."""
    if name == 'cross':
        a, b = 1.0, 0.36  # half its length, half an arm's width
        right, top = [(b, -b), (a, -b), (a, b)], [(b, b), (b, a), (-b, a)]
        return np.array(right + top + [(-x, -y) for x, y in right + top])
    corners, radius = {'circle': (64, 0.85), 'square': (4, 1.0), 'triangle': (3, 1.15), 'star': (10, 1.2)}[name]
    radii = np.full(corners, radius)
    if name == 'star':
        radii[1::2] *= 0.45
    angles = 2 * np.pi * np.arange(corners) / corners
    return radii[:, None] * np.stack([np.cos(angles), np.sin(angles)], axis=1)


def random_shape(rng: np.random.Generator, label: int, width: int, height: int) -> Shape:
    """Places a shape of the given class at random; up to a part of it may lie outside of the picture."""
    radius = MIN_RADIUS * (0.32 * min(width, height) / MIN_RADIUS) ** rng.random()
    angle = rng.uniform(0, 2 * np.pi)
    rotation = np.array([(np.cos(angle), np.sin(angle)), (-np.sin(angle), np.cos(angle))])
    center = rng.uniform((0.6 * radius, 0.6 * radius), (width - 0.6 * radius, height - 0.6 * radius))
    outline = radius * unit_outline(CLASSES[label]) @ rotation + center
    canvas = np.zeros((SUPERSAMPLING * height, SUPERSAMPLING * width), np.uint8)
    points = SUPERSAMPLING * outline - 0.5  # OpenCV's whole numbers are pixel centers
    cv2.fillPoly(canvas, [np.rint(16 * points).astype(np.int32)], 255, shift=4)
    coverage = cv2.resize(canvas, (width, height), interpolation=cv2.INTER_AREA).astype(np.float32) / 255
    return Shape(label, coverage, cv2.contourArea(outline.astype(np.float32)))


def trace(mask: np.ndarray) -> list[np.ndarray]:
    """Returns the outer borders of a mask's parts as polygons (N, 2) along pixel edges: they fill to the mask exactly.

    Each pixel becomes 3 x 3: of these, OpenCV's border follows the outer ones, which tell the left edge from the right.
    """
    enlarged = cv2.resize(mask.astype(np.uint8), None, fx=3, fy=3, interpolation=cv2.INTER_NEAREST)
    borders = cv2.findContours(enlarged, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)[0]
    polygons = [(border[:, 0] + 1) // 3 for border in borders]
    return [polygon[np.any(polygon != np.roll(polygon, 1, axis=0), axis=1)] for polygon in polygons]


def well_visible(mask: np.ndarray, area: float) -> bool:
    """Tells whether enough of a shape shows, in parts that are not slivers and have no holes (polygons have none)."""
    parts = [cv2.contourArea(polygon.astype(np.float32)) for polygon in trace(mask)]
    return bool(parts and min(parts) >= MIN_PIXELS and sum(parts) == mask.sum() >= MIN_VISIBLE * area)


def place_shapes(
    rng: np.random.Generator, labels: np.ndarray, width: int, height: int
) -> tuple[list[Shape], np.ndarray]:
    """Places shapes from back to front so that each stays well visible (one that finds no place is left out).

    Returns:
        The shapes, and the map (H, W) of what is seen: 0 the ground, k the k-th shape.
    """
    shapes: list[Shape] = []
    seen = np.zeros((height, width), np.uint8)
    for label in labels:
        for _ in range(30):
            shape = random_shape(rng, int(label), width, height)
            trial = np.where(shape.coverage >= 0.5, np.uint8(len(shapes) + 1), seen)
            if all(well_visible(trial == k, s.area) for k, s in enumerate([*shapes, shape], start=1)):
                shapes.append(shape)
                seen = trial
                break
    return shapes, seen


def texture(rng: np.random.Generator, first: np.ndarray, second: np.ndarray, width: int, height: int) -> np.ndarray:
    """Fills a picture (H, W, 3) with noise, stripes, checks or a gradient between two colours."""
    y, x = np.mgrid[:height, :width].astype(np.float32)
    angle, period = rng.uniform(0, 2 * np.pi), rng.uniform(7, 22)
    across, along = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
    kind = rng.choice(['noise', 'stripes', 'checks', 'gradient'])
    if kind == 'noise':
        grains = [(int(height / grain) + 2, int(width / grain) + 2) for grain in (period, 3)]
        layers = [cv2.resize(rng.random(g, np.float32), (width, height), interpolation=cv2.INTER_CUBIC) for g in grains]
        mix = 0.65 * layers[0] + 0.35 * layers[1]
    elif kind == 'gradient':
        mix = (across - across.min()) / np.ptp(across)
    else:
        wave = np.sin(2 * np.pi * across / period)
        if kind == 'checks':
            wave *= np.sin(2 * np.pi * along / period)
        mix = 0.5 + 2 * wave
    return first + np.clip(mix, 0, 1)[..., None] * (second - first)


def add_clutter(rng: np.random.Generator, picture: np.ndarray, ground: np.ndarray) -> np.ndarray:
    """Scatters strokes, arcs and pebbles over a picture, in shades of its ground and smaller than any shape."""
    height, width = picture.shape[:2]
    picture = np.clip(picture, 0, 255).astype(np.uint8)
    for _ in range(rng.integers(6, 15)):
        colour = np.clip(ground + rng.uniform(-60, 60, 3), 0, 255).tolist()
        center = rng.uniform((0, 0), (width, height))
        kind = rng.choice(['stroke', 'arc', 'pebble'])
        if kind == 'stroke':
            points = np.rint(center + np.cumsum(rng.uniform(-30, 30, (3, 2)), axis=0)).astype(np.int32)
            cv2.polylines(picture, [points], False, colour, int(rng.integers(1, 3)), cv2.LINE_AA)
        elif kind == 'arc':
            axes, start = rng.integers(5, 16, 2).tolist(), float(rng.uniform(0, 360))
            cv2.ellipse(picture, np.rint(center).astype(int).tolist(), axes, start, 0, 200, colour, 1, cv2.LINE_AA)
        else:
            angles = np.sort(rng.uniform(0, 2 * np.pi, 7))
            rim = rng.uniform(2, 9, (7, 1)) * np.stack([np.cos(angles), np.sin(angles)], axis=1)
            cv2.fillPoly(picture, [np.rint(center + rim).astype(np.int32)], colour, cv2.LINE_AA)
    return picture.astype(np.float32)


def draw(seed: int, split: str, index: int, size: tuple[int, int], max_objects: int) -> Scene:
    """Draws picture `index` of a split."""
    width, height = size
    rng = np.random.default_rng([seed, list(SPLITS).index(split), index])
    labels = rng.integers(len(CLASSES), size=rng.integers(1, max_objects + 1))
    labels[0] = index % len(CLASSES)  # so that small splits too hold every class
    shapes, seen = place_shapes(rng, labels, width, height)
    ground = rng.uniform(60, 195) + rng.uniform(-30, 30, 3)
    picture = texture(rng, ground - 20, ground + rng.uniform(-5, 25, 3), width, height)
    picture = add_clutter(rng, picture, ground)
    colours = [ground]
    for shape in shapes:
        candidates = rng.uniform(20, 235, (8, 3))  # the one is taken that its nearest neighbour is farthest from
        colours.append(max(candidates, key=lambda one: min(np.linalg.norm(one - other) for other in colours)))
        fill = texture(rng, colours[-1], colours[-1] + rng.choice([-1, 1]) * rng.uniform(20, 50), width, height)
        picture += shape.coverage[..., None] * (fill - picture)
    picture += rng.normal(0, 3, picture.shape)
    picture = np.clip(np.rint(picture), 0, 255).astype(np.uint8)
    return Scene(picture, [shape.label for shape in shapes], seen)


# ---- writing ---------------------------------------------------------------------------------------------------------


def write_image(path: Path, image: np.ndarray) -> None:
    """Writes an image; unlike `cv2.imwrite` it raises where the disk is full, and takes every path."""
    path.write_bytes(cv2.imencode(path.suffix.lower(), image)[1].tobytes())


def square_crop(picture: np.ndarray, bbox: list[float]) -> np.ndarray:
    """Crops a square around a box (x, y, w, h) with some context, moved inside the picture where it would stick out."""
    height, width = picture.shape[:2]
    x, y, w, h = bbox
    side = min(round(1.3 * max(w, h)), width, height)
    left, top = (int(np.clip(c - side / 2, 0, room - side)) for c, room in ((x + w / 2, width), (y + h / 2, height)))
    method = cv2.INTER_AREA if side > CROP_SIZE else cv2.INTER_CUBIC
    return cv2.resize(picture[top : top + side, left : left + side], (CROP_SIZE, CROP_SIZE), interpolation=method)


def annotate(scene: Scene, image_id: int, first_id: int) -> list[dict[str, Any]]:
    """Returns COCO's annotations of one picture."""
    annotations = []
    for k, label in enumerate(scene.labels, start=1):
        mask = (scene.seen == k).astype(np.uint8)
        polygons = [polygon.ravel().astype(float).tolist() for polygon in trace(mask)]
        area, bbox = float(mask.sum()), [float(value) for value in cv2.boundingRect(mask)]
        ids = dict(id=first_id + k - 1, image_id=image_id, category_id=label + 1)
        annotations.append(dict(**ids, segmentation=polygons, area=area, bbox=bbox, iscrowd=0))
    return annotations


def write_scene(out: Path, split: str, stem: str, scene: Scene, annotations: list[dict[str, Any]]) -> None:
    """Writes one picture in all its forms, except for COCO's annotations."""
    ade_picture, ade_mask = (out / 'ade' / kind / SPLITS[split] / stem for kind in ('images', 'annotations'))
    picture = out / f'{split}2017/{stem}.jpg'
    write_image(picture, scene.picture)
    try:
        os.link(picture, ade_picture.with_suffix('.jpg'))
    except OSError:  # a file system without hard links
        shutil.copyfile(picture, ade_picture.with_suffix('.jpg'))
    ids = np.array([0, *(label + 1 for label in scene.labels)], np.uint8)
    write_image(ade_mask.with_suffix('.png'), ids[scene.seen])
    for k, (label, annotation) in enumerate(zip(scene.labels, annotations, strict=True), start=1):
        crop = square_crop(scene.picture, annotation['bbox'])
        write_image(out / 'imagenet' / split / CLASSES[label] / f'{stem}_{k}.JPEG', crop)


def annotated(picture: np.ndarray, annotations: list[dict[str, Any]], width: int = 400) -> np.ndarray:
    """Returns a picture, resized, with its annotations drawn over it."""
    scale = width / picture.shape[1]
    tile = cv2.resize(picture, None, fx=scale, fy=scale, interpolation=cv2.INTER_LINEAR)
    for annotation in annotations:
        polygons = [np.rint(scale * np.reshape(p, (-1, 2))).astype(np.int32) for p in annotation['segmentation']]
        x, y, w, h = (round(scale * value) for value in annotation['bbox'])
        for colour, thickness in ((0, 0, 0), 3), ((255, 255, 255), 1):
            cv2.polylines(tile, polygons, True, colour, thickness, cv2.LINE_AA)
            cv2.rectangle(tile, (x, y), (x + w, y + h), colour, thickness)
        name = CLASSES[annotation['category_id'] - 1]
        cv2.rectangle(tile, (x, y), (x + 8 * len(name) + 6, y + 17), (0, 0, 0), cv2.FILLED)
        cv2.putText(tile, name, (x + 4, y + 13), cv2.FONT_HERSHEY_SIMPLEX, 0.45, (255, 255, 255), 1, cv2.LINE_AA)
    return tile


def contact_sheet(tiles: list[np.ndarray], columns: int = 4) -> np.ndarray:
    """Joins pictures of one size to rows."""
    tiles = tiles + [np.zeros_like(tiles[0])] * (-len(tiles) % columns)
    return np.vstack([np.hstack(tiles[i : i + columns]) for i in range(0, len(tiles), columns)])


def with_progress(jobs: list[tuple[str, int]]) -> Iterator[tuple[str, int]]:
    """Yields the jobs and keeps one line with the time left, if a person watches."""
    start = time.monotonic()
    for done, job in enumerate(jobs, start=1):
        yield job
        if sys.stderr.isatty():
            left = (time.monotonic() - start) / done * (len(jobs) - done)
            end = '\n' if done == len(jobs) else ''
            print(f'\rdrawing {done}/{len(jobs)}, {left:.0f} s left ', end=end, file=sys.stderr, flush=True)


def write_set(out: Path, arguments: dict[str, Any]) -> dict[str, Any]:
    """Draws and writes everything into a folder; returns the marker, which is written last."""
    leaves = [f'imagenet/{split}/{name}' for split in SPLITS for name in CLASSES]
    leaves += [f'ade/{kind}/{name}' for kind in ('images', 'annotations') for name in SPLITS.values()]
    for leaf in [*leaves, 'annotations', *(f'{split}2017' for split in SPLITS)]:
        (out / leaf).mkdir(parents=True)
    categories = [dict(supercategory='shape', id=i, name=name) for i, name in enumerate(CLASSES, start=1)]
    cocos: dict[str, dict[str, Any]] = {
        split: dict(
            info=dict(description=f'Drawn shapes, {split} split, seed {arguments["seed"]}', version=str(VERSION)),
            licenses=[],
            images=[],
            annotations=[],
            categories=categories,
        )
        for split in SPLITS
    }
    tiles = []
    width, height = arguments['size']
    jobs = [(split, index) for split in SPLITS for index in range(arguments[split])]
    for split, index in with_progress(jobs):
        coco, image_id, stem = cocos[split], index + 1, f'{index + 1:012d}'
        scene = draw(arguments['seed'], split, index, (width, height), arguments['max_objects'])
        annotations = annotate(scene, image_id, first_id=len(coco['annotations']) + 1)
        write_scene(out, split, stem, scene, annotations)
        coco['images'].append(dict(id=image_id, file_name=f'{stem}.jpg', width=width, height=height))
        coco['annotations'] += annotations
        if len(tiles) < PREVIEW_TILES:
            tiles.append(annotated(scene.picture, annotations))
    counts = {}
    for split, coco in cocos.items():
        (out / f'annotations/instances_{split}2017.json').write_text(json.dumps(coco))
        shapes = Counter(annotation['category_id'] for annotation in coco['annotations'])
        by_class = {name: shapes[i] for i, name in enumerate(CLASSES, start=1)}
        counts[split] = dict(images=len(coco['images']), shapes=sum(by_class.values()), by_class=by_class)
    write_image(out / 'preview.png', contact_sheet(tiles))
    (out / 'classes.txt').write_text('\n'.join(CLASSES) + '\n')
    marker = dict(arguments=arguments, counts=counts)
    (out / MARKER).write_text(json.dumps(marker, indent=2) + '\n')
    return marker


# ---- the folder ------------------------------------------------------------------------------------------------------


def read_marker(out: Path, overwrite: bool, arguments: dict[str, Any]) -> dict[str, Any] | None:
    """Returns the marker of a finished set with these arguments, None where one may be drawn; else raises Refusal."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return None
    if not out.is_dir():
        raise Refusal(f'{out} is a file: name a folder')
    try:
        marker = json.loads((out / MARKER).read_text())
        old = marker['arguments']
    except (FileNotFoundError, ValueError, LookupError, TypeError):
        raise Refusal(f'{out} is not empty and holds no set of this tool ({MARKER}): name another folder') from None
    if overwrite:
        return None
    if old == arguments:
        return marker
    changed = [f'{name} {old.get(name)}, now {new}' for name, new in arguments.items() if old.get(name) != new]
    state = f'holds a set drawn with other arguments ({"; ".join(changed)})' if old else 'holds an unfinished set'
    raise Refusal(f'{out} {state}: name another folder, or add --overwrite to replace it')


def publish(drawn: Path, out: Path) -> None:
    """Moves a finished set to its place; replaces an older one file by file and leaves files of others alone."""
    if not out.exists():
        drawn.rename(out)
        return
    (out / MARKER).write_text('{"arguments": {}}')  # unfinished, until the last line
    for path in list(out.rglob('*')):
        name = path.relative_to(out).as_posix()
        if name != MARKER and OWN_FILES.fullmatch(name):
            path.unlink()
    for path in sorted(drawn.rglob('*')):
        target = out / path.relative_to(drawn)
        if path.is_dir():
            target.mkdir(exist_ok=True)
        elif path.name != MARKER:
            shutil.move(path, target)
    os.replace(drawn / MARKER, out / MARKER)


def make(out: Path, overwrite: bool, arguments: dict[str, Any]) -> dict[str, Any]:
    """Draws the set beside `out` and moves it there when it is whole; returns its marker."""
    temporary = out.with_name(f'.{out.name}.{os.getpid()}.tmp')
    temporary.mkdir(parents=True)
    try:
        marker = write_set(temporary, arguments)
        if not read_marker(out, overwrite, arguments):  # another run may have been faster
            publish(temporary, out)
        return marker
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


# ---- the command -----------------------------------------------------------------------------------------------------


def whole_number(low: int, high: int) -> Callable[[str], int]:
    """Returns an argparse type for whole numbers from `low` to `high`."""

    def convert(text: str) -> int:
        if not re.fullmatch(r'-?\d{1,18}', text) or not low <= int(text) <= high:
            raise argparse.ArgumentTypeError(f'{text!r} is not allowed: give a whole number from {low} to {high}')
        return int(text)

    return convert


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one sentence, without the usage."""

    def error(self, message: str) -> NoReturn:
        """Ends the command."""
        self.exit(2, f'{self.prog}: error: {message} (see --help)\n')


def parse_args() -> argparse.Namespace:
    """Parses the command line."""
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
    number, side, seed, few = (whole_number(*ends) for ends in ((1, 10**6), (64, 2048), (0, 2**32 - 1), (1, 50)))
    parser.add_argument('out', metavar='OUT', type=Path, help='the folder to write')
    parser.add_argument('--train', type=number, default=120, metavar='N', help='training pictures (120)')
    parser.add_argument('--val', type=number, default=30, metavar='N', help='validation pictures (30)')
    parser.add_argument('--size', type=side, nargs=2, default=[256, 192], metavar=('W', 'H'), help='pixels (256 192)')
    parser.add_argument('--seed', type=seed, default=0, metavar='N', help='of every random choice (0)')
    parser.add_argument('--max-objects', type=few, default=6, metavar='N', help='the most shapes in a picture (6)')
    parser.add_argument('--overwrite', action='store_true', help='replace an older set of this tool in OUT')
    parser.add_argument('--json', action='store_true', help='print the summary as JSON')
    return parser.parse_args()


def report(out: Path, marker: dict[str, Any], drawn: bool, seconds: float) -> None:
    """Prints where the set is and what it holds."""
    done = f'drawn in {seconds} s' if drawn else 'finished before with these arguments, nothing to draw'
    print(f'{out}: {done}')
    for split, count in marker['counts'].items():
        shapes = ', '.join(f'{number} {name}' for name, number in count['by_class'].items())
        print(f'  {split:5} {count["images"]} pictures, {count["shapes"]} shapes: {shapes}')
    print('  detection: train2017/, val2017/, annotations/; segmentation: ade/; classification: imagenet/')
    print('  to look at: preview.png')


def main() -> int:
    """Runs the command; returns its exit code."""
    args, start = parse_args(), time.monotonic()
    arguments = {name: getattr(args, name) for name in ('train', 'val', 'size', 'seed', 'max_objects')}
    arguments['version'] = VERSION
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # like Ctrl-C: clears the temporary folder
    cv2.setNumThreads(1)
    try:
        out = Path(os.path.realpath(args.out))
        finished = read_marker(out, args.overwrite, arguments)
        marker = finished or make(out, args.overwrite, arguments)
    except KeyboardInterrupt:
        print(f'make_shapes.py: stopped before {args.out} was whole', file=sys.stderr)
        return 130
    except (Refusal, OSError) as error:
        text = error if isinstance(error, Refusal) else f'{args.out} cannot be written ({error}): name another folder'
        print(f'make_shapes.py: error: {text}', file=sys.stderr)
        return 2
    drawn, seconds = finished is None, round(time.monotonic() - start, 1)
    if args.json:
        print(json.dumps(dict(out=str(out), drawn=drawn, seconds=seconds, classes=CLASSES, **marker), indent=2))
    else:
        report(out, marker, drawn, seconds)
    return 0


if __name__ == '__main__':
    sys.exit(main())
