"""Data-parallel and sharded training gives the weights of a single process. To 1e-5."""

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist
from conftest import REPOSITORY
from families import TINY
from test_pretraining import differing
from torch.distributed.tensor import DTensor

from convnext_backbone import ConvNeXt, ResumableRunner, read_checkpoint
from convnext_backbone.engine.ema import AveragedWeightsHook
from convnext_backbone.engine.fsdp import shard
from convnext_backbone.utils.errors import ArgumentError

TASKS = ('classifier', 'detector', 'frozen detector', 'segmentor', 'autoencoder')
SHARDED = ['--options', 'model_wrapper_cfg.type=fully_shard']
ZERO = [
    '--options',
    'optim_wrapper.optimizer.type=ZeroRedundancyOptimizer',
    'optim_wrapper.optimizer.optimizer_type=AdamW',
]
SHARDS = pytest.mark.skipif(
    not hasattr(torch.cpu.Stream, 'record_event'), reason='fully_shard of this torch, as of 2.6, needs a GPU'
)


@pytest.fixture(scope='session')
def data(make_once) -> Path:
    """Eight images of one object each, so that all tasks have as many samples."""

    def draw(folder: Path) -> None:
        command = [sys.executable, REPOSITORY / 'tools/make_shapes.py', folder / 'data', '--train', 8, '--val', 4]
        command += ['--size', 128, 96, '--max-objects', 1]
        subprocess.run([*map(str, command)], check=True, capture_output=True)

    return make_once('even_shapes', draw) / 'data'


def launch(command: list[object], processes: int) -> None:
    """Run a script in so many processes."""
    torchrun = [sys.executable, '-m', 'torch.distributed.run', '--standalone', '--nproc-per-node', processes]
    environment = {**os.environ, 'OMP_NUM_THREADS': '1'}
    command = [*map(str, torchrun + command)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=900, env=environment)
    assert result.returncode == 0, result.stdout[-2000:] + result.stderr[-6000:]


def train(data: Path, out: Path, processes: int, *arguments: object) -> Path:
    """Train all tasks for three epochs of two steps."""
    launch([REPOSITORY / 'tests/train_all_tasks.py', data, out, *arguments], processes)
    return out


@pytest.fixture(scope='session')
def of_one(data, make_once) -> Path:
    return make_once('of_one', lambda folder: train(data, folder, 1))


