"""Deterministic resume: which checkpoint to resume from, and how a run continues exactly where that one was written."""

import contextlib
import fcntl
import math
import os
import platform
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.dataset import InfiniteSampler
from mmengine.dist import broadcast_object_list, is_main_process
from mmengine.hooks import Hook
from mmengine.runner import IterBasedTrainLoop, Runner

from ..datasets.seeded_loader import FastForwardIterator, SeededLoader
from ..datasets.shard_stream import ImageStream
from ..utils.errors import CheckpointError, UserError, printable
from ..weights.safe_load import read_checkpoint, verify_checksums
from .checkpoint import STOPPED
from .curves import read_scalars

_TO_RESUME = ('epoch_*', 'iter_*', 'last_good_*', STOPPED)


def find_checkpoints(work_dir: str | os.PathLike) -> list[Path]:
    """The checkpoints to resume from: the one that ``last_checkpoint`` names, then those of the folder, latest first.

    A kill may strike between writing a checkpoint and the file that names it, so that file alone is not trusted; nor
    are modification times, as clocks jump and copies are new. Damaged files come first, so that users hear of them.
    """
    work_dir = Path(work_dir)
    saved = [path for kind in _TO_RESUME for path in work_dir.glob(f'{kind}.pth') if os.path.isfile(path)]
    saved.sort(key=lambda path: (count_iterations(path), path.stat().st_mtime_ns), reverse=True)
    note = work_dir / 'last_checkpoint'
    named = os.fsdecode(note.read_bytes()).strip() if note.is_file() else ''  # names of files need not be UTF-8
    for candidate in (work_dir / Path(named).name, Path(named)):  # the folder may have been moved or copied
        if named and os.path.isfile(candidate):
            return [candidate, *(path for path in saved if not path.samefile(candidate))]
    return saved


def count_iterations(path: Path) -> float:
    """The iterations behind a checkpoint; infinity for a damaged file, -1 for one that holds no training state."""
    try:
        return int(read_checkpoint(path)['meta']['iter'])
    except CheckpointError:
        return math.inf
    except Exception:  # a file that no run wrote may hold anything
        return -1


def set_resume(cfg: Config, resume: str | None, if_any: bool) -> None:
    """Set the checkpoint to resume from in a config, or make sure that a new run overwrites no earlier one.

    Args:
        cfg: Changed in place.
        resume: A path, ``'auto'`` for the last checkpoint of the work_dir, or None for a new run.
        if_any: Resume from the last checkpoint if there is one.
    """
    saved = find_checkpoints(cfg.work_dir)
    # After a failure, torchrun --max-restarts repeats the same command.
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
    cfg.load_from = resume if resume != 'auto' else str(_newest_intact(saved, cfg.work_dir))


def _newest_intact(saved: list[Path], work_dir: str) -> Path:
    """The first checkpoint that is not damaged; warns of those that it passes over."""
    for path in saved:
        try:
            verify_checksums(path)
        except CheckpointError as error:
            print(f'warning: {error} Looking at the one before it.', file=sys.stderr)
        else:
            return path
    raise UserError(f'There is no intact checkpoint in {work_dir} to resume from: check --work-dir, or name one.')


@contextlib.contextmanager
def lock_work_dir(work_dir: str | os.PathLike) -> Iterator[None]:
    """Lock a folder for this process, and remove partially written checkpoints; the lock ends with the process.

    Raises:
        UserError: Another run holds the lock.
    """
    path = Path(work_dir) / '.lock'
    if path.is_symlink():  # which would be followed
        path.unlink()
    with path.open('a+', errors='replace') as file:
        try:
            # Not flock, which the workers of a loader would hold for some seconds longer than a run that was killed.
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError) as error:
            file.seek(0)
            raise UserError(
                f'The work_dir {work_dir} is in use by another run ({printable(file.read(300))}): wait for its end, or '
                f'choose another folder with --work-dir.'
            ) from error
        except OSError:  # a file system without locks
            pass
        else:
            for kind in (*_TO_RESUME, 'best_*'):
                for partial in Path(work_dir).glob(f'.{kind}.pth.*.tmp'):
                    partial.unlink(missing_ok=True)
        if os.stat(path).st_nlink == 1:  # and no hard link to a file of somebody else's
            file.truncate(0)
            file.write(f'process {os.getpid()} on {platform.node()}')
            file.flush()
        yield


def count_images(dataset: Any) -> int:
    """The images of a data set, in all processes together."""
    return sum(dataset.shard_lengths) if isinstance(dataset, ImageStream) else len(dataset)


