"""What a resume takes from a file: checked state and no settings. Exact."""

import copy
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mmengine.hooks import EMAHook
from mmengine.logging import HistoryBuffer
from mmengine.optim import OptimWrapper, OptimWrapperDict
from torch import nn

from convnext_backbone import UserError, read_checkpoint
from convnext_backbone.engine.ema import AveragedWeightsHook, refuse_average
from convnext_backbone.engine.training_state import check_training_state, load_optimizer_state
from convnext_backbone.utils.errors import CheckpointError, CheckpointMismatch
from convnext_backbone.weights.safe_load import read_state


def make_parameters(groups=((4, 3), (5,))):
    torch.manual_seed(0)
    return [nn.Parameter(torch.randn(shape)) for shape in groups]


def make(kind='AdamW', parameters=None, **settings):
    """An optimizer wrapper of one group."""
    optimizer = getattr(torch.optim, kind)(parameters or make_parameters(), **{'lr': 0.1, **settings})
    return OptimWrapper(optimizer)


def step(wrapper, times=1):
    for number in range(times):
        for group in wrapper.optimizer.param_groups:
            for parameter in group['params']:
                torch.manual_seed(number)
                parameter.grad = torch.randn_like(parameter)
        wrapper.optimizer.step()
    return wrapper


def short(tensor):
    return tensor.flatten()[:3].clone()


SPOILT = {
    'shorter': (short, 'exp_avg is a tensor (3,), where the optimizer has a tensor (4, 3)'),
    'of another shape': (lambda tensor: tensor.T.clone(), 'a tensor (3, 4)'),
    'stretched': (lambda tensor: torch.ones(()).expand(4, 3), 'not as plain floating-point numbers'),
    'stretched in part': (lambda tensor: torch.ones(1, 3).expand(4, 3), 'not as plain floating-point numbers'),
    'integers': (lambda tensor: tensor.long(), 'not as plain floating-point numbers'),
    'complex': (lambda tensor: tensor + 1j, 'not as plain floating-point numbers'),
    'sparse': (lambda tensor: tensor.to_sparse(), 'not as plain floating-point numbers'),
    'without memory': (lambda tensor: tensor.to('meta'), 'not as plain floating-point numbers'),
    'not finite': (lambda tensor: tensor * math.inf, 'not finite'),
    'no tensor': (lambda tensor: 'exp', 'exp_avg is str, where the optimizer has a tensor (4, 3)'),
    'a number': (lambda tensor: 1.5, 'exp_avg is a tensor ()'),
    'missing': (lambda tensor: None, 'it has exp_avg_sq, step of a parameter, where the optimizer has exp_avg, '),
}


@pytest.mark.parametrize('fused', [True, False])
@pytest.mark.parametrize('how', SPOILT)
def test_a_spoilt_state_of_a_parameter_is_refused(how, fused):
    """Before anything is loaded: the fused optimizer would write beyond the end of a shorter one."""
    spoil, words = SPOILT[how]
    saved = step(make()).state_dict()
    saved['state'][0]['exp_avg'] = spoil(saved['state'][0]['exp_avg'])
    own = make(fused=fused)
    with pytest.raises(UserError, match='run.pth') as refused:
        load_optimizer_state(own, saved, 'run.pth')
    assert words in str(refused.value)
    assert not own.optimizer.state


@pytest.mark.parametrize('value', [-1.0, math.nan, torch.tensor([1.0, 2.0]), '1', [1.0], 10**400])
def test_the_steps_are_one_finite_number(value):
    saved = step(make()).state_dict()
    saved['state'][1]['step'] = torch.tensor(value) if isinstance(value, float) else value
    with pytest.raises(UserError, match='run.pth'):
        load_optimizer_state(make(), saved, 'run.pth')


PAIR = [dict(params=[0, 1])]


@pytest.mark.parametrize(
    'saved',
    [None, 5, {}, dict(state={}), dict(state=5, param_groups=PAIR), dict(state={0: torch.ones(3)}, param_groups=PAIR)],
)
@pytest.mark.parametrize('groups', [None, [5], [dict(params=['a', 'b'])], [dict(params=[0, 0])], [torch.ones(3)]])
def test_what_is_no_state_of_an_optimizer_is_refused(saved, groups):
    if groups is not None:
        saved = dict(state={}, param_groups=groups)
    with pytest.raises(CheckpointError, match='it is no state dict of an optimizer.*load_from=run.pth'):
        load_optimizer_state(make(), saved, 'run.pth')


