"""Deterministic resume: an interrupted run ends with the weights of an undisturbed one in every loop. Exact.

A toy model with dropout and random augmentation, in the engine's own loops; `test_tools.py` kills a detector.
"""

import itertools
import multiprocessing
import os
import signal
import time

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from small_runs import find_checkpoint
from torch import nn
from torch.utils.data import Dataset

from convnext_backbone import ResumableRunner, read_checkpoint
from convnext_backbone.engine.preemption import PreemptionHook

SAMPLES, BATCH, ITERATIONS = 12, 2, 15  # 6 batches an epoch: the run ends within the third
NUMBERS = itertools.count()


class Augmented(Dataset):
    """Augmentation by numpy and torch, and shuffling."""

    metainfo = dict(classes=('a',))

    def __len__(self):
        return SAMPLES

    def __getitem__(self, index):
        return dict(inputs=torch.randn(4) + float(np.random.rand()) + index)


class Toy(BaseModel):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.5), nn.BatchNorm1d(8), nn.Linear(8, 1))

    def forward(self, inputs, mode='tensor'):
        return dict(loss=self.layers(torch.stack(inputs)).square().mean())


class CutOff(Hook):
    def __init__(self, at):
        self.at = at

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        if runner.iter + 1 == self.at:
            self.cut()

    def cut(self):
        raise KeyboardInterrupt


class Preempt(CutOff):
    """Sends SIGTERM to the process, as a scheduler does."""

    def cut(self):
        os.kill(os.getpid(), signal.SIGTERM)


class PreemptedWorkers(Augmented):
    """Sends SIGTERM to the process and its worker while it waits for a batch."""

    def __getitem__(self, index):
        if torch.utils.data.get_worker_info() is not None and (self.at and index == self.at):
            time.sleep(0.5)  # until what came before is used up
            os.kill(os.getppid(), signal.SIGTERM)
            os.kill(os.getpid(), signal.SIGTERM)
        return super().__getitem__(index)


def train(work_dir, loop, workers, seed, cut=None, resume=False, dataset=None, step=1, hooks=(), **settings):
    loops = dict(
        epoch=dict(by_epoch=True, max_epochs=3),
        infinite=dict(by_epoch=False, max_iters=ITERATIONS),
        finite=dict(by_epoch=False, max_iters=ITERATIONS),
    )
    config = dict(
        model=Toy(),
        work_dir=str(work_dir),
        train_dataloader=dict(
            dataset=dataset or Augmented(),
            batch_size=BATCH,
            num_workers=workers,
            persistent_workers=workers > 0,
            sampler=dict(type='InfiniteSampler' if loop == 'infinite' else 'DefaultSampler', shuffle=True),
        ),
        train_cfg=loops[loop],
        optim_wrapper=dict(optimizer=dict(type='AdamW', lr=0.01), accumulative_counts=step),
        param_scheduler=dict(type='LinearLR', start_factor=0.1, by_epoch=False, end=10),
        default_hooks=dict(checkpoint=dict(type='CheckpointHook', by_epoch=False, interval=4, max_keep_ckpts=1)),
        custom_hooks=[*hooks, *([cut] if cut else [])],
        randomness=dict(seed=seed),
        resume=resume,
        load_from=str(find_checkpoint(work_dir)) if resume else None,
        experiment_name=f'toy_{next(NUMBERS)}',
    )
    runner = settings.pop('kind', ResumableRunner)(**{**config, **settings})
    try:
        runner.train()
    except KeyboardInterrupt:
        assert cut is not None
    except SystemExit as end:
        assert end.code == 143
    if workers:  # left to the garbage collector, each is waited for 5 s
        runner.train_dataloader._iterator._shutdown_workers()
    return runner


@pytest.fixture(autouse=True)
def short_pause(monkeypatch):
    monkeypatch.setattr('mmengine.runner.loops.time.sleep', lambda seconds: None)  # 2 s at each end of a finite loader


@pytest.mark.parametrize(
    ('loop', 'workers'), [('epoch', 0), ('epoch', 2), ('infinite', 0), ('infinite', 2), ('finite', 0)]
)
@pytest.mark.parametrize('seed', [5, None])
def test_resume_is_exact(loop, workers, seed, tmp_path):
    if seed is None:  # a random seed, which the checkpoint alone knows
        seed_of_run = train(tmp_path / 'cut', loop, workers, None, cut=CutOff(10)).seed
        resumed = train(tmp_path / 'cut', loop, workers, None, resume=True)
        dumped = Config.fromfile(tmp_path / 'cut' / f'{resumed.timestamp}.py')
        assert dumped.randomness.seed == seed_of_run
    else:
        seed_of_run = seed
        train(tmp_path / 'cut', loop, workers, seed, cut=CutOff(10))
        resumed = train(tmp_path / 'cut', loop, workers, seed, resume=True)
    whole = train(tmp_path / 'whole', loop, workers, seed_of_run)
    assert resumed.iter == whole.iter == (18 if loop == 'epoch' else ITERATIONS)
    expected, got = whole.model.state_dict(), resumed.model.state_dict()
    assert [name for name in expected if not torch.equal(expected[name], got[name])] == []


