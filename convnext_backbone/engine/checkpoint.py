"""Checkpoints that a kill, a crash or a full disk cannot damage.

mmengine writes a checkpoint in place and deletes the oldest before it writes the newest, so a kill at the wrong moment
can leave no usable one. Here a file is written under a temporary name and renamed, and the oldest goes last.
"""

import os
from pathlib import Path

from mmengine.dist import barrier, is_main_process
from mmengine.fileio import LocalBackend, register_backend
from mmengine.hooks import CheckpointHook
from mmengine.registry import HOOKS

from ..utils.errors import ArgumentError
from ..utils.files import write_atomically
from .accumulation import ends_step

STOPPED = 'stopped'  # the name of a checkpoint that a stop asked for; one is enough


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
    One that falls due while gradients accumulate, which no checkpoint holds, is written when the step is whole.
    """

    _is_late = False

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

    def every_n_train_iters(self, runner: object, n: int, start: int = 0) -> bool:
        """Whether a checkpoint is due now, or became due while the optimizer accumulated."""
        due = self._is_late or super().every_n_train_iters(runner, n, start)
        self._is_late = due and not ends_step(runner.optim_wrapper)
        return due and not self._is_late

    def _save_best_checkpoint(self, runner: object, metrics: dict) -> None:
        for name in self.key_indicators if self.save_best and metrics else ():
            if name not in ('auto', *metrics):
                raise ArgumentError(
                    f'default_hooks.checkpoint.save_best={name!r} is none of the scores: {", ".join(metrics)}.'
                )
        backend = self.file_backend
        self.file_backend = postponed = _PostponedRemovals(backend)
        try:
            super()._save_best_checkpoint(runner, metrics)
        finally:
            self.file_backend = backend
        best = {getattr(self, 'best_ckpt_path', None), *getattr(self, 'best_ckpt_path_dict', {}).values()}
        for path in postponed.paths:
            if path not in best:
                backend.remove(path)

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


class _PostponedRemovals:
    """A file backend that removes nothing yet: it keeps the paths."""

    def __init__(self, backend: LocalBackend) -> None:
        self._backend = backend
        self.paths: list[str] = []

    def __getattr__(self, name: str) -> object:
        return getattr(self._backend, name)

    def remove(self, path: str) -> None:
        self.paths.append(path)


def save_state(runner: object, name: str, done: int) -> Path:
    """Saves the state of a run after so many iterations, as the one to resume from; returns its path."""
    runner.save_checkpoint(runner.work_dir, name, meta=dict(epoch=runner.epoch, iter=done), by_epoch=False)
    path = Path(runner.work_dir) / name
    if is_main_process():
        write_atomically(str(path).encode(), Path(runner.work_dir) / 'last_checkpoint')
    barrier()  # a process that exits earlier would count as lost
    return path
