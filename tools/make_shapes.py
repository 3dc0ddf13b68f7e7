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
from typing import Any, NoReturn

import cv2
import numpy as np
from shapes import CLASSES, SPLITS, Scene, draw, square_crop, trace

ADE_SPLITS = {'train': 'training', 'val': 'validation'}  # our name -> ADE20K's
VERSION = 1  # of the drawings: raise it when the same arguments draw something else
MARKER = 'make_shapes.json'
PREVIEW_TILES = 12
OWN_FILES = re.compile(
    r'(train|val)2017/\d{12}\.jpg|annotations/instances_(train|val)2017\.json|classes\.txt|preview\.png|make_shapes\.json'
    r'|ade/images/(training|validation)/\d{12}\.jpg|ade/annotations/(training|validation)/\d{12}\.png'
    rf'|imagenet/(train|val)/({"|".join(CLASSES)})/\d{{12}}_\d+\.JPEG'
)


class Refusal(Exception):
    """What the user can mend; its text is the one sentence that says how."""


# ---- writing ---------------------------------------------------------------------------------------------------------


def write_image(path: Path, image: np.ndarray) -> None:
    """Writes an image; unlike `cv2.imwrite` it raises where the disk is full, and takes every path."""
    path.write_bytes(cv2.imencode(path.suffix.lower(), image)[1].tobytes())


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
    ade_picture, ade_mask = (out / 'ade' / kind / ADE_SPLITS[split] / stem for kind in ('images', 'annotations'))
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
    leaves += [f'ade/{kind}/{name}' for kind in ('images', 'annotations') for name in ADE_SPLITS.values()]
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
