"""Fault tolerance: full disks, jumping clocks, read-only folders, unusual paths, interrupted validation. Exact."""

import contextlib
import json
import os
import re
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import Mock

import pytest
from conftest import managers, refusal
from mmengine.config import Config
from mmengine.hooks import Hook, iter_timer_hook
from mmengine.logging import MessageHub, MMLogger
from mmengine.registry import HOOKS
from small_runs import CONFIGS, LAST, PARTS, arguments, check_same, contents, half_written, write_config

from convnext_backbone.engine.checkpoint import AtomicCheckpointHook
from convnext_backbone.engine.resume import find_checkpoints

PRETTY_TEXT = Config.pretty_text


@HOOKS.register_module()
class Fault(Hook):
    """Injects a fault before some iterations."""

    strike: Callable[[int], None] | None = None

    def __init__(self, at: list[int]) -> None:
        self._at = at

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        if Fault.strike is not None and runner.iter + 1 in self._at:
            Fault.strike(runner.iter + 1)


def forget_runs() -> None:
    """Allow another run within the same second: mmengine names runs by their time."""
    for logger in MMLogger._instance_dict.values():
        for handler in logger.handlers:
            with contextlib.suppress(OSError):  # of a full disk
                handler.close()
    for kind in managers():
        kind._instance_dict.clear()


@pytest.fixture
def train(shapes, tmp_path, call_tool, monkeypatch):
    """Train a small classifier in this process, with a fault before some iterations."""
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
    """Mount something at a path; skips where that is not allowed."""
    place.mkdir()
    try:
        result = subprocess.run(['mount', *map(str, options), str(place)], capture_output=True, text=True)
    except FileNotFoundError as error:
        pytest.skip(f'mounting is not possible here: {error}')
    if result.returncode:
        pytest.skip(f'mounting is not possible here: {result.stderr.strip()}')
    try:
        yield place
    finally:
        subprocess.run(['umount', '--lazy', str(place)], check=True)


def fill(disk: Path, leave: int = 0) -> None:
    with (disk / 'filler').open('wb') as file:
        file.write(bytes(shutil.disk_usage(disk).free - leave))


@pytest.mark.parametrize('left', ['nothing', pytest.param('half a checkpoint', marks=pytest.mark.slow)])
def test_a_full_disk_stops_a_run_that_resumes_once_there_is_space(left, train, tmp_path):
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
    """On a disk that fills up, and on a full one."""
    with mounted(tmp_path / 'disk', '-t', 'tmpfs', '-o', 'size=64m', 'tmpfs') as disk:
        options = ['default_hooks.checkpoint.interval=1000', 'train_cfg.max_epochs=9', 'train_cfg.val_interval=100']
        for name in ('out', 'new'):
            sentence = refusal(train(disk / name, strike=lambda iteration: fill(disk), at=[2], options=options))
            assert 'No space left on device' in sentence and str(disk / name) in sentence


def test_a_full_disk_ends_a_test_in_one_sentence(train, shapes, tmp_path, call_tool, capsys):
    assert train('out').returncode == 0
    with mounted(tmp_path / 'disk', '-t', 'tmpfs', '-o', 'size=1m', 'tmpfs') as disk:
        (disk / 'out').mkdir()
        fill(disk)
        config, *rest = arguments('classifier', tmp_path / 'classifier.py', shapes, disk / 'out')
        checkpoint = tmp_path / 'out' / LAST['classifier']
        result = call_tool('test.py', config, checkpoint, *rest, cwd=tmp_path)
        forget_runs()
    assert 'cannot be written: No space left on device' in refusal(result) and str(disk / 'out') in result.stderr
    assert 'Logging error' not in result.stderr + capsys.readouterr().err


WRITTEN = ('.lock', 'last_checkpoint', 'curves.png', 'confusion.png', 'per_class.json', 'classifier.py', 'scores.json')


