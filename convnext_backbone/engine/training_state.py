"""What a resume takes from a checkpoint: state and no settings, each part checked before it is loaded."""

import copy
from collections import defaultdict
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from mmengine.logging import HistoryBuffer
from mmengine.optim import OptimWrapper, OptimWrapperDict
from torch import Tensor, nn
from torch.optim import Optimizer

from ..utils.errors import CheckpointError, printable
from ..utils.validation import COUNT, POSITIVE, integers, is_number
from ..weights.plain_tensors import check_plain

_COUNTERS = dict(
    epoch=integers(0),
    iter=integers(0),
    seed=integers(0, 2**32 - 1),
    batches_per_epoch=COUNT,
    images_per_batch=COUNT,
    images=COUNT,
)
# What mmengine's CheckpointHook takes from the message hub, by the beginning of the name; the last is for all others.
_INFOS: dict[str, Callable[[Any], bool]] = {
    'keep_ckpt_ids': lambda value: isinstance(value, list) and all(map(integers(0).fits, value)),
    'last_ckpt': lambda value: value is None or isinstance(value, str),
    'best_ckpt': lambda value: value is None or isinstance(value, str),
    'best_score': is_number,
    '': lambda value: all(map(_is_plain, value if isinstance(value, list) else [value])),
}


def check_training_state(checkpoint: dict, source: str) -> None:
    """Check that a checkpoint holds a training state, and reduce its message hub, in place, to what a resume needs.

    Args:
        checkpoint: What :func:`.read_state` returned.
        source: Path or address, for errors.

    Raises:
        CheckpointError: There is no training state, or a counter is out of range.
        CheckpointMismatch: Averaged weights are not plain finite numbers.
    """
    if not {'meta', 'message_hub', 'optimizer'} <= checkpoint.keys():
        raise CheckpointError(
            f'The checkpoint {printable(source)} holds weights and no training state to resume: start a new run from '
            f'them with --cfg-options load_from={printable(source)}.'
        )
    meta = checkpoint['meta'] = checkpoint['meta'] or {}
    for name, kind in _COUNTERS.items():
        if (name in meta or name in ('epoch', 'iter')) and not kind.fits(meta.get(name)):
            raise CheckpointError(
                f'The checkpoint {printable(source)} has meta.{name}={printable(repr(meta.get(name)))}, where a '
                f'training run writes {kind.words}: resume from another one.'
            )
    for name, value in (checkpoint.get('ema_state_dict') or {}).items():  # mmengine's EMAHook takes it as it is
        if torch.is_tensor(value) and value.is_floating_point():
            check_plain(name, value, source)
    checkpoint['message_hub'] = _reduce_message_hub(checkpoint['message_hub'] or {})


def _reduce_message_hub(hub: dict) -> dict:
    """The histories and plain values of a message hub; what else it holds a run sets itself."""
    infos = {
        name: value
        for name, value in _by_name(hub.get('runtime_info')).items()
        if next(fits for key, fits in _INFOS.items() if name.startswith(key))(value)
    }
    scalars = {name: _copy_history(buffer) for name, buffer in _by_name(hub.get('log_scalars')).items()}
    scalars = {name: buffer for name, buffer in scalars.items() if buffer is not None}
    return dict(log_scalars=scalars, runtime_info=infos, resumed_keys=dict.fromkeys([*scalars, *infos], True))


def _by_name(part: Any) -> dict[str, Any]:
    """The entries of a dict that have a name which can be printed."""
    entries = part.items() if isinstance(part, Mapping) else ()
    return {name: value for name, value in entries if isinstance(name, str) and name.isprintable()}


def _is_plain(value: Any) -> bool:
    return is_number(value) or isinstance(value, (bool, str))


def _copy_history(buffer: Any) -> HistoryBuffer | None:
    """A copy of the values of a history, without the methods that a file can put into it; None if it is invalid."""
    if type(buffer) is not HistoryBuffer:
        return None
    values = [vars(buffer).get(name) for name in ('_log_history', '_count_history')]
    if not all(isinstance(one, np.ndarray) and one.ndim == 1 and one.dtype.kind in 'iuf' for one in values):
        return None
    logs, counts = map(np.array, values)
    return HistoryBuffer(logs, counts) if len(logs) == len(counts) > 0 else None


