"""Schedules of a resumed run: those of its config, replayed to the place of the checkpoint; what differs is logged."""

import math
import warnings
from collections.abc import Iterator, Mapping
from itertools import chain
from typing import Any

from mmengine.optim import LinearParamScheduler, OptimWrapperDict
from mmengine.runner import IterBasedTrainLoop, Runner

from ..utils.errors import ArgumentError, CheckpointError, printable, shorten
from ..utils.validation import is_number
from .accumulation import batches_per_step

# What a schedule that follows a score has seen of it.
_SEEN = ('last_step', '_global_step', '_last_value', 'best', 'num_bad_epochs', 'cooldown_counter')
_NO_SETTINGS = {'optimizer', 'params', 'param_names', 'group_name', *_SEEN}


def refuse_endless_warm_ups(schedulers: Any) -> None:
    """Raise where a linear warm-up has a single step: mmengine then never leaves the rate that it starts from.

    Args:
        schedulers: As built: a list, or one for each of several optimizers.

    Raises:
        ArgumentError: There is one.
    """
    for scheduler in chain(*schedulers.values()) if isinstance(schedulers, dict) else schedulers or []:
        if isinstance(scheduler, LinearParamScheduler) and scheduler.total_iters < 1 and scheduler.start_factor != 1:
            raise ArgumentError(
                f'param_scheduler: {type(scheduler).__name__} from step {scheduler.begin} to {scheduler.end} is a '
                f'warm-up of a single step, and the whole run would stay at {scheduler.start_factor:g} of its '
                f'rate: let it end at {scheduler.begin + 2} or later, or leave it out.'
            )


def resume_schedules(runner: Runner, checkpoint: Mapping, source: str) -> None:
    """Set the schedules of a run, as built from its config, to the place of the checkpoint that it resumes.

    They make as many steps as the run has made, and nothing of those in the file is loaded. Where these, or settings of
    the optimizer, were others a line of the log says so.

    Raises:
        CheckpointError: A schedule follows a score, so that it cannot be replayed, and was another one.
    """
    changes: list[str] = []
    for optim_wrapper, schedulers, optimizer, saved in _parts(runner, checkpoint):
        if any(getattr(scheduler, 'need_val_args', False) for scheduler in schedulers):
            _take_over(optim_wrapper, schedulers, optimizer, saved, source)
        else:
            _replay(runner, schedulers)
        changes += _find_changes(optim_wrapper, schedulers, optimizer, saved)
    if changes:
        runner.logger.info(
            f'The config has other settings than the checkpoint: {shorten(changes)}. Those of the config hold, and its '
            f'schedules are at iteration {runner.iter}.'
        )


def _parts(runner: Runner, checkpoint: Mapping) -> Iterator[tuple]:
    """For each optimizer: its wrapper, its schedules, and the saved states of both."""
    own = (runner.optim_wrapper, runner.param_schedulers or [])
    schedules = checkpoint.get('param_schedulers')
    saved = (checkpoint['optimizer'], [] if schedules is None else schedules)
    if not isinstance(runner.optim_wrapper, OptimWrapperDict):
        yield *own, *saved
        return
    for name in runner.optim_wrapper.keys():
        yield tuple(part[name] if hasattr(part, 'keys') and name in part.keys() else [] for part in (*own, *saved))


def _replay(runner: Runner, schedulers: list) -> None:
    """Step fresh schedules as often as :class:`.StepSchedulerHook` did."""
    steps, epochs, each = runner.iter, 0, 0
    if not isinstance(runner.train_loop, IterBasedTrainLoop):
        count = batches_per_step(runner.optim_wrapper)
        steps, epochs, each = steps // count, runner.epoch, len(runner.train_dataloader) // count
    with warnings.catch_warnings():
        warnings.filterwarnings('ignore', 'Detected call of `scheduler.step', UserWarning)  # the optimizer's are past
        for epoch in range(epochs + 1):
            for _ in range(each if epoch < epochs else steps - epochs * each):
                for scheduler in schedulers:
                    if not scheduler.by_epoch:
                        scheduler.step()
            for scheduler in schedulers if epoch < epochs else ():
                if scheduler.by_epoch:
                    scheduler.step()


