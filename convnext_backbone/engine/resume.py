"""Where a run goes on: the checkpoint to resume from, and a validation that was cut off."""

import contextlib
import fcntl
import math
import os
import platform
import sys
from collections.abc import Iterator
from pathlib import Path

from mmengine.config import Config
from mmengine.dist import broadcast_object_list, is_main_process
from mmengine.hooks import Hook
from mmengine.runner import IterBasedTrainLoop

from ..utils.errors import CheckpointError, UserError
from ..weights.safe_load import read_checkpoint, verify_checksums
from .checkpoint import STOPPED
from .curves import read_scalars

_TO_RESUME = ('epoch_*', 'iter_*', 'last_good_*', STOPPED)


def _iterations(path: Path) -> float:
    """How far a run was when it wrote a checkpoint; infinity where that cannot be read, -1 if it has no state."""
    try:
        return int(read_checkpoint(path)['meta']['iter'])
    except CheckpointError:
        return math.inf
    except Exception:  # in a file that no run wrote anything can be found there
        return -1


def find_checkpoints(work_dir: str | os.PathLike) -> list[Path]:
    """The checkpoints to resume from: what ``last_checkpoint`` names, then the files of the folder, furthest first.

    A kill may strike between a checkpoint and the note that names it, so the note alone is not trusted; nor are the
    times of files, as clocks jump and copies are new. Damaged ones come before whole ones: who resumes is told of them.
    """
    work_dir = Path(work_dir)
    saved = [path for kind in _TO_RESUME for path in work_dir.glob(f'{kind}.pth')]
    saved.sort(key=lambda path: (_iterations(path), path.stat().st_mtime_ns), reverse=True)
    note = work_dir / 'last_checkpoint'
    named = note.read_text().strip() if note.is_file() else ''
    for candidate in (work_dir / Path(named).name, Path(named)):  # the folder may have been moved or copied
        if named and candidate.is_file():
            return [candidate, *(path for path in saved if not path.samefile(candidate))]
    return saved


def find_checkpoint(work_dir: str | os.PathLike) -> Path | None:
    """The first of :func:`find_checkpoints`."""
    return next(iter(find_checkpoints(work_dir)), None)


def set_resume(cfg: Config, resume: str | None, if_any: bool) -> None:
    """Points the config at the checkpoint to go on from, or makes sure that no earlier run is overwritten."""
    saved = find_checkpoints(cfg.work_dir)
    # By torchrun --max-restarts, after a failure, the command is the same.
    if saved and (if_any or int(os.environ.get('TORCHELASTIC_RESTART_COUNT', 0))):
        resume = 'auto'
    if resume is None:
        if saved and not cfg.get('resume'):
            raise UserError(
                f'The work_dir {cfg.work_dir} holds a run already ({saved[0].name}): go on with --resume, or choose '
                f'another folder with --work-dir.'
            )
        return
    cfg.resume = True
    cfg.load_from = resume if resume != 'auto' else str(newest_intact(saved, cfg.work_dir))


def newest_intact(saved: list[Path], work_dir: str) -> Path:
    """The first checkpoint that is not damaged; a line tells of each that is passed over."""
    for path in saved:
        try:
            verify_checksums(path)
        except CheckpointError as error:
            print(f'warning: {error} Looking at the one before it.', file=sys.stderr)
        else:
            return path
    raise UserError(f'There is no whole checkpoint in {work_dir} to resume from: check --work-dir, or name one.')


@contextlib.contextmanager
def lock_work_dir(work_dir: str | os.PathLike) -> Iterator[None]:
    """Keeps a folder for this process; however it ends, the system gives the folder free.

    What a run that was killed had written of a checkpoint is removed.

    Raises:
        UserError: Another run has it.
    """
    with (Path(work_dir) / '.lock').open('a+') as file:
        try:
            # Not flock, which the workers of a loader would hold for some seconds longer than a run that was killed.
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError) as error:
            file.seek(0)
            raise UserError(
                f'The work_dir {work_dir} is in use by another run ({file.read()}): wait for its end, or choose '
                f'another folder with --work-dir.'
            ) from error
        except OSError:  # of a file system that has no locks
            pass
        else:
            for kind in (*_TO_RESUME, 'best_*'):
                for path in Path(work_dir).glob(f'.{kind}.pth.*.tmp'):
                    path.unlink(missing_ok=True)
        file.truncate(0)
        file.write(f'process {os.getpid()} on {platform.node()}')
        file.flush()
        yield


class LateValidationHook(Hook):
    """On a resume, makes up for a validation that was cut off.

    A checkpoint is saved before it is validated, and a run goes on behind that: its scores would be missing, and with
    them perhaps the best checkpoint.
    """

    priority = 'VERY_LOW'  # all others are ready

    def before_train(self, runner: object) -> None:
        """Validates, if the checkpoint was to be validated and the folder of the run has no scores of it."""
        loop = runner.train_loop
        if isinstance(loop, IterBasedTrainLoop):
            done, end = runner.iter, loop.max_iters
        else:
            done, end = runner.epoch, loop.max_epochs
            if runner.iter != runner.epoch * len(runner.train_dataloader):  # within an epoch
                return
        due = runner.val_loop is not None and done >= loop.val_begin and (done % loop.val_interval == 0 or done == end)
        if not done or not due:
            return
        missing = [False]
        if is_main_process():  # which wrote the scores
            trained, validated = read_scalars(runner.work_dir)
            missing = [bool(trained) and done not in validated]
        broadcast_object_list(missing)
        if missing[0]:
            runner.logger.info('The last validation was cut off: it is done now.')
            runner.val_loop.run()