def load_optimizer_state(optim_wrapper: Any, saved: Any, source: str) -> None:
    """Load what an optimizer knows of each parameter; rates and all other settings stay those of the config.

    Args:
        optim_wrapper: mmengine's ``OptimWrapper``, or a dict of them.
        saved: The state dict of such a wrapper out of a file. It is consumed.
        source: Path or address, for errors.

    Raises:
        CheckpointError: It is the state of another optimizer or of other parameters.
        CheckpointMismatch: A tensor in it does not hold plain finite numbers.
    """
    if isinstance(optim_wrapper, OptimWrapperDict):
        for name, wrapper in optim_wrapper.items():
            load_optimizer_state(wrapper, saved.get(name) if isinstance(saved, dict) else None, source)
        return
    try:
        optimizer = optim_wrapper.optimizer
        numbers = _match_parameters(optimizer.param_groups, saved)
        expected, counters = _expected_state(optimizer)
        counts = _check_counters(counters, saved['param_groups'], source)
        state = {}
        for place, number in enumerate(numbers):
            values = saved['state'].pop(number, {})  # so that the memory of the file's tensor is free again
            if {**values}:
                state[place] = _check_state(values, expected[place] if expected else None, source)
        scale = _check_scale(optim_wrapper, saved.get('loss_scaler'))
    except (_Unfit, AttributeError, KeyError, TypeError) as error:
        reason = str(error) if isinstance(error, _Unfit) else 'it is no state dict of an optimizer'
        raise CheckpointError(
            f'The optimizer state of the checkpoint {printable(source)} does not fit the optimizer of the config '
            f'({reason}): resume with the settings that it was trained with, or start a new run from its weights with '
            f'--cfg-options load_from={printable(source)}.'
        ) from error
    places = iter(range(len(numbers)))
    groups = [
        {**group, **own, 'params': [next(places) for _ in group['params']]}
        for group, own in zip(optimizer.param_groups, counts, strict=True)
    ]
    optimizer.load_state_dict(dict(state=state, param_groups=groups))
    if scale:
        optim_wrapper.loss_scaler.load_state_dict(scale)


class _Unfit(Exception):
    """What is wrong with the state of an optimizer."""


def _match_parameters(own_groups: list[dict], saved: dict) -> list[int]:
    """The numbers in a saved state of an optimizer's parameters: by their names if both have them, else by place."""
    groups = saved['param_groups']
    if not all(isinstance(group, Mapping) for group in groups):
        raise TypeError
    numbers = [number for group in groups for number in group['params']]
    both = (own_groups, groups)
    own_names, names = ([name for group in part for name in group.get('param_names') or ()] for part in both)
    own_sizes, sizes = ([len(group['params']) for group in part] for part in both)
    if not all(isinstance(number, int) for number in numbers) or len(set(numbers)) < len(numbers):
        raise TypeError
    if len(own_names) == sum(own_sizes) == len(numbers) == len(names) and set(own_names) == set(names):
        number_of = dict(zip(names, numbers, strict=True))
        return [number_of[name] for name in own_names]
    if own_sizes != sizes or (own_names and names):
        raise _Unfit(
            f'it has {len(sizes)} groups of {sum(sizes)} parameters in all, where the optimizer has {len(own_sizes)} '
            f'of {sum(own_sizes)}, as with other frozen parts or another paramwise_cfg'
        )
    return numbers