def test_no_setting_comes_from_a_file():
    """No rate either: it is the config's, and the schedules' matter."""
    saved = step(make()).state_dict()
    crafted = dict(lr=9.0, betas=(0.0, 0.0), fused=True, foreach=True, capturable=True, amsgrad=True, own='x')
    saved['param_groups'][0] |= crafted
    own = make(weight_decay=0.3, fused=False)
    before = copy.deepcopy(own.optimizer.param_groups[0])
    load_optimizer_state(own, saved, 'run.pth')
    after = own.optimizer.param_groups[0]
    assert {**after, 'params': None} == {**before, 'params': None}
    assert after['weight_decay'] == 0.3 and len(own.optimizer.state) == 2


KINDS = dict(
    AdamW={},
    Adam=dict(amsgrad=True, fused=True),
    SGD=dict(momentum=0.9, fused=True),
    NAdam={},
    RAdam={},
    Adamax={},
    Adadelta={},
    Adagrad=dict(fused=True),
    ASGD={},
    Rprop={},
    RMSprop=dict(momentum=0.9, centered=True),
    Adafactor={},
)


@pytest.mark.parametrize('kind', [*KINDS, 'SGD without momentum'])
def test_the_state_of_each_optimizer_goes_on_exactly(kind):
    settings, kind = KINDS.get(kind, {}), kind.split()[0]
    whole, first = step(make(kind, **settings), 4), step(make(kind, **settings), 2)
    parameters = [nn.Parameter(p.detach().clone()) for p in first.optimizer.param_groups[0]['params']]
    resumed = make(kind, parameters, **settings)
    load_optimizer_state(resumed, first.state_dict(), 'run.pth')
    for number in (2, 3):
        for parameter in parameters:
            torch.manual_seed(number)
            parameter.grad = torch.randn_like(parameter)
        resumed.optimizer.step()
    expected = whole.optimizer.param_groups[0]['params']
    assert all(torch.equal(one, other) for one, other in zip(expected, parameters, strict=True))


class Counting(torch.optim.Optimizer):
    """Counts its steps in its groups, as LAMB and Adan of timm do."""

    def __init__(self, parameters, as_tensor):
        super().__init__(parameters, dict(lr=0.1, as_tensor=as_tensor))

    def step(self):
        for group in self.param_groups:
            first = torch.tensor(0, device=group['params'][0].device) if group['as_tensor'] else 0
            group['step'] = group.get('step', first) + 1
            for parameter in group['params']:
                self.state[parameter]['seen'] = torch.ones_like(parameter)


@pytest.mark.parametrize('as_tensor', [True, False])
def test_what_an_optimizer_counts_in_its_groups_goes_on(as_tensor):
    """And no setting comes with it."""
    saved = step(OptimWrapper(Counting(make_parameters(), as_tensor)), 3).state_dict()
    saved['param_groups'][0] |= dict(lr=9.0, other=5)
    own = OptimWrapper(Counting(make_parameters(), as_tensor))
    load_optimizer_state(own, copy.deepcopy(saved), 'run.pth')
    (group,) = own.optimizer.param_groups
    assert (group['step'], group['lr'], 'other' in group) == (3, 0.1, False)
    for crafted in ('x', torch.ones(2), torch.tensor(math.nan)):
        saved['param_groups'][0]['step'] = crafted
        with pytest.raises(UserError, match='run.pth.*step'):
            load_optimizer_state(own, copy.deepcopy(saved), 'run.pth')


class Quantized(torch.optim.Optimizer):
    """Keeps bytes, as those of bitsandbytes, and makes no step on the meta device."""

    def __init__(self, parameters):
        super().__init__(parameters, dict(lr=0.1))

    def step(self):
        for parameter in self.param_groups[0]['params']:
            number = int(parameter.sum().item()) % 256  # which fails without memory
            self.state[parameter]['codes'] = torch.full_like(parameter, number, dtype=torch.uint8)


def test_bytes_of_an_optimizer_go_on():
    saved = step(OptimWrapper(Quantized(make_parameters()))).state_dict()
    own = OptimWrapper(Quantized(make_parameters()))
    load_optimizer_state(own, copy.deepcopy(saved), 'run.pth')
    assert torch.equal(own.state_dict()['state'][1]['codes'], saved['state'][1]['codes'])


@pytest.mark.parametrize(
    ('kind', 'settings', 'words'),
    [
        (
            'SGD',
            dict(momentum=0.9),
            'exp_avg, exp_avg_sq, step of a parameter, where the optimizer has momentum_buffer',
        ),
        ('AdamW', dict(amsgrad=True), 'where the optimizer has exp_avg, exp_avg_sq, max_exp_avg_sq, step'),
    ],
)
def test_the_state_of_another_optimizer_is_refused(kind, settings, words):
    with pytest.raises(CheckpointError, match=words):
        load_optimizer_state(make(kind, **settings), step(make()).state_dict(), 'run.pth')


