"""SIGKILL at random moments, a full disk, clocks that jump, odd paths: a run survives, or says why not. Exact.

``KILLS=100 python -m pytest -s tests/test_kills.py -k moments`` kills a hundred runs in the place of a few;
``SEED=...`` chooses other moments.
"""

import contextlib
import functools
import gc
import json
import os
import random
import re
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
from unittest.mock import Mock

import mmengine.config.utils
import pytest
import torch
from conftest import REPOSITORY, managers, refusal
from mmengine.config import Config
from mmengine.hooks import Hook, iter_timer_hook
from mmengine.logging import MessageHub, MMLogger
from mmengine.registry import HOOKS
from test_pretraining import DEMO, SMALL

from convnext_backbone import read_checkpoint
from convnext_backbone.reader import check_whole
from convnext_backbone.saving import AtomicCheckpointHook, find_checkpoints

DETECTOR = REPOSITORY / 'configs/demo/cascade_convnext_atto_shapes.py'
SEGMENTOR = REPOSITORY / 'configs/demo/upernet_convnext_atto_camvid.py'
TINY = 'dict(_delete_=True, depths=(1, 1, 2, 1), channels=(8, 16, 32, 64))'
PRETTY_TEXT = Config.pretty_text
# What makes a run of a second or two of each demo, with all that is random, and a checkpoint after each step.
CONFIGS = dict(
    classifier=f"""
_base_ = {str(DEMO)!r}
model = dict(backbone=dict(arch={TINY}))
default_hooks = dict(checkpoint=dict(by_epoch=False, interval=1))
""",
    detector=f"""
_base_ = {str(DETECTOR)!r}
model = dict(
    backbone=dict(arch={TINY}, drop_path_rate=0.5, fused=True),
    neck=dict(in_channels=[8, 16, 32, 64], out_channels=16),
    rpn_head=dict(in_channels=16, feat_channels=16),
    roi_head=dict(
        bbox_roi_extractor=dict(out_channels=16),
        bbox_head=[
            {{**head, 'in_channels': 16, 'conv_out_channels': 16, 'fc_out_channels': 32}}
            for head in _base_.model.roi_head.bbox_head
        ],
        mask_roi_extractor=dict(out_channels=16),
        mask_head=dict(in_channels=16, conv_out_channels=16),
    ),
    test_cfg=dict(rpn=dict(max_per_img=20), rcnn=dict(max_per_img=5)),
)
small = dict(type='Resize', scale=(128, 96), keep_ratio=True)
train_pipeline = [*_base_.load, small, *_base_.train_pipeline[3:]]
test_pipeline = [*_base_.load, small, *_base_.test_pipeline[3:]]
train_dataloader = dict(num_workers=1, persistent_workers=True, dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
train_cfg = dict(max_epochs=2)
default_hooks = dict(checkpoint=dict(by_epoch=False, interval=1), logger=dict(interval=1))
randomness = dict(seed=3)
""",
    segmentor=f"""
_base_ = {str(SEGMENTOR)!r}
classes = ('circle', 'square', 'triangle', 'star', 'cross')
model = dict(
    data_preprocessor=dict(size=(64, 64)),
    backbone=dict(arch={TINY}, drop_path_rate=0.5),
    decode_head=dict(in_channels=[8, 16, 32, 64], channels=16, num_classes=5),
    auxiliary_head=dict(in_channels=32, channels=16, num_classes=5),
)
load = [dict(type='LoadImageFromFile'), dict(type='LoadAnnotations', reduce_zero_label=True)]
crop = [
    dict(type='RandomResize', scale=(128, 96), ratio_range=(0.75, 1.5), keep_ratio=True),
    dict(type='RandomCrop', crop_size=(64, 64), cat_max_ratio=0.75),
]
train_pipeline = [*load, *crop, *_base_.train_pipeline[4:]]
test_pipeline = [load[0], dict(type='Resize', scale=(128, 96), keep_ratio=True), load[1], _base_.test_pipeline[-1]]
drawings = dict(metainfo=dict(_delete_=True, classes=classes), reduce_zero_label=True)
train_dataloader = dict(
    batch_size=2,
    dataset=dict(
        data_prefix=dict(img_path='images/training', seg_map_path='annotations/training'),
        pipeline=train_pipeline,
        **drawings,
    ),
)
val_dataloader = dict(
    dataset=dict(
        data_prefix=dict(img_path='images/validation', seg_map_path='annotations/validation'),
        pipeline=test_pipeline,
        **drawings,
    ),
)
test_dataloader = val_dataloader
train_cfg = dict(max_iters=6, val_interval=3)
param_scheduler = [{{**_base_.param_scheduler[0], 'end': 4}}, {{**_base_.param_scheduler[1], 'begin': 4, 'end': 6}}]
default_hooks = dict(logger=dict(interval=1), checkpoint=dict(interval=1))
randomness = dict(seed=3)
""",
)
LAST = dict(classifier='iter_12.pth', detector='iter_6.pth', segmentor='iter_6.pth')
PARTS = dict(classifier='imagenet', detector='', segmentor='ade')


