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
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import cv2
from shapes.drawing import CLASSES
from shapes.writing import MARKER, VERSION, write_set

OWN_FILES = re.compile(
    r'(train|val)2017/\d{12}\.jpg|annotations/instances_(train|val)2017\.json|classes\.txt|preview\.png'
    r'|ade/images/(training|validation)/\d{12}\.jpg|ade/annotations/(training|validation)/\d{12}\.png'
    rf'|imagenet/(train|val)/({"|".join(CLASSES)})/\d{{12}}_\d+\.JPEG'
)


class Refusal(Exception):
    """A mistake of the user; its text is one sentence that says what to do."""


def read_marker(out: Path, overwrite: bool, arguments: dict[str, Any]) -> dict[str, Any] | None:
    """The marker of a finished set with these arguments, None where one may be drawn; else raises Refusal."""
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
    """Move a finished set to its place; replaces an older one file by file and leaves other files alone."""
    if not out.exists():
        drawn.rename(out)
        return
    (out / MARKER).write_text('{"arguments": {}}')  # unfinished, until the last line
    for path in list(out.rglob('*')):
        if OWN_FILES.fullmatch(path.relative_to(out).as_posix()):
            path.unlink()
    rest = shutil.ignore_patterns(MARKER)
    shutil.copytree(drawn, out, copy_function=shutil.move, dirs_exist_ok=True, ignore=rest)
    os.replace(drawn / MARKER, out / MARKER)


def make(out: Path, overwrite: bool, arguments: dict[str, Any]) -> dict[str, Any]:
    """Draw the set next to `out` and move it there when it is complete; returns its marker."""
    temporary = out.with_name(f'.{out.name}.{os.getpid()}.tmp')
    temporary.mkdir(parents=True)
    try:
        marker = write_set(temporary, arguments)
        if not read_marker(out, overwrite, arguments):  # another run may have been faster
            publish(temporary, out)
        return marker
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def whole_number(low: int, high: int) -> Callable[[str], int]:
    """An argparse type for whole numbers from `low` to `high`."""

    def convert(text: str) -> int:
        if not re.fullmatch(r'-?\d{1,18}', text) or not low <= int(text) <= high:
            raise argparse.ArgumentTypeError(f'{text!r} is not allowed: give a whole number from {low} to {high}')
        return int(text)

    return convert


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one sentence, without the usage."""

    def error(self, message: str) -> NoReturn:
        """End the command."""
        self.exit(2, f'{self.prog}: error: {message} (see --help)\n')


def parse_args() -> argparse.Namespace:
    """Parse the command line."""
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


def report(summary: dict[str, Any]) -> None:
    """Print where the set is and what it holds."""
    drawn = f'drawn in {summary["seconds"]} s'
    print(f'{summary["out"]}: {drawn if summary["drawn"] else "finished before with these arguments, nothing to draw"}')
    for split, count in summary['counts'].items():
        shapes = ', '.join(f'{number} {name}' for name, number in count['by_class'].items())
        print(f'  {split:5} {count["images"]} pictures, {count["shapes"]} shapes: {shapes}')
    print('  detection: train2017/, val2017/, annotations/; segmentation: ade/; classification: imagenet/')
    print('  to look at: preview.png')


def main() -> int:
    """Run the command; returns its exit code."""
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
        print(f'make_shapes.py: stopped before {args.out} was complete', file=sys.stderr)
        return 130
    except (Refusal, OSError) as error:
        text = error if isinstance(error, Refusal) else f'{args.out} cannot be written ({error}): name another folder'
        print(f'make_shapes.py: error: {text}', file=sys.stderr)
        return 2
    seconds = round(time.monotonic() - start, 1)
    summary = dict(out=str(out), drawn=finished is None, seconds=seconds, classes=CLASSES, **marker)
    if args.json:
        print(json.dumps(summary, indent=2))
    else:
        report(summary)
    return 0


if __name__ == '__main__':
    sys.exit(main())
