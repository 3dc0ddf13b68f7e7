"""What pre-training is worth where labels are few: fine-tuned from random weights, from FCMAE, and from labels."""

import argparse
import csv
import random
import re
import statistics
from pathlib import Path
from typing import NamedTuple

from convnext_backbone.utils.errors import UserError

from .measuring import conditions, device
from .report import Benchmark
from .training_runs import Run, train_all

RANDOM, FCMAE, SUPERVISED = 'random weights', 'FCMAE, no labels', 'supervised'
_V2 = 'model.backbone.use_grn=True'
_FOLDERS = {FCMAE: 'fcmae', SUPERVISED: 'supervised'}
_CLASSIFIER, _AUTOENCODER = 'demo/pretrain_convnext_atto_imagenette', 'demo/fcmae_convnext_v2_atto_shapes'
_SUPERVISED_EPOCHS = 36
# Of FCMAE, which a narrower decoder and a process for each core make 1.4 times as fast as the recipe is on two cores.
_BATCH, _LR, _DECODER = 128, 2e-3, 256


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
    processes = args.jobs if device().type == 'cpu' else 1  # a GPU takes one
    fcmae = ('--data-root', args.data_root, '--epochs', args.epochs, '--batch-size', _BATCH // processes, '--lr', _LR)
    fcmae += ('--cfg-options', f'model.decoder_dim={_DECODER}')
    folder = args.work_dir / _FOLDERS[FCMAE]
    length = ('--epochs', _SUPERVISED_EPOCHS) if args.iters is None else ('--iters', args.iters)
    supervised = ('--data-root', args.data_root / 'imagenette', *length, '--cfg-options', _V2)
    return [
        Run(_AUTOENCODER, folder, fcmae, 'reconstruction/loss', args.epochs, processes=processes),
        Run(_CLASSIFIER, args.work_dir / _FOLDERS[SUPERVISED], supervised, 'accuracy/top1', length[1]),
    ]


def _plan(name: str, start: str, seed: int, args: argparse.Namespace) -> Run:
    """Fine-tuning of a task; the seed draws the labelled images, the head's weights, and the order of the images."""
    task = TASKS[name]
    iters = task.iters if args.iters is None else args.iters
    folder = args.work_dir / re.sub(r'\W+', '_', f'{name} from {start} {seed}')
    flags = ['--data-root', args.data_root / task.data, '--iters', iters]
    if task.labels:
        flags += ['--batch-size', 16, '--batch-size-total', 16]
        flags += ['--train-ann', _write_table(args, 'train', task.labels, seed), '--val-ann', _write_table(args, 'val')]
    options = [_V2, f'randomness.seed={seed}']
    options += [f'{place}={iters}' for place in ('train_cfg.val_interval', 'default_hooks.checkpoint.interval')]
    if start != RANDOM:
        checkpoint = (args.work_dir / _FOLDERS[start] / 'last_checkpoint').read_text()
        options += ['model.backbone.init_cfg.type=Pretrained', f'model.backbone.init_cfg.checkpoint={checkpoint}']
    return Run(task.config, folder, (*flags, '--cfg-options', *options), task.score, iters)


def _write_table(args: argparse.Namespace, split: str, number: int | None = None, seed: int = 0) -> Path:
    """A table of all photographs of imagenette's split, or of so many that are drawn of each class."""
    root, rng = args.data_root / 'imagenette', random.Random(seed)
    path = args.work_dir / (f'{split}.csv' if number is None else f'{split}_{number}_{seed}.csv')
    with path.open('w', newline='') as file:
        writer = csv.writer(file)
        writer.writerow(['image', 'label'])
        for folder in sorted((root / split).iterdir()):
            images = sorted(folder.iterdir())
            drawn = images if number is None else rng.sample(images, number)
            writer.writerows((image.relative_to(root), folder.name) for image in drawn)
    return path


def _measure(args: argparse.Namespace) -> dict:
    for data in sorted({task.data for task in TASKS.values()}):
        if not (args.data_root / data).is_dir():
            raise UserError(
                f'--data-root {args.data_root} has no folder {data}: docs/pretraining.md says what is read.'
            )
    args.data_root, args.work_dir = args.data_root.resolve(), args.work_dir.resolve()
    args.work_dir.mkdir(parents=True, exist_ok=True)
    train_all(_plan_pretraining(args), jobs=1)  # which has all cores
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
        '--epochs': dict(type=int, default=360, help='of FCMAE'),
        '--iters': dict(type=int, help='of supervised training and of fine-tuning, in place of their own lengths'),
        '--jobs': dict(type=int, default=2, help='runs at a time, and processes of FCMAE on a CPU'),
    },
    _measure,
)
