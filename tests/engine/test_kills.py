"""SIGKILL at random moments: a run resumes where it was. Exact.

``KILLS=100 python -m pytest -s tests/engine/test_kills.py -k moments`` kills a hundred runs instead of a few;
``SEED=...`` chooses other moments.
"""

import contextlib
import functools
import gc
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace

import mmengine.config.utils
from conftest import REPOSITORY
from mmengine.config import Config
from small_runs import CONFIGS, DETECTOR, LAST, arguments, check_same, contents, half_written, write_config

from convnext_backbone.engine.resume import find_checkpoints
from convnext_backbone.weights.safe_load import verify_checksums


def start(train: Callable[[], int], arguments: list[object], cwd: Path) -> int:
    """Run ``tools/train.py`` in a forked process with its own process group; returns its id."""
    child = os.fork()
    if child:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.setpgid(child, child)
        return child
    code = 1
    try:
        os.setpgid(0, 0)
        os.chdir(cwd)
        output = os.open('output', os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(output, 1)
        os.dup2(output, 2)
        sys.argv = ['train.py', *map(str, arguments)]
        code = train()
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def wait(child: int, is_time: Callable[[], bool]) -> int:
    """Kill a process and its group once it is time, unless it ends before; returns its exit code, -9 if killed."""
    while True:
        done, status = os.waitpid(child, os.WNOHANG)
        if not done and is_time():
            os.killpg(child, signal.SIGKILL)
            done, status = os.waitpid(child, 0)
        if done:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child, signal.SIGKILL)  # workers of a run that has ended
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.0002)


def any_moment(chance: random.Random, seconds: float) -> Callable[[], bool]:
    end = time.monotonic() + chance.uniform(0, seconds)
    return lambda: time.monotonic() > end


def while_writing(chance: random.Random, work_dir: Path) -> Callable[[], bool]:
    """While a checkpoint is written, up to and after its renaming."""
    seen, number = half_written(work_dir), chance.randint(1, 4) + len(half_written(work_dir))

    def is_time() -> bool:
        seen.update(half_written(work_dir))
        if len(seen) < number:
            return False
        time.sleep(chance.uniform(0, 0.002))
        return True

    return is_time


def kill_and_resume(task: str, train: Callable, data: Path, folder: Path, kills: int, chance: random.Random) -> Counter:
    """Kill runs of a task so many times, resume each to its end, and compare it with an undisturbed one."""
    config, counts = write_config(task, folder), Counter()
    began = time.monotonic()
    code = wait(start(train, arguments(task, config, data, 'whole'), folder), lambda: False)
    assert code == 0, (folder / 'output').read_text()[-3000:]
    seconds = time.monotonic() - began
    out, command = folder / 'out', arguments(task, config, data)
    resume, alive = [], False
    while counts['kills'] < kills or alive:
        is_time = lambda: False  # noqa: E731  # once there are enough, a run may end
        if counts['kills'] < kills:
            aimed = chance.random() < 0.5
            is_time = while_writing(chance, out) if aimed else any_moment(chance, seconds)
        before = half_written(out)
        code = wait(start(train, [command[0], *resume, *command[1:]], folder), is_time)
        alive = code == -signal.SIGKILL
        if alive:
            counts['kills'] += 1
            counts['while a checkpoint was written'] += bool(half_written(out) - before)
            for path in out.glob('*.pth'):
                verify_checksums(path)
            resume = ['--resume'] if find_checkpoints(out) else []
            if not resume:
                counts['before the first checkpoint'] += 1
                logs = contents(out, '*/**/*.*')
                code = wait(start(train, [command[0], '--resume', *command[1:]], folder), lambda: False)
                output = (folder / 'output').read_text()
                assert code == 2 and 'no intact checkpoint' in output and 'Traceback' not in output, output[-3000:]
                assert contents(out, '*/**/*.*') == logs
            continue
        assert code == 0, (folder / 'output').read_text()[-3000:]
        check_same(folder / 'whole' / LAST[task], out / LAST[task])
        assert not half_written(out)
        counts['runs compared'] += 1
        shutil.rmtree(out)
        resume = []
    counts['seconds'] = round(time.monotonic() - began)
    return counts


def kill_runs(data: Path, folder: Path, kills: int, seed: int, tasks: list[str]) -> None:
    """Kill runs of some tasks; prints a line of json with the counts of each."""
    sys.path.insert(0, str(REPOSITORY / 'tools'))
    train = import_module('train').main
    for name in ('mmdet.utils', 'mmseg.utils'):
        import_module(name).register_all_modules(init_default_scope=False)
    for name in ('timm.data', 'matplotlib.figure', 'convnext_backbone.datasets.shard_stream', 'pycocotools.cocoeval'):
        import_module(name)
    os.environ['LOCAL_RANK'] = '0'
    # What takes seconds of each start and has nothing to do with how a run ends.
    mmengine.config.utils.load = functools.cache(mmengine.config.utils.load)
    Config.fromfile(DETECTOR)
    Config.pretty_text = ''
    import_module('mmengine.runner.runner').collect_env = dict
    import_module('mmengine.runner.loops').time = SimpleNamespace(sleep=lambda seconds: None)
    gc.freeze()  # what a run collects is then its own
    for number, task in enumerate(tasks):
        (folder / task).mkdir(parents=True)
        share = kills // len(tasks) + (number < kills % len(tasks))
        counts = kill_and_resume(task, train, data, folder / task, share, random.Random(f'{seed} {task}'))
        print(json.dumps({'task': task, **counts}), flush=True)


def test_a_run_killed_at_random_moments_resumes_to_the_same_weights(shapes, tmp_path):
    """Also while a checkpoint is written, and before the first one."""
    kills, seed = os.environ.get('KILLS', '6'), os.environ.get('SEED', '0')
    command = [sys.executable, __file__, str(shapes), str(tmp_path), kills, seed, *CONFIGS]
    environment = {**os.environ, 'OMP_NUM_THREADS': '1', 'PYTHONPATH': f'{REPOSITORY}{os.pathsep}{REPOSITORY}/tests'}
    result = subprocess.run(command, env=environment, capture_output=True, text=True)
    print(result.stdout)
    assert result.returncode == 0, result.stderr[-4000:]
    counts = [json.loads(line) for line in result.stdout.splitlines() if line.startswith('{')]
    assert [one['task'] for one in counts] == list(CONFIGS)
    assert sum(one['kills'] for one in counts) == int(kills)


if __name__ == '__main__':
    kill_runs(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]), sys.argv[5:])