def test_states_that_share_memory_are_told_apart():
    saved = step(make()).state_dict()
    saved['state'][0]['exp_avg_sq'] = saved['state'][0]['exp_avg'].abs_()
    own = make()
    load_optimizer_state(own, saved, 'run.pth')
    state = own.optimizer.state[own.optimizer.param_groups[0]['params'][0]]
    assert torch.equal(state['exp_avg'], state['exp_avg_sq'])
    assert state['exp_avg'].data_ptr() != state['exp_avg_sq'].data_ptr()


def test_a_state_has_the_memory_format_of_its_parameter():
    """The fused optimizer goes through both as they lie in memory."""
    weight = torch.randn(4, 3, 2, 2)
    saved = step(make(parameters=[nn.Parameter(weight.clone())])).state_dict()
    own = make(parameters=[nn.Parameter(weight.to(memory_format=torch.channels_last))], fused=True)
    load_optimizer_state(own, saved, 'run.pth')
    (state,) = own.optimizer.state.values()
    assert state['exp_avg'].is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(state['exp_avg'], saved['state'].get(0, {}).get('exp_avg', state['exp_avg']))


def named_groups(order):
    names = 'abc'
    parameters = dict(zip(names, make_parameters([(2,), (2,), (2,)]), strict=True))
    groups = [dict(params=[parameters[name] for name in part], param_names=[*part]) for part in order]
    return make(parameters=groups)


def test_parameters_in_other_groups_are_found_by_name():
    saved = step(named_groups(['ab', 'c'])).state_dict()
    expected = {name: saved['state'][i]['exp_avg'].clone() for i, name in enumerate('abc')}
    own = named_groups(['c', 'b', 'a'])
    load_optimizer_state(own, saved, 'run.pth')
    for group in own.optimizer.param_groups:
        assert torch.equal(own.optimizer.state[group['params'][0]]['exp_avg'], expected[group['param_names'][0]])


@pytest.mark.parametrize(
    ('own', 'words'),
    [
        (make(parameters=make_parameters([(4, 3)])), '1 groups of 2 parameters in all, where the optimizer has 1 of 1'),
        (OptimWrapperDict(one=make()), 'no state dict of an optimizer'),
    ],
)
def test_an_optimizer_of_other_parameters_is_refused(own, words):
    with pytest.raises(CheckpointError, match=words):
        load_optimizer_state(own, step(make()).state_dict(), 'run.pth')


def test_several_optimizers_each_have_theirs():
    first = OptimWrapperDict(one=step(make()), other=step(make('SGD', momentum=0.9)))
    own = OptimWrapperDict(one=make(), other=make('SGD', momentum=0.9))
    load_optimizer_state(own, first.state_dict(), 'run.pth')
    assert [sorted(next(iter(own[name].optimizer.state.values()))) for name in ('one', 'other')] == [
        ['exp_avg', 'exp_avg_sq', 'step'],
        ['momentum_buffer'],
    ]


@pytest.mark.parametrize(
    ('scale', 'steps', 'fits'),
    [(512.0, 3, True), (0, 3, False), (math.nan, 3, False), ('1', 3, False), (2.0, -1, False), (2.0, 1.5, False)],
)
def test_a_loss_scaler_takes_its_scale_and_no_setting(scale, steps, fits):
    loaded = []
    scaler = SimpleNamespace(state_dict=lambda: dict(scale=2.0, growth_factor=2.0, _growth_tracker=0))
    scaler.load_state_dict = loaded.append
    own, saved = make(), step(make()).state_dict()
    own.loss_scaler = scaler
    saved['loss_scaler'] = dict(scale=scale, growth_factor=99.0, _growth_tracker=steps)
    if fits:
        load_optimizer_state(own, saved, 'run.pth')
        assert loaded == [dict(scale=512.0, growth_factor=2.0, _growth_tracker=3)]
    else:
        with pytest.raises(CheckpointError, match='the loss scaler has'):
            load_optimizer_state(own, saved, 'run.pth')


def state(hub=None, **meta):
    return dict(meta=dict(epoch=0, iter=4, **{}) | meta, message_hub=hub or {}, optimizer={})


