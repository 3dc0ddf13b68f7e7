"""The check of losses and gradients: the state that is saved is that before the iteration, to the bit."""

from pathlib import Path

import pytest
import torch
from mmengine.hooks import Hook
from mmengine.optim import AmpOptimWrapper, OptimWrapper
from mmengine.registry import OPTIM_WRAPPERS
from small_runs import check_same
from test_resume import Toy, short_pause, train  # noqa: F401  (a fixture for all tests here)
from torch.utils._python_dispatch import TorchDispatchMode

from convnext_backbone import read_checkpoint
from convnext_backbone.utils.errors import ArgumentError, NonFiniteError

OPTIMIZERS = {
    'adamw': dict(type='AdamW', lr=0.01),
    'fused adamw': dict(type='AdamW', lr=0.01, fused=True),
    'fused sgd': dict(type='SGD', lr=0.01, momentum=0.9, fused=True),
}


class Broken(Toy):
    """In one iteration a loss that is not finite, or one whose gradient is not."""

    def __init__(self, what, at):
        super().__init__()
        self.what, self.at, self.calls = what, at, 0

    def forward(self, inputs, mode='tensor'):
        loss = super().forward(inputs, mode)['loss']
        self.calls += 1
        if self.calls != self.at:
            return dict(loss=loss)
        return dict(loss=loss * torch.nan if self.what == 'loss' else loss + (loss * 0).sqrt())


@OPTIM_WRAPPERS.register_module()
class ScaledOnCPU(AmpOptimWrapper):
    """mmengine's wrapper with torch's loss scaler, without its check for a GPU and without autocast."""

    def __init__(self, loss_scale=1.0, enabled=True, **settings):
        OptimWrapper.__init__(self, **settings)
        self.loss_scaler, self._scale_update_param = torch.amp.GradScaler('cpu', loss_scale, enabled=enabled), None

    optim_context = OptimWrapper.optim_context


def run(folder, optimizer, model, step=1, hooks=(), **wrapper):
    return train(
        folder, 'infinite', 0, 5, model=model, step=step,
        hooks=[dict(type='AveragedWeightsHook', decay=0.9), *hooks, dict(type='FiniteCheckHook')],
        optim_wrapper=dict(optimizer=dict(OPTIMIZERS[optimizer]), accumulative_counts=step, **wrapper),
        default_hooks=dict(checkpoint=dict(type='CheckpointHook', by_epoch=False, interval=1, max_keep_ckpts=-1)),
    )  # fmt: skip


@pytest.mark.parametrize(('step', 'at'), [(1, 8), (2, 7)])  # 7: no step is due
@pytest.mark.parametrize('what', ['loss', 'gradient'])
@pytest.mark.parametrize('optimizer', OPTIMIZERS)
def test_the_state_before_the_iteration_is_saved(optimizer, what, step, at, tmp_path):
    if (what, step) == ('gradient', 2):
        at += 1  # gradients are looked at when a step is due
    with pytest.raises(NonFiniteError, match=f'^(The|A) {what} is not finite at iteration {at}( |:)'):
        run(tmp_path / 'broken', optimizer, Broken(what, at), step)
    run(tmp_path / 'whole', optimizer, Toy(), step)
    if step == 1:
        check_same(tmp_path / f'broken/last_good_iter_{at - 1}.pth', tmp_path / f'whole/iter_{at - 1}.pth')
    else:  # weights and averages are those of the last complete step
        check_same(tmp_path / 'broken/iter_6.pth', tmp_path / 'whole/iter_6.pth')
        one, other = (
            read_checkpoint(tmp_path / f'broken/{name}.pth')['state_dict']
            for name in (f'last_good_iter_{at - 1}', 'iter_6')
        )
        assert all(torch.equal(one[name], other[name]) for name in one if 'layers.2.' not in name)  # the batch norm
    assert not [*Path(tmp_path / 'broken').glob(f'*iter_{at}.pth')]


