"""Fault tolerance: SIGTERM, lost processes and machines, preemption. Exact: as an undisturbed run."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from functools import partial
from pathlib import Path

import pytest
from conftest import REPOSITORY, run_tool
from small_runs import DEMO, SMALL, arguments, write_config
from test_pretraining import differing, environment, run_script

from convnext_backbone import read_checkpoint
from convnext_backbone.engine.preemption import postponed_interrupt


@contextmanager
def started(*command: object, cwd: Path, **variables: str) -> Iterator[subprocess.Popen]:
    """Run a command in its own process group, which is killed in the end."""
    process = subprocess.Popen(
        [*map(str, command)],
        cwd=cwd,
        env={**environment(), **variables},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def read_until(process: subprocess.Popen, words: str) -> None:
    """Read the output of a process up to a line with these words."""
    seen = []
    for line in process.stdout:
        seen.append(line)
        if words in line:
            return
    raise AssertionError(''.join(seen[-30:]))


def assert_same_weights(whole: Path, resumed: Path) -> None:
    """Compare the final weights and averages of two runs bit for bit."""
    one, other = (read_checkpoint(folder / 'epoch_2.pth') for folder in (whole, resumed))
    for weights in ('state_dict', 'ema_state_dict'):
        assert differing(one[weights], other[weights]) == []


@pytest.mark.parametrize('task', ['classifier', pytest.param('autoencoder', marks=pytest.mark.slow)])
def test_sigterm_saves_the_state_and_the_run_resumes(task, shapes, run_once, tmp_path):
    """All processes of the group receive it, data loader workers included."""
    by_epoch = 'default_hooks.checkpoint.by_epoch=True'
    config = DEMO if task == 'classifier' else write_config(task, tmp_path)
    command = ['train.py', *arguments(task, config, shapes, options=[] if task == 'classifier' else [by_epoch])]
    whole, _ = run_once('classification' if task == 'classifier' else task, partial(run_tool, *command))
    with started(sys.executable, REPOSITORY / 'tools' / command[0], *command[1:], cwd=tmp_path) as process:
        read_until(process, 'Epoch(train) [1][1/6]')
        sent = time.time()
        os.killpg(process.pid, signal.SIGTERM)
        output, _ = process.communicate(timeout=60)
    assert process.returncode == 143, output[-3000:]
    assert 'stopped.pth' in output and 'Traceback' not in output
    assert (tmp_path / 'out/stopped.pth').stat().st_mtime - sent < 10  # as promised
    assert not (tmp_path / 'out/epoch_2.pth').exists()
    result = run_tool(*command[:2], '--resume', *command[2:], cwd=tmp_path)
    assert result.returncode == 0, result.stderr[-3000:]
    assert_same_weights(whole, tmp_path / 'out')


def _parent(folder: Path) -> Path:
    return folder.parent / (folder / 'stat').read_text().rpartition(')')[2].split()[1]


def _is_torchrun(folder: Path) -> bool:
    return b'torch.distributed.run' in (folder / 'cmdline').read_bytes()


def process_of_rank(rank: int, work_dir: Path) -> int:
    """The process id of a rank that trains into a work_dir."""
    for folder in Path('/proc').glob('[0-9]*'):
        try:
            command = (folder / 'cmdline').read_bytes().split(b'\0')
            variables = (folder / 'environ').read_bytes().split(b'\0')
        except OSError:  # it has exited
            continue
        if f'RANK={rank}'.encode() in variables and str(work_dir).encode() in command and _is_torchrun(_parent(folder)):
            return int(folder.name)
    raise AssertionError(f'no process of rank {rank}')


@pytest.fixture
def demo(tmp_path) -> Path:
    """The classification demo with a heartbeat."""
    config = tmp_path / 'heartbeat.py'
    hooks = "[*_base_.custom_hooks, dict(type='HeartbeatHook')]"
    config.write_text(f'_base_ = {str(DEMO)!r}\ncustom_hooks = {hooks}\n')
    return config


DIST_TRAIN = REPOSITORY / 'tools/dist_train.sh'


@pytest.mark.slow
@pytest.mark.parametrize(('rank', 'fault'), [(0, signal.SIGKILL), (1, signal.SIGKILL), (1, signal.SIGSTOP)])
def test_a_lost_rank_restarts_from_the_last_checkpoint(rank, fault, demo, shapes, tmp_path):
    """Killed, or stopped so that it hangs."""
    data, options = ['--data-root', shapes / 'imagenet'], ['--cfg-options', *SMALL]
    result = run_script(DIST_TRAIN, demo, 2, *data, '--work-dir', tmp_path / 'whole', *options, cwd=tmp_path)
    assert result.returncode == 0, result.stderr[-3000:]
    command = [DIST_TRAIN, demo, 2, *data, '--work-dir', tmp_path / 'out', *options]
    with started(*command, cwd=tmp_path, RESTARTS='1') as process:
        read_until(process, 'Epoch(train) [2][1/3]')
        os.kill(process_of_rank(rank, tmp_path / 'out'), fault)
        output, _ = process.communicate(timeout=180)
    assert process.returncode == 0, output[-3000:]
    assert 'resumed epoch: 1' in output
    assert_same_weights(tmp_path / 'whole', tmp_path / 'out')


@pytest.mark.slow
@pytest.mark.parametrize(('rank', 'fault'), [(0, signal.SIGKILL), (1, signal.SIGSTOP), (0, signal.SIGSTOP)])
def test_without_restarts_a_lost_rank_ends_all_within_a_minute(rank, fault, demo, shapes, tmp_path):
    work_dir = tmp_path / 'out'
    command = [DIST_TRAIN, demo, 2, '--data-root', shapes / 'imagenet', '--work-dir', work_dir, '--cfg-options', *SMALL]
    with started(*command, 'train_cfg.max_epochs=9', cwd=tmp_path) as process:
        read_until(process, 'Epoch(train) [2][1/3]')
        os.kill(process_of_rank(rank, work_dir), fault)
        lost = time.time()
        output, _ = process.communicate(timeout=120)
    assert process.returncode != 0 and time.time() - lost < 60
    assert 'error: Another process of this run has ended or has not answered' in output and '--resume' in output


def wait_for(happened: Callable[[], bool]) -> None:
    """Wait for a condition, three minutes at most."""
    latest = time.time() + 180
    while not happened():
        assert time.time() < latest
        time.sleep(0.2)


@pytest.mark.slow
def test_an_elastic_run_continues_when_a_machine_leaves_and_returns(demo, shapes, tmp_path):
    """A torchrun and its processes stand for a machine."""
    with socket.create_server(('localhost', 0)) as server:
        port = server.getsockname()[1]
    command = [DIST_TRAIN, demo, 1, '--data-root', shapes / 'imagenet', '--work-dir', 'out']
    command += ['--cfg-options', *SMALL, 'train_cfg.max_epochs=30', 'train_cfg.val_interval=30']

    def machine(name: str) -> AbstractContextManager[subprocess.Popen]:
        aside = ['bash', '-c', f'exec "$0" "$@" &> {name}.txt', *command]
        return started(*aside, cwd=tmp_path, NNODES='1:2', RESTARTS='1', MASTER_ADDR='localhost', PORT=str(port))

    def logged(words: str, times: int = 1) -> bool:
        return ''.join(path.read_text() for path in tmp_path.glob('out/*/*.log')).count(words) == times

    with machine('first') as first:
        wait_for(lambda: socket.socket().connect_ex(('localhost', port)) == 0)  # it is where they meet
        with machine('second') as second:
            wait_for(lambda: logged('Saving checkpoint at 2 epochs'))
            trained = Path(f'/proc/{second.pid}/task/{second.pid}/children').read_text().split()
            for process in (second.pid, *map(int, trained)):
                os.kill(process, signal.SIGKILL)
        wait_for(lambda: logged('= 1 processes x') and logged('resumed epoch: '))
        with machine('third') as third:
            wait_for(lambda: logged('= 2 processes x', 2) and logged('resumed epoch: ', 2))
            assert [process.wait(timeout=180) for process in (first, third)] == [0, 0]
    assert (tmp_path / 'out/epoch_30.pth').is_file()


@pytest.mark.slow
def test_a_preempted_submitit_job_saves_its_state_and_resumes(demo, shapes, tmp_path):
    """On the local cluster, which requeues jobs as slurm does."""
    command = [sys.executable, REPOSITORY / 'tools/submitit_train.py', demo, '--cluster', 'local', '--gpus-per-node', 2]
    command += ['--data-root', shapes / 'imagenet', '--work-dir', 'out', '--cfg-options', *SMALL]
    with started(*command, 'train_cfg.max_epochs=20', 'train_cfg.val_interval=20', cwd=tmp_path) as process:
        job = process.stdout.readline().split()[1].rstrip(':')
        log = tmp_path / f'work_dirs/submitit/{job}_0_log.out'
        while not (log.is_file() and 'Epoch(train)  [2][1/3]' in log.read_text()):
            assert process.poll() is None
            time.sleep(0.2)
        for folder in Path('/proc').glob('[0-9]*'):
            with suppress(OSError):  # it has exited
                if b'submitit.core._submit' in (folder / 'cmdline').read_bytes() and tmp_path.samefile(folder / 'cwd'):
                    os.kill(int(folder.name), signal.SIGUSR2)  # slurm's notice, as submitit asks for it
        process.communicate(timeout=300)
    text = log.read_text()
    assert 'stopped.pth. Go on with --resume' in text and 'resumed epoch: 1' in text
    assert (tmp_path / 'out/epoch_20.pth').is_file()


def test_ctrl_c_waits_until_a_checkpoint_is_written():
    handler, written = signal.signal(signal.SIGINT, signal.default_int_handler), []
    try:
        with pytest.raises(KeyboardInterrupt), postponed_interrupt():
            signal.raise_signal(signal.SIGINT)
            written.append('to the end')
        assert written and signal.getsignal(signal.SIGINT) is signal.default_int_handler
        with postponed_interrupt():  # none came
            pass
    finally:
        signal.signal(signal.SIGINT, handler)