def write_config(task: str, folder: Path, more: str = '') -> Path:
    path = folder / f'{task}.py'
    path.write_text(CONFIGS[task] + more)
    return path


def arguments(task: str, config: Path, data: Path, work_dir: object = 'out', options=()) -> list[object]:
    options = [*(SMALL if task == 'classifier' else []), *options]
    flags = ['--data-root', data / PARTS[task], '--work-dir', work_dir]
    return [config, *flags, *(['--cfg-options', *options] if options else [])]


def differences(one: object, other: object, where: str = '') -> list[str]:
    """Where two states differ in a single bit."""
    if isinstance(one, torch.Tensor):
        same = one.dtype == other.dtype and torch.equal(one, other)
        return [] if same else [where]
    if isinstance(one, dict):
        if one.keys() != other.keys():
            return [f'{where}: {one.keys() ^ other.keys()}']
        return [found for key in one for found in differences(one[key], other[key], f'{where}.{key}')]
    if isinstance(one, (list, tuple)):
        pairs = zip(range(len(one)), one, other, strict=True)
        return [found for i, a, b in pairs for found in differences(a, b, f'{where}.{i}')]
    return [] if one == other else [f'{where}: {one} {other}']


def check_same(one: Path, other: Path) -> None:
    """Weights, averaged ones where there are, optimizer and schedules of two checkpoints are the same to the bit."""
    states = [read_checkpoint(path) for path in (one, other)]
    assert states[0].keys() == states[1].keys() >= {'state_dict', 'optimizer', 'param_schedulers'}
    first, second = ({key: s[key] for key in s.keys() - {'meta', 'message_hub'}} for s in states)
    assert differences(first, second) == []
    assert states[0]['meta']['iter'] == states[1]['meta']['iter']


# --- Killed runs: in a process that has imported everything and forks for each run


def start(train: Callable[[], int], arguments: list[object], cwd: Path) -> int:
    """A process, in a group of its own, that does what ``tools/train.py`` does; returns its id."""
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
    """Kills a process and its group once it is time, unless it ends before; returns its exit code, -9 if killed."""
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


def contents(folder: Path, pattern: str = '*.pth') -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.glob(pattern) if path.is_file()}


def half_written(work_dir: Path) -> set[str]:
    return {path.name for path in work_dir.glob('.*.pth.*.tmp')}


def any_moment(chance: random.Random, seconds: float) -> Callable[[], bool]:
    end = time.monotonic() + chance.uniform(0, seconds)
    return lambda: time.monotonic() > end


def while_writing(chance: random.Random, work_dir: Path) -> Callable[[], bool]:
    """Some checkpoint is being written: none of it or a part may be in the file, or all, under its old or new name."""
    seen, number = half_written(work_dir), chance.randint(1, 4) + len(half_written(work_dir))

    def is_time() -> bool:
        seen.update(half_written(work_dir))
        if len(seen) < number:
            return False
        time.sleep(chance.uniform(0, 0.002))
        return True

    return is_time


