"""Training of every step from ResNet to ConvNeXt made small, with several seeds."""

import argparse
import os
import statistics
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from benchmarks.report import print_table
from mmengine.config import Config
from tqdm import tqdm

from convnext_backbone.engine.curves import read_scalars
from convnext_backbone.utils.errors import UserError
from convnext_backbone.utils.files import remove_link

ROOT = Path(__file__).resolve().parents[2]


def _final_score(work_dir: Path, epochs: int) -> float | None:
    """Top-1 in percent after the last epoch; None for an unfinished run."""
    _, validation = read_scalars(work_dir)
    score = validation.get(epochs, {}).get('accuracy/top1')
    return None if score is None else 100 * score


def _train(step: str, seed: int, args: argparse.Namespace) -> float:
    """Train or resume one run, or only read its score where it is finished; top-1 in percent."""
    config, work_dir = ROOT / f'configs/roadmap/small/{step}.py', args.work_dir / step / f'seed_{seed}'
    epochs = Config.fromfile(config).train_cfg.max_epochs
    score = _final_score(work_dir, epochs)
    if score is not None:
        return score
    work_dir.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, ROOT / 'tools/train.py', config, '--data-root', args.data_root, '--work-dir', work_dir]
    command += ['--auto-resume', '--cfg-options', f'randomness.seed={seed}']
    environment = dict(os.environ, OMP_NUM_THREADS=str(max(1, (os.cpu_count() or 1) // args.jobs)))
    log = remove_link(work_dir / 'output.log')
    with log.open('a') as file:
        subprocess.run([*map(str, command)], stdout=file, stderr=subprocess.STDOUT, env=environment, check=False)
    score = _final_score(work_dir, epochs)
    if score is None:
        last = log.read_text(errors='replace').strip().rpartition('\n')[2].removeprefix('error: ')
        raise UserError(f'The run {work_dir} failed ({last}): see {log}, then give the same command again.')
    return score


def train_small(args: argparse.Namespace) -> dict:
    """Train all steps and return their scores."""
    if args.data_root is None:
        raise UserError('--train-small needs images: name a folder with train/ and val/ by --data-root.')
    # All steps with one seed before the next seed: a whole table is there early.
    runs = [(step, seed) for seed in range(args.seeds) for step in args.steps]
    with ThreadPoolExecutor(args.jobs) as pool:  # map cancels what has not begun where a run fails
        found = pool.map(lambda run: _train(*run, args), runs)
        scores = dict(zip(runs, tqdm(found, total=len(runs), desc='Runs', unit='run'), strict=True))
    rows = []
    for step in args.steps:
        top1 = [scores[step, seed] for seed in range(args.seeds)]
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