def set_place(runner: Runner, meta: dict, source: str) -> None:
    """Set the iteration of a resumed run, whose data or batches may be others than when the checkpoint was written.

    Raises:
        CheckpointError: It was trained for longer than the run is to be, its counters contradict each other, it lies
            within an epoch of other data, or no batch begins at its image.
    """
    loop, loader = runner.train_loop, runner.train_dataloader
    by_epochs = not isinstance(loop, IterBasedTrainLoop)
    done, limit = (runner.epoch, loop.max_epochs) if by_epochs else (runner.iter, loop.max_iters)
    if done > limit:
        setting = f'train_cfg.{"max_epochs" if by_epochs else "max_iters"}={limit}'
        raise CheckpointError(
            f'The checkpoint {printable(source)} was trained for longer than {setting}, for {done}: raise that, or use '
            f'the checkpoint as it is.'
        )
    images, size = count_images(loader.dataset), runner._images_per_batch
    before = meta.get('images', images), meta.get('images_per_batch', size)
    if by_epochs:
        loop._iter = runner.epoch * len(loader) + _find_batch(runner, meta, (images, size), before, source)
    if images != before[0]:
        runner.logger.info(f'Other data: {images} training images, not {before[0]}. This is iteration {runner.iter}.')
    if size != before[1]:
        runner.logger.info(f'Batches of {size} images, and not of {before[1]}: this is iteration {runner.iter}.')


def _find_batch(runner: Runner, meta: dict, now: tuple[int, int], before: tuple[int, int], source: str) -> int:
    """The batches of its epoch that a run has behind it; with the images of the data and of a batch, now and before."""
    loader, batches = runner.train_dataloader, meta.get('batches_per_epoch') or _guess_batches(runner)
    done = runner.iter - runner.epoch * batches
    if not 0 <= done <= batches:
        raise CheckpointError(
            f'The checkpoint {printable(source)} has meta.iter={runner.iter} and meta.epoch={runner.epoch}, which '
            f'contradict each other where an epoch has {batches} batches: resume from another one.'
        )
    if done in (0, batches):
        return len(loader) if done else 0
    middle = f'The checkpoint {printable(source)} was written in the middle of epoch {runner.epoch + 1}'
    own = len(loader) if 'images' not in meta and now[1] == before[1] else batches  # all that earlier versions stored
    if now[0] != before[0] or own != batches:
        what = f'{before[0]} training images, not {now[0]}' if own == batches else f'{batches} batches, not {own}'
        raise CheckpointError(f'{middle} of {what}: resume with the same data, or from the end of an epoch.')
    done, rest = divmod(done * before[1], now[1])
    if rest or (now[1] != before[1] and not isinstance(loader, SeededLoader)):
        raise CheckpointError(
            f'{middle}, by processes that took {before[1]} images together and not {now[1]}: resume with as many, or '
            f'from the end of an epoch.'
        )
    return min(done, len(loader))


def _guess_batches(runner: Runner) -> int:
    """The batches of an epoch where a checkpoint has only counters, as those of mmengine's own Runner."""
    own, epochs = len(runner.train_dataloader), runner.epoch
    if not epochs or runner.iter % epochs or epochs * own <= runner.iter <= (epochs + 1) * own:
        return own
    return runner.iter // epochs


def skip_seen_batches(runner: Runner) -> None:
    """Make the data loader of a resumed run begin after the batches that it has trained on, without loading them."""
    loader, loop = runner.train_dataloader, runner.train_loop
    if not isinstance(loader, SeededLoader):  # a stream, which IterationSeedHook positions
        return
    batches: Any = loader.batch_sampler
    batches.seed = runner.seed  # of the checkpoint, where the config names none
    if hasattr(batches.sampler, 'seed'):
        batches.sampler.seed = runner.seed
    if not isinstance(loop, IterBasedTrainLoop):
        batches.start_at(runner.iter - runner.epoch * len(loader))
        return
    if isinstance(batches.sampler, InfiniteSampler):
        batches.start_at(runner.iter)
    else:
        epoch, batch = divmod(runner.iter, len(loader))
        batches.start_at(batch, epoch)
        loop.dataloader_iterator._epoch = epoch
    loop.dataloader_iterator = FastForwardIterator(loop.dataloader_iterator, runner.iter)


class LateValidationHook(Hook):
    """Runs the validation of the resumed checkpoint if it was interrupted.

    A checkpoint is saved before it is validated and a resumed run starts after that, so its scores, and perhaps the
    best checkpoint, would be missing.
    """

    priority = 'VERY_LOW'  # after the other hooks are ready

    def before_train(self, runner: Runner) -> None:
        """Validate if the checkpoint is due for validation and the work_dir holds no scores of it."""
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
            runner.logger.info('The last validation was interrupted: it runs now.')
            runner.val_loop.run()
