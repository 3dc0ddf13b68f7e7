#!/usr/bin/env python
"""The steps from ResNet to ConvNeXt: what each changes, costs and is worth.

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

if __name__ == '__main__':  # before what takes seconds to import
    import interruptible  # noqa: F401

from benchmarks.measuring import Shape, conditions, device, measure_alone, parse_shape
from benchmarks.models import MODES, make_images, measure_peaks, run_backbone, time_models
from benchmarks.report import Bars, check_picture, draw_bars, print_result
from roadmaps.blocks import print_side_by_side
from roadmaps.training import print_small, train_small
from torch import nn

from convnext_backbone import ModernizedResNet
from convnext_backbone.analysis.roadmap import count_step, describe_change, read_published
from convnext_backbone.models.modernized_resnet import REGIMES, STEPS
from convnext_backbone.utils.cli import user_errors
from convnext_backbone.utils.validation import COUNT, integers

CONFIGS = Path(__file__).resolve().parents[1] / 'configs'


def make_step(regime: str, step: str) -> nn.Module:
    """The backbone of a step on the device that is measured."""
    return ModernizedResNet(regime, step, out_norm=False).to(device())


def measure_steps(regime: str, shape: Shape, repeat: int) -> dict[str, dict[str, float]]:
    """Of each step here: images a second in inference and training, and peak memory of training in MiB an image."""
    makers = {step: partial(make_step, regime, step) for step in STEPS}
    runs = {mode: partial(run_backbone, mode=mode, dtype='fp32') for mode in MODES}
    inputs = partial(make_images, shape)
    times = {mode: measure_alone(time_models, mode, makers, inputs, run, repeat) for mode, run in runs.items()}
    peaks = measure_peaks(makers, make_images, runs['train'], shape)
    rates = {step: {mode: shape[0] / statistics.median(times[mode][step]) for mode in MODES} for step in makers}
    return {step: dict(**rates[step], mib=peaks[step] / shape[0]) for step in makers}


def collect(args: argparse.Namespace) -> dict:
    """What the paper says of the steps, their cost, and what is measured here."""
    shape = parse_shape(args.shape)
    measured = measure_steps(args.regime, shape, args.repeat) if args.repeat else {}
    rows = []
    for step, published in read_published(CONFIGS)[args.regime].items():
        row = dict(step=step, change=describe_change(args.regime, step), **count_step(args.regime, step)._asdict())
        row |= dict(published=published._asdict())
        rows.append(row | (dict(measured=measured[step]) if measured else {}))
    return dict(regime=args.regime, shape=shape, **conditions(args.repeat), rows=rows)


def draw_steps(result: dict, path: Path) -> None:
    """Draw a row of bars for each step, as in the paper's figure 2."""
    rows, steps = result['rows'], [row['step'] for row in result['rows']]
    if result['regime'] == 'small':
        std = [row['std'] for row in rows]
        panels = [Bars('top-1 of the small runs, %', steps, [row['mean'] for row in rows], errors=std)]
    else:
        top1 = [row['published']['top1'] for row in rows]
        panels = [Bars('published top-1, %', steps, top1, start=min(top1) - 1)]  # from 0 on all would look the same
        panels.append(Bars('GFLOPs', steps, [row['multiply_adds'] / 1e9 for row in rows], '%.2f'))
        if 'measured' in rows[0]:
            panels.append(Bars('images/s in training, here', steps, [row['measured']['train'] for row in rows]))
    draw_bars([panels], ['tab:gray', *['tab:blue'] * (len(steps) - 2), 'tab:orange'], '', path)


def parse_args() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description='The steps from ResNet to ConvNeXt (arXiv 2201.03545, section 2).')
    parser.add_argument('--regime', choices=REGIMES, default='r50', help='(default: %(default)s)')
    parser.add_argument('--shape', default='8x224x224', metavar='NxHxW', help='what is timed (default: %(default)s)')
    parser.add_argument('--repeat', type=int, default=3, help='runs of each step; 0: none (default: %(default)s)')
    parser.add_argument('--json', action='store_true', help='print the figures as json')
    parser.add_argument('--out', type=Path, metavar='FILE', help='draw the result as a picture')
    parser.add_argument('--describe', nargs=2, metavar='STEP', help='print the blocks of two steps side by side')
    small = parser.add_argument_group('training of every step made small')
    small.add_argument('--train-small', action='store_true', help='train them; finished runs are not repeated')
    small.add_argument('--data-root', type=Path, metavar='DIR', help='a folder with train/ and val/')
    small.add_argument('--work-dir', type=Path, default='work_dirs/roadmap_small', help='(default: %(default)s)')
    small.add_argument('--steps', nargs='+', choices=STEPS, default=STEPS, metavar='STEP', help='(default: all)')
    small.add_argument('--seeds', type=int, default=3, help='runs of each step (default: %(default)s)')
    small.add_argument('--jobs', type=int, default=2, help='runs at a time (default: %(default)s)')
    return parser.parse_args()


@user_errors
def main() -> None:
    """Print, draw or train."""
    args = parse_args()
    for name in ('seeds', 'jobs'):
        COUNT.check(f'--{name}', getattr(args, name))
    integers(0).check('--repeat', args.repeat)
    if args.describe:
        print_side_by_side(args.regime, *args.describe)
        return
    if args.out:
        check_picture(args.out)
    result = train_small(args) if args.train_small else collect(args)
    if args.json:
        print(json.dumps(result, indent=2))
    else:
        (print_small if args.train_small else print_result)(result)
    if args.out:
        draw_steps(result, args.out)


if __name__ == '__main__':
    sys.exit(main())
