"""Checkpoints that a kill, a crash or a full disk cannot damage.

mmengine writes a checkpoint in place and deletes the oldest before it writes the newest, so a kill at the wrong moment
can leave no usable one. Here a file is written under a temporary name and renamed, and the oldest goes last.
"""

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from mmengine.dist import is_main_process
from mmengine.fileio import LocalBackend, register_backend
from mmengine.hooks import CheckpointHook
from mmengine.registry import HOOKS

from .errors import UserError


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


def find_checkpoint(work_dir: str | os.PathLike) -> Path | None:
    """The checkpoint to resume from: what ``last_checkpoint`` names, or else the newest file of the folder.

    A kill may strike between a checkpoint and the note that names it, so the note alone is not trusted.
    """
    work_dir = Path(work_dir)
    note = work_dir / 'last_checkpoint'
    if note.is_file():
        named = note.read_text().strip()
        for candidate in (Path(named), work_dir / Path(named).name):  # the folder may have been moved
            if named and candidate.is_file():
                return candidate
    saved = [*work_dir.glob('epoch_*.pth'), *work_dir.glob('iter_*.pth'), *work_dir.glob('last_good_*.pth')]
    return max(saved, key=lambda path: path.stat().st_mtime_ns, default=None)