def kill_and_resume(task: str, train: Callable, data: Path, folder: Path, kills: int, chance: random.Random) -> Counter:
    """Kills runs of a task so many times, resumes each to its end, and compares it with an undisturbed one."""
    config, told = write_config(task, folder), Counter()
    began = time.monotonic()
    code = wait(start(train, arguments(task, config, data, 'whole'), folder), lambda: False)
    assert code == 0, (folder / 'output').read_text()[-3000:]
    seconds = time.monotonic() - began
    out, command = folder / 'out', arguments(task, config, data)
    resume, alive = [], False
    while told['kills'] < kills or alive:
        is_time = lambda: False  # noqa: E731  # once there are enough, a run may end
        if told['kills'] < kills:
            aimed = chance.random() < 0.5
            is_time = while_writing(chance, out) if aimed else any_moment(chance, seconds)
        before = half_written(out)
        code = wait(start(train, [command[0], *resume, *command[1:]], folder), is_time)
        alive = code == -signal.SIGKILL
        if alive:
            told['kills'] += 1
            told['while a checkpoint was written'] += bool(half_written(out) - before)
            for path in out.glob('*.pth'):
                check_whole(path)
            resume = ['--resume'] if find_checkpoints(out) else []
            if not resume:
                told['before the first checkpoint'] += 1
                logs = contents(out, '*/**/*.*')
                code = wait(start(train, [command[0], '--resume', *command[1:]], folder), lambda: False)
                output = (folder / 'output').read_text()
                assert code == 2 and 'no whole checkpoint' in output and 'Traceback' not in output, output[-3000:]
                assert contents(out, '*/**/*.*') == logs
            continue
        assert code == 0, (folder / 'output').read_text()[-3000:]
        check_same(folder / 'whole' / LAST[task], out / LAST[task])
        assert not half_written(out)
        told['runs compared'] += 1
        shutil.rmtree(out)
        resume = []
    told['seconds'] = round(time.monotonic() - began)
    return told


def kill_runs(data: Path, folder: Path, kills: int, seed: int, tasks: list[str]) -> None:
    """Kills runs of some tasks; prints a line of json with what happened for each."""
    sys.path.insert(0, str(REPOSITORY / 'tools'))
    train = import_module('train').main
    for name in ('mmdet.utils', 'mmseg.utils'):
        import_module(name).register_all_modules(init_default_scope=False)
    for name in ('timm.data', 'matplotlib.figure', 'convnext_backbone.stream', 'pycocotools.cocoeval'):
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
        told = kill_and_resume(task, train, data, folder / task, share, random.Random(f'{seed} {task}'))
        print(json.dumps({'task': task, **told}), flush=True)


def test_a_run_killed_at_random_moments_resumes_to_the_same_weights(shapes, tmp_path):
    """While a checkpoint is written, and before the first one, too."""
    kills, seed = os.environ.get('KILLS', '6'), os.environ.get('SEED', '0')
    command = [sys.executable, __file__, str(shapes), str(tmp_path), kills, seed, *CONFIGS]
    result = subprocess.run(command, env={**os.environ, 'OMP_NUM_THREADS': '1'}, capture_output=True, text=True)
    print(result.stdout)
    assert result.returncode == 0, result.stderr[-4000:]
    told = [json.loads(line) for line in result.stdout.splitlines() if line.startswith('{')]
    assert [one['task'] for one in told] == list(CONFIGS)
    assert sum(one['kills'] for one in told) == int(kills)


# --- Disks, clocks and paths: in the process of the tests


@HOOKS.register_module()
class Fault(Hook):
    """Lets something happen before some iterations."""

    strike: Callable[[int], None] | None = None

    def __init__(self, at: list[int]) -> None:
        self._at = at

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        if Fault.strike is not None and runner.iter + 1 in self._at:
            Fault.strike(runner.iter + 1)


def forget_runs() -> None:
    """Lets a second begin within the same second, after which mmengine names a run."""
    for logger in MMLogger._instance_dict.values():
        for handler in logger.handlers:
            with contextlib.suppress(OSError):  # of a full disk
                handler.close()
    for kind in managers():
        kind._instance_dict.clear()


@pytest.fixture
def train(shapes, tmp_path, call_tool, monkeypatch):
    """Trains a classifier of a second in this process, and lets something happen before some iterations."""
    monkeypatch.setattr('mmengine.runner.loops.time', SimpleNamespace(sleep=lambda seconds: None))

    def train(work_dir, *flags, strike=None, at=(), options=()):
        more = f'custom_hooks = [*_base_.custom_hooks, dict(type="Fault", at={[*at]})]'
        config = write_config('classifier', tmp_path, more)
        monkeypatch.setattr(Fault, 'strike', strike and staticmethod(strike))
        options = ['train_dataloader.num_workers=0', *options]
        command, *rest = arguments('classifier', config, shapes, work_dir, options)
        result = call_tool('train.py', command, *flags, *rest, cwd=tmp_path)
        forget_runs()
        return result

    return train