def _take_over(optim_wrapper: Any, schedulers: list, optimizer: dict, saved: Any, source: str) -> None:
    """Take the place of schedules that follow a score, and the rates that they had reached, from a checkpoint."""
    groups, stored = optim_wrapper.param_groups, _stored_groups(optimizer)
    own, names = [vars(scheduler) for scheduler in schedulers], {scheduler.param_name for scheduler in schedulers}
    try:
        starts = [[group.get(f'initial_{name}') for group in part for name in names] for part in (stored, groups)]
        changes = [*_differences(starts[0], starts[1], 'optimizer.initial')]
        changes += _differences(saved, own, 'param_scheduler')
        places = [{name: state[name] for name in _SEEN if name in one} for one, state in zip(own, saved, strict=True)]
        places += [{name: group[name] for name in names} for group in stored]
        values = [value for place in places for value in place.values()]
        valid = all(is_number(one) for value in values for one in (value if isinstance(value, list) else [value]))
    except (AttributeError, LookupError, TypeError, ValueError):  # a file may hold anything
        changes, places, valid = [], [], False
    if changes or not valid:
        raise CheckpointError(
            f'The schedules of the checkpoint {printable(source)} are others than those of the config '
            f'({shorten(changes) or "their numbers are invalid"}), one of which follows a score and cannot be '
            f'replayed: keep the settings that it was trained with, or start a new run from its weights with '
            f'--cfg-options load_from={printable(source)}.'
        )
    for target, place in zip((*own, *groups), places, strict=True):
        target.update(place)


def _stored_groups(optimizer: dict) -> list:
    """The groups in the state of an optimizer, and last the settings without multipliers that mmengine adds."""
    base = optimizer.get('base_param_settings')
    return [*optimizer['param_groups'], *([base] if isinstance(base, Mapping) else [])]


def _find_changes(optim_wrapper: Any, schedulers: list, optimizer: dict, saved: Any) -> list[str]:
    """The settings of a config that are others than those in a checkpoint, each with its old and its new value."""
    pairs = []
    for old, own in zip(reversed(_stored_groups(optimizer)), reversed(optim_wrapper.param_groups), strict=False):
        both = old.keys() & own.keys()  # versions of torch differ in the others
        pairs.append([{name: part[name] for name in both} for part in (old, own)])
    changes = [*_differences(pairs[0][0], pairs[0][1], 'optimizer')]
    changes += _differences(saved, [vars(scheduler) for scheduler in schedulers], 'param_scheduler')
    old, own = zip(*reversed(pairs), strict=True)
    return changes or [*_differences(old, own, 'optimizer.param_groups')]


def _differences(old: Any, own: Any, name: str) -> Iterator[str]:
    """The settings in which two nodes of dicts and lists differ, by dotted name."""
    if isinstance(old, Mapping) and isinstance(own, Mapping):
        for key in sorted((old.keys() | own.keys()) - _NO_SETTINGS, key=str):
            if not callable(own.get(key)):  # OneCycleLR's own functions, which are not saved
                yield from _differences(old.get(key), own.get(key), f'{name}.{key}')
    elif isinstance(old, (list, tuple)) and isinstance(own, (list, tuple)) and len(old) == len(own):
        for number, pair in enumerate(zip(old, own, strict=True)):
            yield from _differences(*pair, f'{name}.{number}')
    elif not _same(old, own):
        yield f'{name} {_show(old)} -> {_show(own)}'


def _same(old: Any, own: Any) -> bool:
    if is_number(old) and is_number(own):
        return math.isclose(old, own, rel_tol=1e-9)  # another processor may round otherwise
    return type(old) is type(own) and bool(old == own)


def _show(value: Any) -> str:
    if isinstance(value, (dict, list, tuple)):
        return f'{len(value)} of them'
    return printable(repr(value))
