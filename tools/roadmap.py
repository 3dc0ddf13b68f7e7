#!/usr/bin/env python
"""The road from ResNet to ConvNeXt: what each step changes, costs and is worth.

tools/roadmap.py                                    # from ResNet-50 to ConvNeXt-T, measured here
tools/roadmap.py --regime r200 --repeat 0           # from ResNet-200 to ConvNeXt-B, only counted
tools/roadmap.py --out roadmap.png                  # a picture of it
tools/roadmap.py --describe kernel_7 fewer_norms    # the blocks of two steps side by side
tools/roadmap.py --train-small --data-root data/imagenette    # trains every step made small, resumes
"""

import argparse
import json
import statistics
import sys
from functools import partial
from pathlib import Path

from benchmark_models import (
    MODES,
    here,
    in_own_process,
    make_images,
    measure_each,
    measure_memory,
    parse_shape,
    run_backbone,
    settings,
    take_turns,
)
from roadmap_blocks import print_side_by_side
from roadmap_pictures import draw_roadmap
from roadmap_training import print_small, train_small
from torch import nn

from convnext_backbone import ModernizedResNet
from convnext_backbone.analysis.roadmap import PUBLISHED, count_step, describe_change
from convnext_backbone.models.modernized_resnet import REGIMES, STEPS
from convnext_backbone.utils.cli import user_errors


def make_step(regime: str, step: str) -> nn.Module:
    """The backbone of a step on the device that is measured."""
    return ModernizedResNet(regime, step, out_norm=False).to(here())


def measure_steps(regime: str, shape: tuple[int, int, int], repeat: int) -> dict[str, dict[str, float]]:
    """Images a second in inference and training, and the peak of training in MiB an image, of each step here."""
    makers = {step: partial(make_step, regime, step) for step in PUBLISHED[regime]}
    rates = {}
    for mode in MODES:
        run = partial(run_backbone, mode=mode, dtype='fp32')
        times, _ = in_own_process(take_turns, mode, makers, partial(make_images, shape), run, repeat)
        rates[mode] = {step: shape[0] / statistics.median(found) for step, found in times.items()}
    peaks = measure_each(makers, measure_memory, shape, 'train', 'fp32')
    return {
        step: dict(infer=rates['infer'][step], train=rates['train'][step], mib=peaks[step] / shape[0])
        for step in makers
    }


def collect(args: argparse.Namespace) -> dict:
    """All that is known of the steps of a regime, and found out about them here."""
    shape = parse_shape(args.shape)
    measured = measure_steps(args.regime, shape, args.repeat) if args.repeat else {}
    rows = []
    for step, published in PUBLISHED[args.regime].items():
        cost = count_step(args.regime, step)
        row = dict(
            step=step, change=describe_change(args.regime, step), **cost._asdict(), published=published._asdict()
        )
        rows.append(row | ({'measured': measured[step]} if measured else {}))
    return dict(regime=args.regime, shape=shape, **settings(args), rows=rows)


def print_table(result: dict) -> None:
    """The steps, a line each."""
    measured = 'measured' in result['rows'][0]
    images, height, width = result['shape']
    print(f'{result["regime"]}; GFLOPs at 224x224; top-1 on ImageNet-1K as published')
    if measured:
        print(f'images/s and MiB an image here, {images}x{height}x{width}; {result["device"]}, torch {result["torch"]}')
    head = f'{"step":<22}{"what changes":<50}{"params":>9}{"GFLOPs":>8}{"paper":>7}{"top-1":>7}'
    print(head + (f'{"infer/s":>9}{"train/s":>9}{"MiB":>6}' if measured else ''))
    for row in result['rows']:
        published = row['published']
        line = f'{row["step"]:<22}{row["change"]:<50}{row["parameters"] / 1e6:8.2f}M{row["multiply_adds"] / 1e9:8.2f}'
        line += f'{published["gflops"]:7.2f}{published["top1"]:7.2f}'
        if measured:
            found = row['measured']
            line += f'{found["infer"]:9.1f}{found["train"]:9.1f}{found["mib"]:6.0f}'
        print(line)


def parse_args() -> argparse.Namespace:
    """Parses the command line."""
    parser = argparse.ArgumentParser(description='The steps from ResNet to ConvNeXt (arXiv 2201.03545, section 2).')
    parser.add_argument('--regime', choices=REGIMES, default='r50', help='(default: %(default)s)')
    parser.add_argument('--shape', default='8x224x224', metavar='NxHxW', help='what is timed (default: %(default)s)')
    parser.add_argument('--repeat', type=int, default=3, help='runs of each step; 0: none (default: %(default)s)')
    parser.add_argument('--json', action='store_true', help='print the figures as json')
    parser.add_argument('--out', type=Path, metavar='FILE', help='draw a picture of it')
    parser.add_argument('--describe', nargs=2, metavar='STEP', help='print the blocks of two steps side by side')
    small = parser.add_argument_group('every step made small, trained')
    small.add_argument('--train-small', action='store_true', help='train them; what is there already is not repeated')
    small.add_argument('--data-root', type=Path, metavar='DIR', help='a folder with train/ and val/')
    small.add_argument('--work-dir', type=Path, default='work_dirs/roadmap_small', help='(default: %(default)s)')
    small.add_argument('--steps', nargs='+', choices=STEPS, default=STEPS, metavar='STEP', help='(default: all)')
    small.add_argument('--seeds', type=int, default=3, help='runs of each step (default: %(default)s)')
    small.add_argument('--jobs', type=int, default=2, help='runs at a time (default: %(default)s)')
    return parser.parse_args()


@user_errors
def main() -> None:
    """Prints, draws or trains."""
    args = parse_args()
    if args.describe:
        print_side_by_side(args.regime, *args.describe)
        return
    result = train_small(args) if args.train_small else collect(args)
    if args.json:
        print(json.dumps(result, indent=2))
    else:
        (print_small if args.train_small else print_table)(result)
    if args.out:
        draw_roadmap(result, args.out)


if __name__ == '__main__':
    sys.exit(main())