@contextlib.contextmanager
def mounted(place: Path, *options: object):
    """Something at a place of the file system; skips where that cannot be."""
    place.mkdir()
    try:
        result = subprocess.run(['mount', *map(str, options), str(place)], capture_output=True, text=True)
    except FileNotFoundError as error:
        pytest.skip(f'nothing can be mounted here: {error}')
    if result.returncode:
        pytest.skip(f'nothing can be mounted here: {result.stderr.strip()}')
    try:
        yield place
    finally:
        subprocess.run(['umount', '--lazy', str(place)], check=True)


def fill(disk: Path, leave: int = 0) -> None:
    with (disk / 'filler').open('wb') as file:
        file.write(bytes(shutil.disk_usage(disk).free - leave))


@pytest.mark.parametrize('left', ['nothing', 'half a checkpoint'])
def test_a_full_disk_stops_a_run_that_goes_on_when_there_is_room(left, train, tmp_path):
    assert train('whole').returncode == 0
    half = (tmp_path / 'whole' / LAST['classifier']).stat().st_size // 2
    with mounted(tmp_path / 'disk', '-t', 'tmpfs', '-o', 'size=64m', 'tmpfs') as disk:
        out, saved = disk / 'out', {}

        def strike(iteration):
            saved.update(contents(out))
            fill(disk, half if left == 'half a checkpoint' else 0)

        for resume in ([], ['--resume']):  # the second time it is full from the start
            sentence = refusal(train(out, *resume, strike=strike if not resume else None, at=[8]))
            assert all(word in sentence for word in (str(out), 'No space left on device', 'Free space'))
            assert contents(out) == saved and find_checkpoints(out)[0].name == 'iter_6.pth'
            assert not half_written(out)
        (disk / 'filler').unlink()
        result = train(out, '--resume')
        assert result.returncode == 0 and 'iter: 6' in result.stdout, result.stderr[-3000:]
        check_same(tmp_path / 'whole' / LAST['classifier'], out / LAST['classifier'])


def test_a_log_that_cannot_be_written_ends_in_one_sentence(train, tmp_path):
    """On a disk that gets full, and on one that is."""
    with mounted(tmp_path / 'disk', '-t', 'tmpfs', '-o', 'size=64m', 'tmpfs') as disk:
        options = ['default_hooks.checkpoint.interval=1000', 'train_cfg.max_epochs=9', 'train_cfg.val_interval=100']
        for name in ('out', 'new'):
            sentence = refusal(train(disk / name, strike=lambda iteration: fill(disk), at=[2], options=options))
            assert 'No space left on device' in sentence and str(disk / name) in sentence


def test_a_clock_that_jumps_changes_nothing(train, tmp_path, monkeypatch):
    """A day back and two forth, the times of files too: the same weights, and the right checkpoint to resume from."""
    assert train('whole').returncode == 0
    jump, now, replace = [0], time.time, os.replace

    def replaced(source, target):
        replace(source, target)
        os.utime(target, (time.time(), time.time()))

    def strike(iteration):
        jump[0] += {4: -86400, 9: 2 * 86400, 10: -3 * 86400}[iteration] if iteration < 11 else 0
        if iteration == 12:
            raise KeyboardInterrupt

    monkeypatch.setattr(iter_timer_hook, 'time', time)  # undone in the end
    monkeypatch.setattr(time, 'time', lambda: now() + jump[0])
    monkeypatch.setattr(os, 'replace', replaced)
    options = ['default_hooks.checkpoint.max_keep_ckpts=-1']
    result = train('out', strike=strike, at=[4, 9, 10, 12], options=options)
    assert result.returncode == 130, result.stderr[-3000:]
    told = re.findall(r'Epoch.train. .* eta: (.*?)  time: (\S+)', result.stdout)
    assert len(told) == 11 and all(re.fullmatch(r'0:\d\d:\d\d', eta) and 0 < float(took) < 60 for eta, took in told)
    out = tmp_path / 'out'
    assert max(out.glob('iter_*.pth'), key=lambda path: path.stat().st_mtime).name != 'iter_10.pth'
    (out / 'last_checkpoint').unlink()
    result = train('out', '--resume', options=options)
    assert result.returncode == 0 and 'iter: 10' in result.stdout, result.stderr[-3000:]
    check_same(tmp_path / 'whole' / LAST['classifier'], out / LAST['classifier'])