def _expected_state(optimizer: Optimizer) -> tuple[list[dict], list[dict[str, Any]]]:
    """What an optimizer keeps of each parameter after a step, without memory, and what a step changes in each group.

    Nothing where that is unknown. Some optimizers, such as timm's LAMB and Adan, count their steps in the groups.

    A copy of it makes a step on the meta device. (The fused implementations trust shapes and strides of their tensors,
    and write beyond those that are shorter.)
    """
    parameters, fixed = [], {'params', 'foreach', 'fused', 'capturable', 'differentiable'}
    try:
        twin = copy.copy(getattr(optimizer, 'optim', optimizer))  # the one within ZeroRedundancyOptimizer
        twin.state, twin.param_groups = defaultdict(dict), []
        for group in optimizer.param_groups:
            twin.param_groups.append({**group, **dict.fromkeys(fixed & group.keys(), False), 'params': []})
            for parameter in group['params']:
                stand_in = nn.Parameter(_on_meta(parameter))
                stand_in.grad = _on_meta(parameter)
                first = {  # of an optimizer that has state before its first step
                    name: _on_meta(value) if isinstance(value, Tensor) and value.ndim else copy.copy(value)
                    for name, value in optimizer.state.get(parameter, {}).items()
                }
                if first:
                    twin.state[stand_in] = first
                twin.param_groups[-1]['params'].append(stand_in)
                parameters.append(stand_in)
        twin.step()
    except Exception:  # optimizers of other libraries do anything in a step
        return [], [{} for _ in optimizer.param_groups]
    return [twin.state[parameter] for parameter in parameters], [
        {name: value for name, value in after.items() if name not in fixed and value is not before.get(name)}
        for after, before in zip(twin.param_groups, optimizer.param_groups, strict=True)
    ]


def _check_counters(counters: list[dict[str, Any]], groups: list[Mapping], source: str) -> list[dict]:
    """The values in a file of what a step changes in each group; those of its first group if it has another number."""
    stored = groups if len(groups) == len(counters) else groups[:1] * len(counters)
    return [
        {name: _check_value(name, group[name], value, source) for name, value in own.items() if name in group}
        for own, group in zip(counters, stored, strict=True)
    ]


def _on_meta(tensor: Tensor) -> Tensor:
    return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device='meta')


def _check_state(values: dict, expected: dict | None, source: str) -> dict:
    """The state of a parameter in memory of its own, laid out as the optimizer would have it."""
    values = {name: value for name, value in _by_name(values).items() if value is not None}
    expected = values if expected is None else expected
    if values.keys() != expected.keys():
        stored, own = (', '.join(sorted(names)) or 'nothing' for names in (values, expected))
        raise _Unfit(f'it has {printable(stored)} of a parameter, where the optimizer has {own}')
    return {name: _check_value(name, value, expected[name], source) for name, value in values.items()}


def _check_value(name: str, value: Any, like: Any, source: str) -> Any:
    if is_number(value) and isinstance(like, Tensor):
        value = torch.tensor(float(value))  # the steps, in files of earlier versions of torch
    if _kind(value) != _kind(like) or (isinstance(value, float) and not is_number(value)):
        raise _Unfit(f'{name} is {_kind(value)}, where the optimizer has {_kind(like)}')
    if not isinstance(value, Tensor):
        return value
    value = Tensor.detach(value)
    check_plain(f'optimizer.{name}', value, source, torch.empty(0, dtype=like.dtype))
    if name == 'step' and value.min() < 0:
        raise _Unfit('it has made a negative number of steps')
    return torch.empty_like(like, device=value.device if like.is_meta else like.device).copy_(value)


def _kind(value: Any) -> str:
    if not isinstance(value, Tensor):
        return type(value).__name__
    return f'a tensor {tuple(value.shape)}'


def _check_scale(optim_wrapper: OptimWrapper, saved: Any) -> dict:
    """The state of a loss scaler with the scale of the checkpoint; empty where one of the two runs had no scaler."""
    own = optim_wrapper.loss_scaler.state_dict() if hasattr(optim_wrapper, 'loss_scaler') else {}
    if not own or not saved:
        return {}
    state = {name: saved[name] for name in ('scale', '_growth_tracker')}
    if not POSITIVE.fits(state['scale']) or not integers(0).fits(state['_growth_tracker']):
        raise _Unfit(f'the loss scaler has {printable(repr(state))}')
    return {**own, **state}
