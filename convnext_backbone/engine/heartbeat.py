"""A process that hangs or has died ends the others within a minute; without this they wait for it half an hour."""

import os
import sys
import threading
from datetime import timedelta

import torch
import torch.distributed as dist
from mmengine.dist import is_distributed
from mmengine.hooks import Hook

INTERVAL = 1  # seconds between two beats
# What is left of a minute is torchrun's, which gives a process 30 s between SIGTERM and SIGKILL.
PATIENCE = timedelta(seconds=25)


class HeartbeatHook(Hook):
    """Meets the other processes of a run each second, in a thread, from the first iteration on.

    What takes long in a process does not count, as its thread answers, but that it is stopped, has ended or is on a
    machine that does not answer. Training takes place within it, as in a ``with`` block.
    """

    def __init__(self) -> None:
        self._done = threading.Event()
        self._thread = None

    def before_train(self, runner: object) -> None:
        """Starts; not before, as the data may be parsed in one go that leaves no other thread a turn."""
        if is_distributed():
            group = dist.new_group(backend='gloo', timeout=PATIENCE)
            self._thread = threading.Thread(target=_beat, args=(group, self._done), daemon=True)
            self._thread.start()

    def __enter__(self) -> 'HeartbeatHook':
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._thread is None:
            return
        if kind is None or issubclass(kind, SystemExit):  # at the same time in all processes
            self._done.set()
            self._thread.join()
        else:
            # Others that are gone are what it failed of, as a rule: then the thread says so, and ends this process.
            self._thread.join(3 * INTERVAL)


def _beat(group: dist.ProcessGroup, done: threading.Event) -> None:
    """Meets the others until all are done."""
    all_done = torch.tensor(0)
    while not all_done:
        try:
            dist.monitored_barrier(group, PATIENCE, wait_all_ranks=True)  # which names those that do not come
            all_done.fill_(done.is_set())
            dist.all_reduce(all_done, dist.ReduceOp.MIN, group)
        except RuntimeError as error:
            what = ' '.join(str(error).split())
            sys.stderr.write(
                f'error: Another process of this run has ended or has not answered for {PATIENCE.seconds} s, so this '
                f'one ends too ({what}). Go on with --resume; RESTARTS=3 tools/dist_train.sh does so by itself.\n'
            )
            sys.stderr.flush()
            os._exit(1)  # the main thread waits for that process
        done.wait(INTERVAL)
