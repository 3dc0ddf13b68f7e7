"""Short trainings by tools/train.py, many of them: finished ones are not repeated, killed ones go on."""

import os
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from tqdm import tqdm

from convnext_backbone.engine.curves import read_scalars
from convnext_backbone.utils.errors import UserError
from convnext_backbone.utils.files import remove_link

ROOT = Path(__file__).resolve().parents[2]


class Run(NamedTuple):
    """A training, and the score that it is for."""

    config: str  # below configs/, without its suffix
    work_dir: Path
    flags: tuple[object, ...]  # of tools/train.py
    score: str  # as validation logs it
    end: int  # the epoch or iteration of the last validation
    processes: int = 1


def _final_score(run: Run) -> float | None:
    """The score after the last epoch or iteration; None for an unfinished run."""
    _, validation = read_scalars(run.work_dir)
    return validation.get(run.end, {}).get(run.score)


def _train(run: Run, jobs: int) -> float:
    """Train or resume a run, or only read its score where it is finished."""
    score = _final_score(run)
    if score is not None:
        return score
    run.work_dir.mkdir(parents=True, exist_ok=True)
    command = [ROOT / 'tools/train.py', ROOT / f'configs/{run.config}.py', '--work-dir', run.work_dir]
    if run.processes > 1:
        torchrun = ['-m', 'torch.distributed.run', '--standalone', '--nproc-per-node', run.processes]
        command = [*torchrun, *command, '--launcher', 'pytorch']
    threads = max(1, (os.cpu_count() or 1) // (jobs * run.processes))
    environment = dict(os.environ, OMP_NUM_THREADS=str(threads))
    log = remove_link(run.work_dir / 'output.log')
    with log.open('a') as file:
        arguments = [*map(str, [sys.executable, *command, '--auto-resume', *run.flags])]
        subprocess.run(arguments, stdout=file, stderr=subprocess.STDOUT, env=environment, check=False)
    score = _final_score(run)
    if score is None:
        last = log.read_text(errors='replace').strip().rpartition('\n')[2].removeprefix('error: ')
        raise UserError(
            f'The run {run.work_dir} failed, without {run.score} ({last}): see {log}, then give the same command again.'
        )
    return score


def train_all(runs: Sequence[Run], jobs: int) -> list[float]:
    """Train runs, so many at a time; returns their scores.

    Raises:
        UserError: A run failed; those that have not begun are left out.
    """
    with ThreadPoolExecutor(jobs) as pool:  # map cancels what has not begun where a run fails
        found = pool.map(lambda run: _train(run, jobs), runs)
        return [*tqdm(found, total=len(runs), desc='Runs', unit='run')]