@pytest.mark.parametrize('kind', ['symbolic', 'hard', 'to nothing'])
def test_links_in_a_work_dir_are_not_followed(kind, train, shapes, tmp_path, call_tool):
    """A work_dir from elsewhere may have links to files of its user under the names that a run writes."""
    out, other = tmp_path / 'out', tmp_path / 'other'
    out.mkdir(), other.mkdir()
    for name in WRITTEN:
        if kind != 'to nothing':
            (other / name).write_text('thesis')
        (out / name).hardlink_to(other / name) if kind == 'hard' else (out / name).symlink_to(other / name)
    assert train('out', options=['train_cfg.max_epochs=1', 'train_cfg.val_interval=1']).returncode == 0
    config, *rest = arguments('classifier', tmp_path / 'classifier.py', shapes)
    result = call_tool('test.py', config, out / 'iter_6.pth', *rest, cwd=tmp_path)
    assert result.returncode == 0, result.stderr[-3000:]
    assert contents(other, '*') == {str(other / name): b'thesis' for name in WRITTEN if kind != 'to nothing'}
    for name in WRITTEN:
        assert not (out / name).is_symlink() and (out / name).is_file()
        # A lock takes nothing from the file that it locks.
        assert (out / name).stat().st_nlink == 1 or (name, kind) == ('.lock', 'hard')


def test_a_clock_that_jumps_changes_nothing(train, tmp_path, monkeypatch):
    """A day back and two ahead, for files too: the same weights, and the right checkpoint to resume from."""
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
    logged = re.findall(r'Epoch.train. .* eta: (.*?)  time: (\S+)', result.stdout)
    assert len(logged) == 11 and all(re.fullmatch(r'0:\d\d:\d\d', eta) and 0 < float(took) < 60 for eta, took in logged)
    out = tmp_path / 'out'
    assert max(out.glob('iter_*.pth'), key=lambda path: path.stat().st_mtime).name != 'iter_10.pth'
    (out / 'last_checkpoint').unlink()
    result = train('out', '--resume', options=options)
    assert result.returncode == 0 and 'iter: 10' in result.stdout, result.stderr[-3000:]
    check_same(tmp_path / 'whole' / LAST['classifier'], out / LAST['classifier'])


@pytest.mark.parametrize('place', ['read-only', pytest.param('a file', marks=pytest.mark.slow)])
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
@pytest.mark.parametrize('links', [pytest.param(False, marks=pytest.mark.slow), True])
def test_unusual_paths_and_links_work(task, links, shapes, tmp_path, call_tool, monkeypatch):
    """For train.py, a resume, test.py, which repeats its scores, and predict.py; with the data behind links, or not."""
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
    said = call('train.py', '--resume', options=short)
    assert 'resumed epoch' in said
    checkpoint = tmp_path / work_dir / LAST[task]
    call('test.py', checkpoint)
    scores = json.loads((tmp_path / work_dir / 'scores.json').read_text())
    assert scores and all(f' {name}: {score:.4f}  ' in said for name, score in scores.items() if score is not None)
    image = next(path for path in sorted(data.glob('**/*')) if path.suffix in ('.jpg', '.JPEG'))
    call('predict.py', checkpoint, image)
    left = {str(path.relative_to(tmp_path / work_dir)) for path in (tmp_path / work_dir).glob('**/*')}
    assert {LAST[task], 'curves.png', 'scores.json', 'predictions/overview.png'} <= left
    assert str(image) in str(json.loads((tmp_path / work_dir / 'predictions/predictions.json').read_text()))


@HOOKS.register_module()
class CutValidation(Hook):
    """Interrupts a run while it validates an epoch."""

    epoch: int | None = None

    def before_val_epoch(self, runner):
        if runner.epoch == CutValidation.epoch:
            raise KeyboardInterrupt


@pytest.mark.parametrize('epoch', [1, 2])
def test_an_interrupted_validation_runs_on_resume(epoch, train, tmp_path, monkeypatch):
    """Once, with the scores and the best checkpoint of an undisturbed run."""
    options = ['default_hooks.checkpoint.by_epoch=True', 'custom_hooks.0.type=CutValidation']
    monkeypatch.setattr(CutValidation, 'epoch', epoch)
    assert train('out', options=options).returncode == 130
    monkeypatch.setattr(CutValidation, 'epoch', None)
    seen = []
    for name, *resume in (('out', '--resume'), ('whole',), ('out', '--resume')):
        result = train(name, *resume, options=options)
        assert result.returncode == 0, result.stderr[-3000:]
        lines = [line for line in result.stdout.splitlines() if f'Epoch(val) [{epoch}]' in line and 'top1' in line]
        seen.append([re.sub('.*INFO - |  data_time.*', '', line) for line in lines])
    assert seen[0] == seen[1] != [] and seen[2] == []
    best = [sorted(path.name for path in (tmp_path / name).glob('best_*')) for name in ('out', 'whole')]
    assert best[0] == best[1] != []


def test_the_best_checkpoint_is_removed_after_a_better_one_is_written(tmp_path):
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
