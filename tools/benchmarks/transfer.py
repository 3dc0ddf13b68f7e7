"""What pre-training is worth where labels are few: fine-tuned from random weights, from FCMAE, and from labels."""

import argparse
import csv
import random
import re
import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from convnext_backbone.utils.errors import UserError

from .measuring import conditions
from .report import Benchmark
from .training_runs import Run, train_all

RANDOM, FCMAE, SUPERVISED = 'random weights', 'FCMAE, no labels', 'supervised'
_V2 = 'model.backbone.use_grn=True'
_FOLDERS = {FCMAE: 'fcmae', SUPERVISED: 'supervised'}
_CLASSIFIER, _AUTOENCODER = 'demo/pretrain_convnext_atto_imagenette', 'demo/fcmae_convnext_v2_atto_shapes'
_SUPERVISED_EPOCHS = 36


class Task(NamedTuple):
    """What is fine-tuned, the same number of steps from each start."""

    config: str
    data: str  # below the data root
    score: str
    iters: int
    labels: int | None = None  # of each class; None: all


TASKS = {
    **{
        f'imagenette, {n} labels a class': Task(_CLASSIFIER, 'imagenette', 'accuracy/top1', 200, n)
        for n in (10, 30, 100)
    },
    'CamVid, mIoU': Task('demo/upernet_convnext_atto_camvid', 'camvid', 'mIoU', 200),
    'coco8, box AP': Task('demo/cascade_convnext_atto_coco8', 'coco', 'coco/bbox_mAP', 80),
}


def _plan_pretraining(args: argparse.Namespace) -> list[Run]:
    """FCMAE sees the photographs of all three sets, the supervised run those of imagenette with all of their labels."""
    fcmae = ('--data-root', args.data_root, '--epochs', args.epochs)
    length = ('--epochs', _SUPERVISED_EPOCHS) if args.iters is None else ('--iters', args.iters)
    supervised = ('--data-root', args.data_root / 'imagenette', *length, '--cfg-options', _V2)
    return [
        Run(_AUTOENCODER, args.work_dir / _FOLDERS[FCMAE], fcmae, 'reconstruction/loss', args.epochs),
        Run(_CLASSIFIER, args.work_dir / _FOLDERS[SUPERVISED], supervised, 'accuracy/top1', length[1]),
    ]


def _plan(name: str, start: str, seed: int, args: argparse.Namespace) -> Run:
    """Fine-tuning of a task; the seed draws the labelled images, the head's weights, and the order of the images."""
    task = TASKS[name]
    iters = args.iters or task.iters
    folder = args.work_dir / re.sub(r'\W+', '_', f'{name} from {start} {seed}')
    flags = ['--data-root', args.data_root / task.data, '--iters', iters]
    if task.labels:
        flags += ['--batch-size', 16, '--batch-size-total', 16]
        flags += ['--train-ann', _draw_labels(args, task.labels, seed), '--val-ann', _list(args, 'val')]
    options = [_V2, f'randomness.seed={seed}']
    options += [f'{place}={iters}' for place in ('train_cfg.val_interval', 'default_hooks.checkpoint.interval')]
    if start != RANDOM:
        checkpoint = (args.work_dir / _FOLDERS[start] / 'last_checkpoint').read_text()
        options += ['model.backbone.init_cfg.type=Pretrained', f'model.backbone.init_cfg.checkpoint={checkpoint}']
    return Run(task.config, folder, (*flags, '--cfg-options', *options), task.score, iters)


def _labelled(args: argparse.Namespace, split: str) -> Iterator[tuple[str, list[Path]]]:
    for folder in sorted((args.data_root / 'imagenette' / split).iterdir()):
        yield folder.name, sorted(folder.iterdir())


def _draw_labels(args: argparse.Namespace, number: int, seed: int) -> Path:
    """A table of so many training images of each class."""
    rng = random.Random(seed)
    rows = [(path, name) for name, paths in _labelled(args, 'train') for path in rng.sample(paths, number)]
    return _write(args, f'train_{number}_{seed}', rows)


def _list(args: argparse.Namespace, split: str) -> Path:
    return _write(args, split, [(path, name) for name, paths in _labelled(args, split) for path in paths])


def _write(args: argparse.Namespace, name: str, rows: list[tuple[Path, str]]) -> Path:
    path = args.work_dir / f'{name}.csv'
    with path.open('w', newline='') as file:
        writer = csv.writer(file)
        writer.writerow(['image', 'label'])
        writer.writerows((image.relative_to(args.data_root / 'imagenette'), label) for image, label in rows)
    return path


def _measure(args: argparse.Namespace) -> dict:
    for data in sorted({task.data for task in TASKS.values()}):
        if not (args.data_root / data).is_dir():
            raise UserError(f'--data-root {args.data_root} has no folder {data}: docs/recipes.md says what is read.')
    args.data_root, args.work_dir = args.data_root.resolve(), args.work_dir.resolve()
    args.work_dir.mkdir(parents=True, exist_ok=True)
    train_all(_plan_pretraining(args), args.jobs)
    # All tasks with one seed before the next seed: a whole table is there early.
    cells = [
        (name, start, seed) for seed in range(args.repeat) for name in TASKS for start in (RANDOM, FCMAE, SUPERVISED)
    ]
    found = dict(zip(cells, train_all([_plan(*cell, args) for cell in cells], args.jobs), strict=True))
    rows = []
    for name in TASKS:
        for start in (RANDOM, FCMAE, SUPERVISED):
            scores = [found[name, start, seed] for seed in range(args.repeat)]
            row = dict(task=name, start=start, mean=statistics.mean(scores), lowest=min(scores), highest=max(scores))
            rows.append(row | dict(scores=scores))
    return dict(epochs=args.epochs, **conditions(args.repeat), rows=rows)


TRANSFER = Benchmark(
    'what pre-training is worth where labels are few: an hour or two of training runs; finished ones are not repeated',
    {
        '--data-root': dict(type=Path, required=True, metavar='DIR', help='folder of imagenette/, camvid/ and coco/'),
        '--work-dir': dict(type=Path, default=Path('work_dirs/transfer'), metavar='DIR', help='of all runs'),
        '--epochs': dict(type=int, default=100, help='of FCMAE'),
        '--iters': dict(type=int, help='of supervised training and of fine-tuning, in place of their own lengths'),
        '--jobs': dict(type=int, default=2, help='runs at a time'),
    },
    _measure,
)
