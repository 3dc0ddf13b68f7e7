#!/usr/bin/env python
"""Trains a detector, a segmentor or a classifier from a config.

tools/train.py configs/cascade_convnext_t_coco.py --data-root /path/to/coco
tools/train.py configs/cascade_convnext_t_coco.py --resume          # from the last checkpoint
tools/train.py --list                                               # the configs of this repository
"""

import argparse
import contextlib
import os
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import NoReturn

if __name__ == '__main__':  # before what takes seconds to import
    import interruptible  # noqa: F401

from mmengine.hooks import iter_timer_hook
from mmengine.registry import RUNNERS

from convnext_backbone.config.check_data import check_data
from convnext_backbone.config.failures import explain_failures
from convnext_backbone.config.load import prepare_config
from convnext_backbone.config.own_data import add_annotation_flags
from convnext_backbone.config.recipes import list_recipes
from convnext_backbone.config.schedule import add_schedule_flags
from convnext_backbone.engine.resume import lock_work_dir, set_resume
from convnext_backbone.utils.cli import add_launcher, common_parser, is_first_process, user_errors
from convnext_backbone.utils.files import check_work_dir


class ListAction(argparse.Action):
    """Prints the configs of this repository as paths from the working directory, and exits."""

    def __call__(self, parser: argparse.ArgumentParser, *args: object) -> NoReturn:
        """Print."""
        recipes = list_recipes(Path(__file__).resolve().parents[1] / 'configs')
        paths = [min(os.path.relpath(recipe.path), str(recipe.path), key=len) for recipe in recipes]
        task = None
        for recipe, path in zip(recipes, paths, strict=True):
            if recipe.task != task:
                task = recipe.task
                print(task)
            print(f'  {path:{max(map(len, paths))}}  {recipe.purpose}')
        parser.exit()


def parse_args() -> argparse.Namespace:
    """Parse the command line."""
    parser = common_parser('Train a model from a config.')
    parser.add_argument('--list', action=ListAction, nargs=0, help='print the configs of this repository, and exit')
    resume = 'resume from a checkpoint, by default from the last one of the work_dir'
    load_from = (
        'start from a file or address of weights of a whole model; where it has other classes, its heads start anew'
    )
    start = parser.add_mutually_exclusive_group()
    start.add_argument('--resume', nargs='?', const='auto', metavar='PATH', help=resume)
    start.add_argument('--load-from', metavar='PATH', help=load_from)
    auto_resume = 'resume if the work_dir has a checkpoint, else start, for schedulers that repeat a command'
    parser.add_argument('--auto-resume', action='store_true', help=auto_resume)
    parser.add_argument('--amp', action='store_true', help='mixed precision')
    parser.add_argument('--auto-scale-lr', action='store_true', help='scale the learning rate with the batch size')
    add_annotation_flags(parser)
    add_schedule_flags(parser)
    add_launcher(parser)
    return parser.parse_args()


@user_errors
def main() -> None:
    """Train."""
    args = parse_args()
    # mmengine's hook reads the time of day: where the clock jumps, times and ETA in the log would be wrong.
    iter_timer_hook.time = SimpleNamespace(time=time.monotonic)
    cfg = prepare_config(args)
    check_data(cfg)
    check_work_dir(cfg.work_dir)
    lock = lock_work_dir(cfg.work_dir) if is_first_process() else contextlib.nullcontext()
    with explain_failures(cfg), lock:
        set_resume(cfg, args.resume, args.auto_resume)
        RUNNERS.build(cfg).train()
    print(f'Done: checkpoints, logs and curves.png are in {Path(cfg.work_dir).absolute()}')


if __name__ == '__main__':
    sys.exit(main())