@pytest.mark.parametrize(('loop', 'workers'), [('epoch', 0), ('epoch', 2), ('infinite', 0), ('finite', 2)])
@pytest.mark.parametrize('at', [1, 9, 12])  # 12: the last of an epoch
@pytest.mark.parametrize('step', [1, 2])
def test_sigterm_saves_the_state(loop, workers, at, step, tmp_path):
    """At a complete optimizer step."""
    before = signal.getsignal(signal.SIGTERM)
    stopped = train(tmp_path / 'cut', loop, workers, 5, cut=Preempt(at), step=step)
    assert signal.getsignal(signal.SIGTERM) is before
    assert read_checkpoint(find_checkpoint(tmp_path / 'cut'))['meta']['iter'] == -(-at // step) * step
    assert stopped.iter < ITERATIONS and find_checkpoint(tmp_path / 'cut').name == 'stopped.pth'
    resumed = train(tmp_path / 'cut', loop, workers, 5, resume=True, step=step)
    whole = train(tmp_path / 'whole', loop, workers, 5, step=step)
    expected, got = whole.model.state_dict(), resumed.model.state_dict()
    assert [name for name in expected if not torch.equal(expected[name], got[name])] == []


def test_the_workers_of_a_pool_can_be_ended():
    """By SIGTERM, as metrics end the pools that they compute scores with; a run waited for them without end."""
    hook = PreemptionHook()
    hook.before_train(None)
    try:
        with multiprocessing.get_context('fork').Pool(2) as pool:
            assert pool.map(abs, [-1, 2, -3]) == [1, 2, 3]
            pool.map_async(time.sleep, [20, 20])
            time.sleep(0.5)
            start = time.monotonic()
        assert time.monotonic() - start < 10 and not hook._requested
    finally:
        hook.after_train(None)


def test_sigterm_to_workers_too_saves_the_state(tmp_path):
    dataset = PreemptedWorkers()
    dataset.at = 5
    train(tmp_path / 'cut', 'epoch', 1, 5, dataset=dataset)
    assert find_checkpoint(tmp_path / 'cut').name == 'stopped.pth'
    dataset.at = None
    resumed = train(tmp_path / 'cut', 'epoch', 1, 5, resume=True, dataset=dataset)
    whole = train(tmp_path / 'whole', 'epoch', 1, 5)
    expected, got = whole.model.state_dict(), resumed.model.state_dict()
    assert [name for name in expected if not torch.equal(expected[name], got[name])] == []


@pytest.mark.parametrize(('step', 'remedy'), [(1, 'accumulative_counts=4 '), (4, None)])
def test_another_batch_size_than_the_recipe_is_logged_with_its_remedy(step, remedy, tmp_path):
    train(tmp_path, 'infinite', 0, 5, step=step, auto_scale_lr=dict(base_batch_size=8))
    (log,) = (path.read_text() for path in tmp_path.glob('*/*.log'))
    line = next(line for line in log.splitlines() if 'images a step' in line)
    assert f'{2 * step} images a step = 1 processes x 2 images x {step} accumulated batches' in line
    assert (remedy in line and 'the recipe has 8' in line) if remedy else line.endswith('accumulated batches')


def test_the_newest_checkpoint_is_written_before_the_oldest_is_removed(tmp_path, monkeypatch):
    seen = []
    replace = __import__('os').replace

    def watch(source, target):
        replace(source, target)
        if str(target).endswith('.pth'):
            seen.append(sorted(path.name for path in tmp_path.glob('*.pth')))

    monkeypatch.setattr('convnext_backbone.utils.files.os.replace', watch)
    train(tmp_path, 'infinite', 0, 5)
    assert seen == [
        ['iter_4.pth'],
        ['iter_4.pth', 'iter_8.pth'],
        ['iter_12.pth', 'iter_8.pth'],
        ['iter_12.pth', 'iter_15.pth'],
    ]
    assert [path.name for path in tmp_path.glob('*.pth')] == ['iter_15.pth']
    assert read_checkpoint(find_checkpoint(tmp_path))['meta']['iter'] == 15
