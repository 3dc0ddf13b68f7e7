"""Preemption: SIGTERM, which schedulers send before they take a machine away, saves the state before the run ends."""

import contextlib
import multiprocessing.util
import os
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.distributed as dist
from mmengine.dist import is_distributed
from mmengine.hooks import Hook
from mmengine.runner import Runner

from .accumulation import is_step_complete
from .checkpoint import STOPPED, save_state

EXIT_CODE = 128 + signal.SIGTERM  # as of a process that SIGTERM kills, for shells and schedulers


class PreemptionHook(Hook):
    """Ends a run after the iteration in which a process received SIGTERM, or with several processes after the next.

    The state is saved to ``stopped.pth``, from which ``--resume`` continues bit for bit. A run that accumulates
    gradients completes its optimizer step first, and one that validates runs up to its next training iteration.
    """

    priority = 'VERY_LOW'  # after averaging, schedules and regular checkpoints

    def before_train(self, runner: Runner) -> None:
        """Install the signal handler."""
        self._requested = 0  # the process that received SIGTERM: this one, or a worker of a pool in its copy
        self._group: Any = dist.new_group(backend='gloo') if is_distributed() else None
        self._asked: Any = None  # the question of the last iteration, which is answered while the next one runs
        self._in_main_thread = threading.current_thread() is threading.main_thread()  # no other can handle signals
        if self._in_main_thread:
            self._previous_handler = signal.signal(signal.SIGTERM, self._request)
            multiprocessing.util.register_after_fork(self, _let_pool_end)

    def _request(self, *_: Any) -> None:
        self._requested = os.getpid()

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """Save the state and end the run if any process received SIGTERM."""
        if not is_step_complete(runner.optim_wrapper) or not self._any_requested():
            return
        self.after_train(runner)
        iterations = runner.iter + 1
        path = save_state(runner, f'{STOPPED}.pth', iterations)
        runner.logger.warning(
            f'SIGTERM: stopped; the state after iteration {iterations} is in {path}. Go on with --resume.'
        )
        raise SystemExit(EXIT_CODE)

    def after_train(self, runner: Runner) -> None:
        """Restore the previous signal handler."""
        if self._asked is not None:
            self._asked[1].wait()
        if self._in_main_thread:
            signal.signal(signal.SIGTERM, self._previous_handler)

    def _any_requested(self) -> bool:
        if self._group is None:
            return bool(self._requested)
        # A step late, so that no process waits for the slowest; and on the CPU, so that none waits for its GPU.
        asked, requested = self._asked, torch.tensor(self._requested)
        self._asked = requested, dist.all_reduce(requested, dist.ReduceOp.MAX, self._group, async_op=True)
        if asked is None:
            return False
        answer, work = asked
        work.wait()
        return bool(answer)


@contextlib.contextmanager
def postponed_interrupt() -> Iterator[None]:
    """Context in which Ctrl-C waits for the end: torch aborts if it strikes while a checkpoint is written."""
    handler = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or not callable(handler):  # or it is ignored
        yield
        return
    received: list[tuple] = []
    signal.signal(signal.SIGINT, lambda *arguments: received.append(arguments))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)
    if received:
        handler(*received[0])


def _let_pool_end(hook: PreemptionHook) -> None:
    """Take the handler from a worker of a pool, as of VOCMetric: the pool ends it by SIGTERM, and waits for its end."""
    if 'PoolWorker' in multiprocessing.current_process().name:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        if hook._requested == os.getpid():  # between the fork and here
            os._exit(EXIT_CODE)


class SigtermShield:
    """Worker init function of a data loader, around its own: ignores SIGTERM unless the training process sends it.

    Schedulers send SIGTERM to all processes of a run, but the training process needs its workers up to its last batch.
    """

    def __init__(self, init: Callable[[int], None] | None) -> None:
        self._init = init

    def __call__(self, number: int) -> None:
        """Initialize a worker."""
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_exit_with, args=(os.getppid(),), daemon=True).start()
        if self._init is not None:
            self._init(number)


def _exit_with(parent: int) -> None:
    """End this process at a SIGTERM from its parent."""
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != parent:
        pass
    os._exit(0)
