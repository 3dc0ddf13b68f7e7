"""Heartbeat: ends a distributed run within a minute of losing a process, where torch waits for half an hour."""

import atexit
import os
import sys
import threading
from datetime import timedelta

import torch
import torch.distributed as dist
from mmengine.dist import is_distributed
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner

INTERVAL = 1  # seconds between two beats
# What is left of a minute is torchrun's, which gives a process 30 s between SIGTERM and SIGKILL.
PATIENCE = timedelta(seconds=25)
GRACE = 5  # seconds for the other processes to end too, when this one fails


@HOOKS.register_module()
class HeartbeatHook(Hook):
    """Ends all processes of a distributed run when one of them dies or stops answering.

    For runs on several machines: ``custom_hooks=[dict(type='HeartbeatHook')]``. Without it a lost process ends the
    others by the timeout of torch.distributed, or by torchrun if it runs on the same machine.

    A thread of each process meets those of the others each second, so a step may take as long as it needs.
    """

    def __init__(self) -> None:
        self._done = threading.Event()
        self._thread: threading.Thread | None = None

    def before_train(self, runner: Runner) -> None:
        """Start the thread; not earlier, as parsing annotations may hold Python's global lock for too long."""
        if is_distributed():
            group = dist.new_group(backend='gloo', timeout=PATIENCE)
            self._thread = threading.Thread(target=_beat, args=(group, self._done), daemon=True)
            self._thread.start()
            atexit.register(self._stop, GRACE)  # training may end by an exception

    def after_run(self, runner: Runner) -> None:
        """Stop the thread, in all processes together."""
        self._stop()

    def _stop(self, timeout: float | None = None) -> None:
        """Wait until the others are done too, or for some seconds: if they are gone, the thread ends this process."""
        if self._thread is not None:
            self._done.set()
            self._thread.join(timeout)


def _beat(group: dist.ProcessGroup, done: threading.Event) -> None:
    """Meet the other processes until all are done."""
    all_done = torch.tensor(0)
    while not all_done:
        try:
            dist.monitored_barrier(group, PATIENCE, wait_all_ranks=True)  # its error names the ranks that are missing
            all_done.fill_(done.is_set())
            dist.all_reduce(all_done, dist.ReduceOp.MIN, group)
        except RuntimeError as error:
            reason = ' '.join(str(error).split())
            sys.stderr.write(
                f'error: Another process of this run has ended or has not answered for {PATIENCE.seconds} s, so this '
                f'one ends too ({reason}). Go on with --resume; RESTARTS=3 tools/dist_train.sh does so by itself.\n'
            )
            sys.stderr.flush()
            os._exit(1)  # the main thread waits for the lost process
        done.wait(INTERVAL)
