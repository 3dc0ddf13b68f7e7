#!/usr/bin/env python
"""Trains on a slurm cluster by submitit: queues a job, which requeues itself and resumes at a preemption.

The paper's runs, pre-training on 4 x 8 GPUs and on 16 x 8:
    tools/submitit_train.py configs/pretrain_convnext_t_imagenet.py --nodes 4 --partition PARTITION
    tools/submitit_train.py configs/pretrain_convnext_xl_imagenet22k.py --nodes 16 --partition PARTITION

All flags of train.py may follow. `--cluster local` runs the processes on this machine.
"""

import argparse
import os
import signal
import subprocess
import sys
from pathlib import Path

if __name__ == '__main__':  # before what takes seconds to import
    import interruptible  # noqa: F401

import submitit

from convnext_backbone.utils.cli import user_errors

TRAIN = Path(__file__).resolve().with_name('train.py')


class Training:
    """A process of the job: train.py with the given flags."""

    def __init__(self, arguments: list[str]) -> None:
        self.arguments = arguments

    def __call__(self) -> None:
        """Train until the end or a preemption."""
        environment = submitit.helpers.TorchDistributedEnvironment()
        environment.export(set_cuda_visible_devices=False, overwrite=True)  # the engine chooses by LOCAL_RANK
        self._process = subprocess.Popen([sys.executable, '-u', TRAIN, *self.arguments, '--launcher', 'pytorch'])
        code = self._process.wait()
        if code not in (0, 128 + signal.SIGTERM):  # the latter: it saved its state and is requeued
            raise RuntimeError(f'train.py ended with exit code {code}: its output is above.')

    def checkpoint(self) -> submitit.helpers.DelayedSubmission:
        """At a preemption, in the first process: save the state of the run, and requeue the job to resume from it."""
        self._process.send_signal(signal.SIGTERM)  # all processes of the run agree on when to stop
        # Not Popen.wait, which was interrupted by the signal and holds a lock.
        os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WNOWAIT)
        return submitit.helpers.DelayedSubmission(Training([*self.arguments, '--auto-resume']))


@user_errors
def main() -> None:
    """Queue a job."""
    parser = argparse.ArgumentParser(description='Queue a training on a slurm cluster.')
    parser.add_argument('--nodes', type=int, default=1, help='machines (default: %(default)s)')
    parser.add_argument('--gpus-per-node', type=int, default=8, help='a process for each (default: %(default)s)')
    parser.add_argument('--cpus-per-task', type=int, default=10, help='for each process (default: %(default)s)')
    parser.add_argument('--hours', type=float, default=72, help='then it is requeued (default: %(default)s)')
    parser.add_argument('--partition', help="the cluster's")
    parser.add_argument('--logs', default='work_dirs/submitit', help='folder of the output (default: %(default)s)')
    parser.add_argument('--cluster', choices=('slurm', 'local'), default='slurm', help='(default: %(default)s)')
    args, arguments = parser.parse_known_args()
    executor = submitit.AutoExecutor(args.logs, cluster=args.cluster)
    executor.update_parameters(
        name='convnext',
        nodes=args.nodes,
        tasks_per_node=args.gpus_per_node,
        timeout_min=int(60 * args.hours),
        slurm_gpus_per_node=args.gpus_per_node,
        slurm_cpus_per_task=args.cpus_per_task,
        slurm_partition=args.partition,
        slurm_signal_delay_s=120,
    )
    job = executor.submit(Training(arguments))
    print(f'Job {job.job_id}: its output is in {os.path.join(args.logs, str(job.job_id))}_*_log.out')
    if args.cluster == 'local':
        job.wait()


if __name__ == '__main__':
    sys.exit(main())
