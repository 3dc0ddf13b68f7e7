"""Exact: a run that is cut off and resumed ends with the weights of an undisturbed one, bit for bit, in every loop.

A toy model with dropout and random augmentation, in the engine's own loops; `test_tools.py` kills a detector.
"""

import itertools

import numpy as np
import pytest
import torch
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from torch import nn
from torch.utils.data import Dataset

from convnext_backbone import ResumableRunner, read_checkpoint
from convnext_backbone.saving import find_checkpoint

SAMPLES, BATCH, ITERATIONS = 12, 2, 15  # 6 batches an epoch: the run ends within the third
NUMBERS = itertools.count()


class Augmented(Dataset):
    """Random by numpy, by torch and by order."""

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
            raise KeyboardInterrupt


def train(work_dir, loop, workers, seed, cut=None, resume=False):
    loops = dict(
        epoch=dict(by_epoch=True, max_epochs=3),
        infinite=dict(by_epoch=False, max_iters=ITERATIONS),
        finite=dict(by_epoch=False, max_iters=ITERATIONS),
    )
    runner = ResumableRunner(
        model=Toy(),
        work_dir=str(work_dir),
        train_dataloader=dict(
            dataset=Augmented(),
            batch_size=BATCH,
            num_workers=workers,
            persistent_workers=workers > 0,
            sampler=dict(type='InfiniteSampler' if loop == 'infinite' else 'DefaultSampler', shuffle=True),
        ),
        train_cfg=loops[loop],
        optim_wrapper=dict(optimizer=dict(type='AdamW', lr=0.01)),
        param_scheduler=dict(type='LinearLR', start_factor=0.1, by_epoch=False, end=10),
        default_hooks=dict(checkpoint=dict(type='CheckpointHook', by_epoch=False, interval=4, max_keep_ckpts=1)),
        custom_hooks=[CutOff(cut)],
        randomness=dict(seed=seed),
        resume=resume,
        load_from=str(find_checkpoint(work_dir)) if resume else None,
        experiment_name=f'toy_{next(NUMBERS)}',
    )
    try:
        runner.train()
    except KeyboardInterrupt:
        assert cut is not None
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
        seed_of_run = train(tmp_path / 'cut', loop, workers, None, cut=10).seed
        resumed = train(tmp_path / 'cut', loop, workers, None, resume=True)
    else:
        seed_of_run = seed
        train(tmp_path / 'cut', loop, workers, seed, cut=10)
        resumed = train(tmp_path / 'cut', loop, workers, seed, resume=True)
    whole = train(tmp_path / 'whole', loop, workers, seed_of_run)
    assert resumed.iter == whole.iter == (18 if loop == 'epoch' else ITERATIONS)
    expected, got = whole.model.state_dict(), resumed.model.state_dict()
    assert [name for name in expected if not torch.equal(expected[name], got[name])] == []


def test_the_newest_checkpoint_is_written_before_the_oldest_goes(tmp_path, monkeypatch):
    seen = []
    replace = __import__('os').replace

    def watch(source, target):
        replace(source, target)
        if str(target).endswith('.pth'):
            seen.append(sorted(path.name for path in tmp_path.glob('*.pth')))

    monkeypatch.setattr('convnext_backbone.saving.os.replace', watch)
    train(tmp_path, 'infinite', 0, 5)
    assert seen == [
        ['iter_4.pth'],
        ['iter_4.pth', 'iter_8.pth'],
        ['iter_12.pth', 'iter_8.pth'],
        ['iter_12.pth', 'iter_15.pth'],
    ]
    assert [path.name for path in tmp_path.glob('*.pth')] == ['iter_15.pth']
    assert read_checkpoint(find_checkpoint(tmp_path))['meta']['iter'] == 15
