"""Trains every step from ResNet to ConvNeXt made small, each with several seeds."""

import argparse
import os
import statistics
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from mmengine.config import Config
from tqdm import tqdm

from convnext_backbone.engine.curves import read_scalars
from convnext_backbone.engine.resume import find_checkpoint
from convnext_backbone.utils.errors import UserError

TOOLS = Path(__file__).resolve().parent
CONFIGS = TOOLS.parent / 'configs/roadmap/small'
SCORE = 'accuracy/top1'


def final_score(work_dir: Path, epochs: int) -> float | None:
    """Top-1 in percent after the last epoch; None for a run that has not come so far."""
    _, validation = read_scalars(work_dir)
    score = validation.get(epochs, {}).get(SCORE)
    return None if score is None else 100 * score


def train(step: str, seed: int, args: argparse.Namespace, threads: int) -> float:
    """One run, or what is left of it; its top-1 in percent.

    Raises:
        UserError: It failed.
    """
    config, work_dir = CONFIGS / f'{step}.py', args.work_dir / step / f'seed_{seed}'
    epochs = Config.fromfile(config).train_cfg.max_epochs
    score = final_score(work_dir, epochs)
    if score is not None:
        return score
    work_dir.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, TOOLS / 'train.py', config, '--data-root', args.data_root, '--work-dir', work_dir]
    command += ['--cfg-options', f'randomness.seed={seed}']
    if find_checkpoint(work_dir) is not None:
        command.append('--resume')
    log = work_dir / 'output.log'
    with log.open('a') as file:
        environment = {**os.environ, 'OMP_NUM_THREADS': str(threads)}
        subprocess.run([*map(str, command)], stdout=file, stderr=subprocess.STDOUT, env=environment, check=False)
    score = final_score(work_dir, epochs)
    if score is None:
        last = log.read_text().strip().rpartition('\n')[2].removeprefix('error: ')
        raise UserError(f'The run {work_dir} failed ({last}): see {log}, then give the same command again.')
    return score


def train_small(args: argparse.Namespace) -> dict:
    """Trains all steps; runs that are there already are only read.

    Raises:
        UserError: No data are named, or a run failed.
    """
    if args.data_root is None:
        raise UserError('--train-small needs photographs: name a folder with train/ and val/ by --data-root.')
    threads = max(1, (os.cpu_count() or 1) // args.jobs)
    # All steps with one seed before the next seed: what is there early is a whole table.
    runs = [(step, seed) for seed in range(args.seeds) for step in args.steps]
    scores: dict[str, list[float]] = {step: [] for step in args.steps}
    with ThreadPoolExecutor(args.jobs) as pool, tqdm(total=len(runs), desc='Runs', unit='run') as progress:
        futures = []
        for step, seed in runs:
            future = pool.submit(train, step, seed, args, threads)
            future.add_done_callback(lambda _: progress.update())
            futures.append(future)
        try:
            for (step, _), future in zip(runs, futures, strict=True):
                scores[step].append(future.result())
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise
    rows = [
        dict(step=step, top1=found, mean=statistics.mean(found), std=statistics.stdev(found) if found[1:] else 0.0)
        for step, found in scores.items()
    ]
    return dict(regime='small', seeds=args.seeds, rows=rows)


def print_small(result: dict) -> None:
    """The steps, a line each."""
    print(f'Tiny: a quarter of the width, 1,000 photographs. Top-1 in percent, mean of {result["seeds"]} seeds.')
    print(f'{"step":<22}{"mean":>7}{"std":>6}   seeds')
    for row in result['rows']:
        print(f'{row["step"]:<22}{row["mean"]:7.1f}{row["std"]:6.1f}   {"  ".join(f"{x:.1f}" for x in row["top1"])}')
