"""Checkpoints that a kill, a crash or a full disk cannot damage.

mmengine writes a checkpoint in place and deletes the oldest before it writes the newest, so a kill at the wrong moment
can leave no usable one. Here a file is written under a temporary name and renamed, and the oldest goes last.
"""

import contextlib
import fcntl
import os
import platform
import tempfile
from collections.abc import Iterator
from pathlib import Path

from mmengine.dist import is_main_process
from mmengine.fileio import LocalBackend, register_backend
from mmengine.hooks import CheckpointHook
from mmengine.registry import HOOKS

from .errors import UserError

STOPPED = 'stopped'  # the name of a checkpoint that a stop asked for; one is enough


@contextlib.contextmanager
def replaced_atomically(path: str | os.PathLike) -> Iterator[Path]:
    """Gives a temporary file to write; it takes the place of ``path`` at the end, if nothing was raised.

    Raises:
        UserError: The disk is full or the folder cannot be written; what was there before is untouched.
    """
    path = Path(path)
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f'.{path.name}.', suffix='.tmp', delete=False) as file:
            temporary = Path(file.name)
        yield temporary
        with temporary.open('rb') as file:  # only now: a writer may have put another file in its place
            os.fsync(file.fileno())
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
    except OSError as error:
        raise UserError(
            f'{path} cannot be written: {error.strerror}; what was saved before is untouched. Free space there or '
            f'choose another folder.'
        ) from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def write_atomically(data: bytes, path: str | os.PathLike) -> None:
    """Writes a file so that at every moment either the old one or the new one is there, whole.

    Raises:
        UserError: As of :func:`replaced_atomically`.
    """
    with replaced_atomically(path) as temporary:
        temporary.write_bytes(data)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


class AtomicLocalBackend(LocalBackend):
    """mmengine's backend for local files, with writes that are whole or do not happen."""

    def put(self, obj: bytes, filepath: str | os.PathLike) -> None:
        """Writes bytes to a file."""
        write_atomically(bytes(obj), filepath)

    def put_text(self, obj: str, filepath: str | os.PathLike, encoding: str = 'utf-8') -> None:
        """Writes text to a file."""
        write_atomically(obj.encode(encoding), filepath)


register_backend('local', AtomicLocalBackend, force=True, prefixes='')


@HOOKS.register_module()
class AtomicCheckpointHook(CheckpointHook):
    """mmengine's ``CheckpointHook``, which deletes an outdated checkpoint only once the new one is in place.

    It deletes nothing but checkpoints of its own folder, whatever a checkpoint that is resumed says of those before it.
    """

    def before_train(self, runner: object) -> None:
        """Takes over from a resumed run which checkpoints there are."""
        steps = runner.message_hub.runtime_info.get('keep_ckpt_ids', [])
        if not isinstance(steps, list) or not all(isinstance(step, int) for step in steps):
            runner.message_hub.pop_info('keep_ckpt_ids')
        super().before_train(runner)
        if not self._is_own(getattr(self, 'best_ckpt_path', None)):
            self.best_ckpt_path = None
        for key, path in getattr(self, 'best_ckpt_path_dict', {}).items():
            if not self._is_own(path):
                self.best_ckpt_path_dict[key] = None

    def _is_own(self, best: object) -> bool:
        path = Path(str(best))
        return path.parent == Path(self.out_dir) and path.name.startswith('best_')

    def _save_checkpoint_with_step(self, runner: object, step: int, meta: dict) -> None:
        keep = self.max_keep_ckpts
        outdated = []
        if keep > 0 and step not in self.keep_ckpt_ids:
            outdated = [self.keep_ckpt_ids.popleft()] if len(self.keep_ckpt_ids) == keep else []
            self.keep_ckpt_ids.append(step)
            runner.message_hub.update_info('keep_ckpt_ids', list(self.keep_ckpt_ids))
        self.max_keep_ckpts = -1  # the parent saves and deletes nothing
        try:
            super()._save_checkpoint_with_step(runner, step, meta)
        finally:
            self.max_keep_ckpts = keep
        if is_main_process():
            for old in outdated:
                path = self.file_backend.join_path(self.out_dir, self.filename_tmpl.format(old))
                if self.file_backend.isfile(path):
                    self.file_backend.remove(path)


def find_checkpoints(work_dir: str | os.PathLike) -> list[Path]:
    """The checkpoints to resume from: what ``last_checkpoint`` names, then the files of the folder, newest first.

    A kill may strike between a checkpoint and the note that names it, so the note alone is not trusted.
    """
    work_dir = Path(work_dir)
    saved = [path for kind in ('epoch_*', 'iter_*', 'last_good_*', STOPPED) for path in work_dir.glob(f'{kind}.pth')]
    saved.sort(key=lambda path: path.stat().st_mtime_ns, reverse=True)
    note = work_dir / 'last_checkpoint'
    named = note.read_text().strip() if note.is_file() else ''
    for candidate in (work_dir / Path(named).name, Path(named)):  # the folder may have been moved or copied
        if named and candidate.is_file():
            return [candidate, *(path for path in saved if not path.samefile(candidate))]
    return saved


def find_checkpoint(work_dir: str | os.PathLike) -> Path | None:
    """The first of :func:`find_checkpoints`."""
    return next(iter(find_checkpoints(work_dir)), None)


def save_state(runner: object, name: str, done: int) -> Path:
    """Saves the state of a run after so many iterations, as the one to resume from; returns its path."""
    runner.save_checkpoint(runner.work_dir, name, meta=dict(epoch=runner.epoch, iter=done), by_epoch=False)
    path = Path(runner.work_dir) / name
    if is_main_process():
        write_atomically(str(path).encode(), Path(runner.work_dir) / 'last_checkpoint')
    return path


@contextlib.contextmanager
def locked(work_dir: str | os.PathLike) -> Iterator[None]:
    """Keeps a folder for this process; however it ends, the system gives the folder free.

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
        file.truncate(0)
        file.write(f'process {os.getpid()} on {platform.node()}')
        file.flush()
        yield
