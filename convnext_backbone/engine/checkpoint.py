"""Atomic checkpoints: a kill, a crash or a full disk leaves the last one intact.

mmengine first deletes the oldest checkpoint and then writes the new one in place, so a kill can leave no usable one.
"""

import contextlib
import copy
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from mmengine.dist import barrier, is_main_process
from mmengine.fileio import LocalBackend, register_backend
from mmengine.hooks import CheckpointHook
from mmengine.registry import HOOKS
from mmengine.runner import Runner

from ..utils.errors import ArgumentError
from ..utils.files import remove_link, write_atomically
from .accumulation import is_step_complete

STOPPED = 'stopped'  # stem of the one checkpoint that SIGTERM asks for


class AtomicLocalBackend(LocalBackend):
    """mmengine's backend for local files, with atomic writes."""

    def put(self, obj: bytes, filepath: str | os.PathLike) -> None:
        """Write bytes to a file."""
        write_atomically(bytes(obj), filepath)

    def put_text(self, obj: str, filepath: str | os.PathLike, encoding: str = 'utf-8') -> None:
        """Write text to a file."""
        write_atomically(obj.encode(encoding), filepath)


register_backend('local', AtomicLocalBackend, force=True, prefixes='')


@HOOKS.register_module()
class AtomicCheckpointHook(CheckpointHook):
    """mmengine's ``CheckpointHook``, which deletes an outdated checkpoint only after the new one is written.

    It deletes nothing outside its folder, whatever earlier checkpoints a resumed one names. As a checkpoint holds no
    gradients, one that is due during gradient accumulation waits for the optimizer step.
    """

    file_backend: Any
    _pending = False  # a checkpoint is due, but the optimizer step is not complete

    def before_train(self, runner: Runner) -> None:
        """Take over the list of existing checkpoints from a resumed run."""
        super().before_train(runner)
        if not self._is_own(getattr(self, 'best_ckpt_path', None)):
            self.best_ckpt_path = None
        for key, path in getattr(self, 'best_ckpt_path_dict', {}).items():
            if not self._is_own(path):
                self.best_ckpt_path_dict[key] = None

    def _is_own(self, best: Any) -> bool:
        path = Path(str(best))
        return path.parent == Path(self.out_dir) and path.name.startswith('best_')

    def every_n_train_iters(self, runner: Runner, n: int, start: int = 0) -> bool:
        """Whether to save now: a checkpoint is due, or became due while gradients accumulated."""
        due = self._pending or super().every_n_train_iters(runner, n, start)
        self._pending = due and not is_step_complete(runner.optim_wrapper)
        return due and not self._pending

    def _save_best_checkpoint(self, runner: Runner, metrics: dict) -> None:
        if self.save_best:
            check_score_names('default_hooks.checkpoint.save_best', self.key_indicators, metrics)
            with self._postponed_removals():
                super()._save_best_checkpoint(runner, metrics)

    def _save_checkpoint_with_step(self, runner: Runner, step: int, meta: dict) -> None:
        if is_main_process():
            remove_link(Path(runner.work_dir) / 'last_checkpoint')  # which the engine writes in place
        with self._postponed_removals():
            super()._save_checkpoint_with_step(runner, step, meta)

    @contextlib.contextmanager
    def _postponed_removals(self) -> Iterator[None]:
        """Context that removes outdated checkpoints at its end, once the new ones are saved."""
        outdated: list[str] = []
        backend = self.file_backend
        self.file_backend = copy.copy(backend)
        self.file_backend.remove = outdated.append
        try:
            yield
        finally:
            self.file_backend = backend
        best = (getattr(self, 'best_ckpt_path', None), *getattr(self, 'best_ckpt_path_dict', {}).values())
        for path in outdated:
            if path not in (self.last_ckpt, *best):  # not one that was written again
                backend.remove(path)


def check_score_names(setting: str, names: Iterable[str], scores: Iterable[str]) -> None:
    """Raise where a setting names a score that an evaluation does not have."""
    for name in names:
        if name not in ('auto', *scores):
            raise ArgumentError(f'{setting}={name!r} is none of the scores: {", ".join(scores)}.')


def save_state(runner: Runner, name: str, iterations: int) -> Path:
    """Save the state after so many iterations as the checkpoint to resume from; returns its path."""
    runner.save_checkpoint(runner.work_dir, name, meta=dict(epoch=runner.epoch, iter=iterations), by_epoch=False)
    path = Path(runner.work_dir) / name
    if is_main_process():
        write_atomically(str(path).encode(), Path(runner.work_dir) / 'last_checkpoint')
    barrier()  # all exit next: while one still writes, its heartbeat would take the others for lost
    return path
