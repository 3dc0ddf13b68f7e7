"""Training of every step from ResNet to ConvNeXt made small, with several seeds."""

import argparse
import statistics

from benchmarks.report import print_table
from benchmarks.training_runs import ROOT, Run, train_all
from mmengine.config import Config

from convnext_backbone.utils.errors import UserError


def _plan(step: str, seed: int, args: argparse.Namespace) -> Run:
    config = f'roadmap/small/{step}'
    epochs = Config.fromfile(ROOT / f'configs/{config}.py').train_cfg.max_epochs
    flags = ('--data-root', args.data_root, '--cfg-options', f'randomness.seed={seed}')
    return Run(config, args.work_dir / step / f'seed_{seed}', flags, 'accuracy/top1', epochs)


def train_small(args: argparse.Namespace) -> dict:
    """Train all steps and return their scores: top-1 in percent."""
    if args.data_root is None:
        raise UserError('--train-small needs images: name a folder with train/ and val/ by --data-root.')
    # All steps with one seed before the next seed: a whole table is there early.
    runs = [(step, seed) for seed in range(args.seeds) for step in args.steps]
    found = train_all([_plan(step, seed, args) for step, seed in runs], args.jobs)
    scores = dict(zip(runs, found, strict=True))
    rows = []
    for step in args.steps:
        top1 = [100 * scores[step, seed] for seed in range(args.seeds)]
        std = statistics.stdev(top1) if len(top1) > 1 else 0.0
        rows.append(dict(step=step, top1=top1, mean=statistics.mean(top1), std=std))
    return dict(regime='small', seeds=args.seeds, rows=rows)


def print_small(result: dict) -> None:
    """Print a line for each step."""
    print(f'Tiny: a quarter of the width, 1,000 images. Top-1 in percent, mean of {result["seeds"]} seeds.')
    rows = [
        [row['step'], f'{row["mean"]:.1f}', f'{row["std"]:.1f}', '  '.join(f'{score:.1f}' for score in row['top1'])]
        for row in result['rows']
    ]
    print_table([['step', 'mean', 'std', 'seeds'], *rows])