def assert_equal(out: Path, expected: Path) -> None:
    """Compare full weights and optimizer states; most weights did change in training."""
    for task in TASKS:
        ours, theirs = (read_checkpoint(folder / task / 'epoch_3.pth') for folder in (out, expected))
        first = read_checkpoint(expected / task / 'epoch_1.pth')['state_dict']
        assert ours['state_dict'].keys() == theirs['state_dict'].keys()
        # Running statistics are those of the first process alone, without SyncBN, which wants a GPU.
        names = [name for name in first if not name.rpartition('.')[2].startswith(('running_', 'num_batches'))]
        assert (
            len(names) > 100 and sum(not torch.equal(first[name], theirs['state_dict'][name]) for name in names) > 100
        )
        for name in names:
            difference = (ours['state_dict'][name] - theirs['state_dict'][name]).abs().max()
            assert difference < 1e-5, f'{task}, {name}: {difference}'
        ours, theirs = ours['optimizer'], theirs['optimizer']
        assert [group['params'] for group in ours['param_groups']] == [
            group['params'] for group in theirs['param_groups']
        ]
        assert ours['state'].keys() == theirs['state'].keys()
        for number, state in theirs['state'].items():
            for name, tensor in state.items():
                torch.testing.assert_close(ours['state'][number][name], tensor, rtol=1e-2, atol=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize(
    ('processes', 'arguments'),
    [
        pytest.param(2, [], id='two'),
        pytest.param(4, [], id='four'),
        pytest.param(2, SHARDED, marks=SHARDS, id='two, sharded'),
        pytest.param(4, SHARDED, marks=SHARDS, id='four, sharded'),
        pytest.param(2, ZERO, id="two, the optimizer's state sharded"),
    ],
)
def test_more_processes_give_the_weights_of_one(processes, arguments, data, of_one, tmp_path):
    """With gradient accumulation and stochastic depth; an unused parameter would raise at the second step."""
    assert_equal(train(data, tmp_path, processes, *arguments), of_one)


@pytest.mark.slow
@pytest.mark.parametrize(
    'how',
    [pytest.param(SHARDED, marks=SHARDS, id='sharded'), pytest.param(ZERO, id="the optimizer's state sharded")],
)
def test_a_checkpoint_of_two_processes_resumes_in_one_and_back(how, data, of_one, tmp_path):
    for folder, processes, checkpoint, arguments in (
        (tmp_path / 'many', 2, of_one / '{task}/epoch_1.pth', how),
        (tmp_path / 'one', 1, tmp_path / 'many/{task}/epoch_2.pth', []),
    ):
        folder.mkdir()
        assert_equal(train(data, folder, processes, '--resume', checkpoint, *arguments), of_one)


@pytest.mark.slow
@SHARDS
def test_a_sharded_classifier_starts_from_a_checkpoint_and_is_tested(data, of_one, tmp_path):
    """In two processes, each of which checks that it fits."""
    config = tmp_path / 'sharded.py'
    base = REPOSITORY / 'configs/demo/pretrain_convnext_atto_shapes.py'
    config.write_text(f"_base_ = {str(base)!r}\nmodel_wrapper_cfg = dict(type='fully_shard')\ncustom_hooks = []\n")
    first, options = of_one / 'classifier/epoch_3.pth', ['train_cfg.max_epochs=1', 'train_dataloader.batch_size=4']
    options += ['auto_scale_lr.base_batch_size=8', 'optim_wrapper.optimizer.lr=0.0', f'load_from={first}']
    options += ['param_scheduler.0.end=2']  # its epochs have one step each, and a warm-up takes two
    flags = ['--data-root', data / 'imagenet', '--launcher', 'pytorch', '--work-dir']
    launch([REPOSITORY / 'tools/train.py', config, *flags, tmp_path / 'out', '--cfg-options', *options], 2)
    last = tmp_path / 'out/epoch_1.pth'
    assert differing(*(read_checkpoint(path)['state_dict'] for path in (first, last))) == []
    names = tmp_path / 'classes.txt'  # of which four images cannot have all
    names.write_text('\n'.join(sorted(folder.name for folder in (data / 'imagenet/train').iterdir())))
    scores, options = [], ['--cfg-options', f'test_dataloader.dataset.class_map={names}']
    for processes in (1, 2):
        out = tmp_path / f'test_{processes}'
        launch([REPOSITORY / 'tools/test.py', config, last, *flags, out, *options], processes)
        scores.append(json.loads((out / 'scores.json').read_text()))
    assert scores[0] == scores[1] != {}


def test_a_sharded_model_has_full_state_dicts_and_cannot_be_averaged(tmp_path):
    dist.init_process_group('gloo', init_method=f'file://{tmp_path}/meeting', rank=0, world_size=1)
    try:
        plain, model = ConvNeXt(TINY), shard(ConvNeXt(TINY))
        model.load_state_dict(plain.state_dict())
        state = model.state_dict()
        assert differing(plain.state_dict(), state) == [] and not any(
            isinstance(one, DTensor) for one in state.values()
        )
        with pytest.raises(ArgumentError, match='AveragedWeightsHook cannot average a sharded model'):
            AveragedWeightsHook().before_train(SimpleNamespace(model=model))
    finally:
        dist.destroy_process_group()


def test_a_torch_that_cannot_shard_on_the_cpu_is_named(monkeypatch):
    monkeypatch.setattr('convnext_backbone.engine.runner.get_device', lambda: 'cpu')
    monkeypatch.delattr(torch.cpu.Stream, 'record_event', raising=False)
    with pytest.raises(ArgumentError, match='does not work on the CPU with torch 2'):
        ResumableRunner.wrap_model(SimpleNamespace(distributed=True), dict(type='fully_shard'), ConvNeXt(TINY))