@pytest.mark.parametrize(
    ('name', 'value'),
    [
        ('iter', -5),
        ('iter', 2.5),
        ('iter', '4'),
        ('iter', None),
        ('iter', True),
        ('epoch', -1),
        ('epoch', math.inf),
        ('seed', -1),
        ('seed', [3]),
        ('images_per_batch', 0),
        ('batches_per_epoch', 0),
        ('batches_per_epoch', torch.tensor(3)),
        ('images', 'many'),
    ],
)
def test_counters_that_no_run_writes_are_refused(name, value):
    with pytest.raises(CheckpointError, match=rf'The checkpoint run.pth has meta.{name}=.*integer'):
        check_training_state(state(**{name: value}), 'run.pth')


def test_a_message_hub_is_reduced_to_histories_and_plain_values():
    losses, broken, empty = HistoryBuffer([1.0, 2.0], [1, 1]), HistoryBuffer([1.0], [1]), HistoryBuffer()
    vars(losses)['statistics_methods'] = dict(mean=5)
    broken._log_history = np.ones((2, 2))
    hub = dict(
        log_scalars={'train/loss': losses, 'broken': broken, 'empty': empty, 'text': 'x', '\x1b[2J': losses, 5: losses},
        runtime_info=dict(
            keep_ckpt_ids=[4, 8],
            best_score=0.5,
            best_ckpt='best.pth',
            last_ckpt=['x'],
            best_score_x='high',
            step=3,
            tensor=torch.ones(1),
        ),
        resumed_keys=dict(step='x', iter=False),
    )
    checkpoint = state(hub)
    check_training_state(checkpoint, 'run.pth')
    kept = checkpoint['message_hub']
    assert kept['log_scalars'].keys() == {'train/loss'}
    assert kept['log_scalars']['train/loss'].mean() == 1.5
    assert kept['runtime_info'] == dict(keep_ckpt_ids=[4, 8], best_score=0.5, best_ckpt='best.pth', step=3)
    assert kept['resumed_keys'] == dict.fromkeys([*kept['log_scalars'], *kept['runtime_info']], True)


def test_a_file_does_not_exchange_the_statistics_of_all_histories(tmp_path):
    """Nor does it hold methods in the place of values."""
    losses, before = HistoryBuffer([1.0, 2.0], [1, 1]), dict(HistoryBuffer._statistics_methods)
    torch.save(losses, tmp_path / 'plain.pth')
    losses._statistics_methods = dict(mean=HistoryBuffer.min, own=5)
    torch.save(losses, tmp_path / 'crafted.pth')
    for name in ('plain.pth', 'crafted.pth'):
        read = read_checkpoint(tmp_path / name)
        assert type(read) is HistoryBuffer and HistoryBuffer._statistics_methods == before
        assert read.statistics('mean') == 1.5 and read.max() == 2


@pytest.mark.parametrize('value', [math.nan, math.inf])
def test_averaged_weights_that_are_not_finite_are_refused(value):
    checkpoint = state() | dict(ema_state_dict=dict(steps=torch.tensor(3), weight=torch.tensor([1.0, value])))
    with pytest.raises(CheckpointMismatch, match='weight that are not finite'):
        check_training_state(checkpoint, 'run.pth')


def test_averaged_weights_are_not_taken_for_plain_ones():
    """mmengine's ``EMAHook`` saves the average as the weights, and the count of its steps beside the plain ones."""
    checkpoint = state() | dict(ema_state_dict=dict(steps=torch.tensor(3)))
    refuse_average(checkpoint, [EMAHook()], 'run.pth')
    refuse_average(state() | dict(ema_state_dict={}), [AveragedWeightsHook()], 'run.pth')
    refuse_average(state(), [], 'run.pth')
    for hooks in ([], [AveragedWeightsHook()]):
        with pytest.raises(CheckpointError, match='run.pth was written by a run with EMAHook.*load_from=run.pth'):
            refuse_average(checkpoint, hooks, 'run.pth')


@pytest.mark.parametrize('part', ['meta', 'message_hub', 'state_dict'])
def test_a_file_with_a_tensor_in_the_place_of_a_part_is_refused(part, tmp_path):
    torch.save(state() | {'state_dict': {}, part: torch.ones(3)}, tmp_path / 'run.pth')
    with pytest.raises(CheckpointError, match='holds no weights by name'):
        read_state(str(tmp_path / 'run.pth'))


@pytest.mark.parametrize('lacking', ['meta', 'message_hub', 'optimizer'])
def test_weights_without_a_training_state_are_named(lacking):
    checkpoint = state()
    del checkpoint[lacking]
    with pytest.raises(CheckpointError, match='no training state to resume: .*load_from=run.pth'):
        check_training_state(checkpoint, 'run.pth')