@pytest.mark.parametrize('place', ['read-only', 'a file'])
def test_a_work_dir_that_cannot_be_written_is_named(place, train, shapes, tmp_path, call_tool):
    assert train('out').returncode == 0
    config, checkpoint = tmp_path / 'classifier.py', tmp_path / 'out' / LAST['classifier']
    before = contents(tmp_path / 'out')
    with contextlib.ExitStack() as stack:
        folder = tmp_path / 'place'
        if place == 'a file':
            folder.write_text('')
        else:
            stack.enter_context(mounted(folder, '--bind', tmp_path / 'out'))
            subprocess.run(['mount', '-o', 'remount,bind,ro', folder], check=True)
        for work_dir in (folder, folder / 'below'):
            data = ['--data-root', shapes / 'imagenet', '--work-dir', work_dir]
            for result in (
                train(work_dir),
                train(work_dir, '--resume'),
                call_tool('test.py', config, checkpoint, *data, cwd=tmp_path),
                call_tool('predict.py', config, checkpoint, shapes / 'val2017', *data, cwd=tmp_path),
            ):
                sentence = refusal(result)
                assert str(work_dir) in sentence and '--work-dir' in sentence
    assert contents(tmp_path / 'out') == before


ODD = 'Übung – 训练 ✨ [1] 100% {x} $HOME #2'


@pytest.mark.parametrize('task', CONFIGS)
@pytest.mark.parametrize('links', [False, True])
def test_odd_names_and_links_work(task, links, shapes, tmp_path, call_tool, monkeypatch):
    """For train.py, a resume, test.py and predict.py; the data a link to a folder of links, or not."""
    if task == 'classifier' and not links:
        monkeypatch.setattr(Config, 'pretty_text', PRETTY_TEXT)
    place, work_dir = tmp_path / ODD, Path(ODD) / 'out'
    place.mkdir()
    real, data = (place / 'real', place / 'data') if links else (place / 'data', place / 'data')
    shutil.copytree(shapes / PARTS[task], real, copy_function=os.symlink if links else shutil.copy2)
    if links:
        data.symlink_to(real)
    config = write_config(task, place)
    monkeypatch.setitem(PARTS, task, '')

    def call(tool, *flags, options=()):
        _, *rest = arguments(task, config, data, work_dir, options)
        result = call_tool(tool, config, *flags, *rest, cwd=tmp_path)
        forget_runs()
        assert result.returncode == 0, result.stderr[-3000:]
        return result.stdout

    short = ['train_dataloader.num_workers=0', 'train_dataloader.persistent_workers=False']
    part = 'train_cfg.max_iters=2' if task == 'segmentor' else 'train_cfg.max_epochs=1'
    assert str(work_dir) in call('train.py', options=[*short, part])
    if task == 'classifier' and not links:
        assert Config.fromfile(tmp_path / work_dir / config.name).train_dataloader.dataset.data_root == f'{data}/'
    assert 'resumed epoch' in call('train.py', '--resume', options=short)
    checkpoint = tmp_path / work_dir / LAST[task]
    call('test.py', checkpoint)
    image = next(path for path in sorted(data.glob('**/*')) if path.suffix in ('.jpg', '.JPEG'))
    call('predict.py', checkpoint, image)
    left = {str(path.relative_to(tmp_path / work_dir)) for path in (tmp_path / work_dir).glob('**/*')}
    assert {LAST[task], 'curves.png', 'scores.json', 'predictions/overview.png'} <= left
    assert str(image) in str(json.loads((tmp_path / work_dir / 'predictions/predictions.json').read_text()))


def test_the_best_checkpoint_goes_when_a_better_one_is_in_place(tmp_path):
    seen = []

    def save(folder, filename, *args, **settings):
        (tmp_path / filename).touch()
        seen.append(sorted(path.name for path in tmp_path.glob('best_*')))

    hook = AtomicCheckpointHook(interval=1, save_best='score', rule='greater')
    runner = Mock(work_dir=str(tmp_path), save_checkpoint=save, message_hub=MessageHub('best'))
    hook.before_train(runner)
    for runner.epoch, score in ((1, 0.1), (2, 0.5), (3, 0.3), (4, 0.9)):
        hook.after_val_epoch(runner, dict(score=score))
    names = [f'best_score_epoch_{epoch}.pth' for epoch in (1, 2, 4)]
    assert seen == [names[:1], names[:2], names[1:]] and [path.name for path in tmp_path.iterdir()] == names[2:]


if __name__ == '__main__':
    kill_runs(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]), sys.argv[5:])
