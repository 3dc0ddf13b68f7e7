"""A run that is told to end, by SIGTERM as schedulers send it before they take a machine, saves its state first."""

import os
import signal
import threading
from collections.abc import Callable

import torch
from mmengine.dist import is_distributed
from mmengine.hooks import Hook

from .accumulation import ends_step
from .checkpoint import STOPPED, save_state

EXIT_CODE = 128 + signal.SIGTERM  # what shells and schedulers know of a process that SIGTERM ended


class PreemptionHook(Hook):
    """Ends a run after the iteration in which SIGTERM came, all its processes after the same one.

    The state goes to ``stopped.pth``, from which ``--resume`` goes on to the bit. While gradients accumulate, the run
    finishes its step first; while it validates, it comes to the next iteration: what is validated is what the last
    checkpoint holds, as a rule.
    """

    priority = 'VERY_LOW'  # after averages, schedules and regular checkpoints

    def before_train(self, runner: object) -> None:
        """Listens from now on."""
        self._asked = False
        self._group = torch.distributed.new_group(backend='gloo') if is_distributed() else None
        self._listens = threading.current_thread() is threading.main_thread()  # no other one can
        if self._listens:
            self._before = signal.signal(signal.SIGTERM, self._ask)

    def _ask(self, *_: object) -> None:
        self._asked = True

    def after_train_iter(
        self, runner: object, batch_idx: int, data_batch: object = None, outputs: object = None
    ) -> None:
        """Ends the run if one of its processes was asked to."""
        if not ends_step(runner.optim_wrapper) or not self._anyone_asked():
            return
        self.after_train(runner)
        done = runner.iter + 1
        path = save_state(runner, f'{STOPPED}.pth', done)
        runner.logger.warning(f'SIGTERM: stopped; the state after iteration {done} is in {path}. Go on with --resume.')
        raise SystemExit(EXIT_CODE)

    def after_train(self, runner: object) -> None:
        """Listens no more."""
        if self._listens:
            signal.signal(signal.SIGTERM, self._before)

    def _anyone_asked(self) -> bool:
        if self._group is None:
            return self._asked
        asked = torch.tensor(int(self._asked))  # by gloo on the CPU, so that no GPU is waited for
        torch.distributed.all_reduce(asked, torch.distributed.ReduceOp.MAX, self._group)
        return bool(asked)


class SigtermShield:
    """Starts the workers of a loader: a SIGTERM to all processes of a run is not for them, who still have to serve it.

    One from the process that they serve ends them, as always.

    Args:
        start: What each does first, with its number.
    """

    def __init__(self, start: Callable[[int], None] | None) -> None:
        self._start = start

    def __call__(self, number: int) -> None:
        """Starts a worker."""
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_obey, args=(os.getppid(),), daemon=True).start()
        if self._start is not None:
            self._start(number)


def _obey(parent: int) -> None:
    """Ends this process at a SIGTERM from its parent."""
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != parent:
        pass
    os._exit(0)