@pytest.mark.parametrize('what', ['loss', 'gradient'])
@pytest.mark.parametrize('optimizer', ['adamw', 'fused adamw'])
def test_a_loss_scaler_that_is_switched_off_looks_at_nothing(optimizer, what, tmp_path):
    """As for bf16."""
    with pytest.raises(NonFiniteError, match=f'^(The|A) {what} is not finite at iteration 8( |:)'):
        run(tmp_path / 'broken', optimizer, Broken(what, 8), type='ScaledOnCPU', enabled=False)
    run(tmp_path / 'whole', optimizer, Toy(), type='ScaledOnCPU', enabled=False)
    check_same(tmp_path / 'broken/last_good_iter_7.pth', tmp_path / 'whole/iter_7.pth')


class Sharded(Toy):
    """With a parameter of which this process holds nothing, as of one with fewer rows than processes."""

    def __init__(self):
        super().__init__()
        self.shard = torch.nn.Parameter(torch.empty(0, 4))

    def forward(self, inputs, mode='tensor'):
        return dict(loss=super().forward(inputs, mode)['loss'] + self.shard.sum())


def test_an_empty_shard_is_finite(tmp_path):
    run(tmp_path, 'adamw', Sharded())
    assert (tmp_path / 'iter_15.pth').is_file()


class Reads(TorchDispatchMode):
    """Counts what a host waits for: numbers that it reads."""

    number = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.number += function is torch.ops.aten._local_scalar_dense.default
        return function(*args, **(kwargs or {}))


class CountReads(Hook):
    """From the start of an iteration to the end of its step."""

    priority = 'VERY_LOW'

    def before_train(self, runner):
        self.numbers = []
        runner.optim_wrapper.optimizer.register_step_post_hook(self._end)

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        self._mode = Reads()
        self._mode.__enter__()

    def _end(self, *_):
        self._mode.__exit__(None, None, None)
        self.numbers.append(self._mode.number)


@pytest.mark.parametrize(('optimizer', 'reads'), [('adamw', 1), ('fused adamw', 0), ('fused sgd', 0)])
def test_the_host_waits_for_no_number_up_to_a_fused_step(optimizer, reads, tmp_path):
    count = CountReads()
    run(tmp_path / 'plain', optimizer, Toy(), hooks=[count])
    first, *others = count.numbers
    # Other optimizers read their counters, too, which are on the host.
    assert first >= 1 and (min(others) >= reads if reads else set(others) == {0})


def test_a_first_step_is_not_left_out_on_the_device(tmp_path):
    """torch takes SGD's momentum for there after it, whatever the memory held."""
    with pytest.raises(NonFiniteError, match='at iteration 1 '):
        run(tmp_path, 'fused sgd', Broken('loss', 1))
    assert not read_checkpoint(tmp_path / 'last_good_iter_0.pth')['optimizer']['state']


@pytest.mark.parametrize('optimizer', ['adamw', 'fused adamw'])
def test_a_loss_scaler_goes_on_after_infinite_gradients_alone(optimizer, tmp_path):
    scaled = dict(type='ScaledOnCPU', loss_scale=2.0**126)
    runner = run(tmp_path / 'whole', optimizer, Toy(), **scaled)
    assert runner.optim_wrapper.loss_scaler.get_scale() < 2.0**126  # it was too much
    before = Toy().state_dict()
    assert not torch.equal(runner.model.state_dict()['layers.0.weight'], before['layers.0.weight'])
    assert all(tensor.isfinite().all() for tensor in runner.model.state_dict().values())
    with pytest.raises(NonFiniteError, match='^The loss is not finite at iteration 12 '):
        run(tmp_path / 'broken', optimizer, Broken('loss', 12), **scaled)
    one, other = (
        read_checkpoint(tmp_path / name)['state_dict'] for name in ('broken/last_good_iter_11.pth', 'whole/iter_11.pth')
    )
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_the_config_chooses_the_precision_of_products(tmp_path):
    before = torch.get_float32_matmul_precision()
    try:
        train(tmp_path, 'infinite', 0, 5, env_cfg=dict(float32_matmul_precision='high'))
        assert torch.get_float32_matmul_precision() == 'high'
        with pytest.raises(ArgumentError, match="^env_cfg.float32_matmul_precision='tf32' is not known"):
            train(tmp_path, 'infinite', 0, 5, env_cfg=dict(float32_matmul_precision='tf32'))
    finally:
        torch.set_float32_matmul_precision(before)
