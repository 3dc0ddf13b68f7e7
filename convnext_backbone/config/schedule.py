"""Other lengths, batches and learning rates than a recipe's: ``--epochs``, ``--batch-size`` and their like."""

import argparse
import math
import os
from collections.abc import Iterator
from typing import Any, NamedTuple

from mmengine.config import Config

from ..utils.errors import UserError
from ..utils.validation import COUNT, POSITIVE
from .check import walk

# Defaults for a set of one's own; docs/own_data.md gives the reasons.
_LEAST_STEPS, _MOST_EPOCHS = 2000, 300
_STEPS_AN_EPOCH, _LEAST_IMAGES = 8, 4  # of a step
_LONGEST_WARM_UP = 0.1  # of a run
_PLACES = ('begin', 'end', 'milestones', 'step_size')  # in schedules
_HOOK_PLACES = ('switch_epoch', 'switch_iter', 'begin_epoch', 'begin_iter')


class Schedule(NamedTuple):
    """What a user asks for; None is the recipe's, or for a set of one's own the default."""

    epochs: int | None = None
    iters: int | None = None
    batch_size: int | None = None
    batch_size_total: int | None = None
    lr: float | None = None


def add_schedule_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags of a :class:`Schedule`."""
    group = parser.add_argument_group('schedule', 'what keeps its place in the run is moved with its length')
    group.add_argument('--epochs', type=int, metavar='N', help='length of the run in epochs')
    group.add_argument('--iters', type=int, metavar='N', help='length of the run in batches')
    group.add_argument('--batch-size', type=int, metavar='N', help='images of a batch on each device')
    total = 'images of an optimizer step; default those of the recipe, by accumulating batches'
    group.add_argument('--batch-size-total', type=int, metavar='N', help=total)
    group.add_argument('--lr', type=float, metavar='X', help='learning rate')


def set_schedule(cfg: Config, asked: Schedule, images: int | None = None, own_data: bool = False) -> list[str]:
    """Change a recipe such that milestones, warm-up, validation and checkpoints keep their places in the run.

    Batches are accumulated until a step of the optimizer has as many images as the recipe's, whose learning rate then
    fits; where it has others, the rate is scaled: in proportion to what was asked for, else by the square root.

    Args:
        cfg: Changed in place.
        asked: What the user asks for.
        images: Images that an epoch of the training data has; None if unknown.
        own_data: Whether it is other data than the recipe's. By default a step then has fewer images, 4 at least, where
            an epoch would have fewer than 8 steps, and the run has 2,000 steps, unless these are over 300 epochs.

    Returns:
        What was changed, as the lines of a table.

    Raises:
        ArgumentError: A value is out of range.
        UserError: Values contradict each other, or cannot be followed.
    """
    for name, value in asked._asdict().items():
        if value is not None:
            (POSITIVE if name == 'lr' else COUNT).check(f'--{name.replace("_", "-")}', value)
    if asked.epochs is not None and asked.iters is not None:
        raise UserError(f'--epochs {asked.epochs} and --iters {asked.iters} are two lengths of one run: give one.')
    if not own_data and asked == Schedule():
        return []
    before = dict(_settings(cfg))
    recipe, images_a_step = _set_batch(cfg, asked, images if own_data else None)
    ratio = images_a_step / recipe
    # Adam's rate goes with the square root (Malladi et al., 2022); who asks for images a step gets what the MM
    # libraries do, and can set the rate.
    factor = ratio if asked.batch_size_total else math.sqrt(ratio)
    _scale_lr(cfg, factor if asked.lr is None else asked.lr / cfg.optim_wrapper.optimizer.lr)
    batches = math.ceil((images or 0) / (_world_size() * cfg.train_dataloader.batch_size))
    _set_length(cfg, asked, batches, own_data)
    after = dict(_settings(cfg))
    scaled = images_a_step != recipe and asked.lr is None
    reason = f': {images_a_step} images a step instead of {recipe}' if scaled else ''
    changed = [name for name in {**before, **after} if before.get(name) != after.get(name)]
    width = max(map(len, changed), default=0)
    return [
        f'{name:{width}}  {_shown(before.get(name))} -> {_shown(after.get(name))}' + reason * (name == 'lr')
        for name in changed
    ]


def _settings(cfg: Config) -> Iterator[tuple[str, Any]]:
    """What may be changed, by the last part of its dotted name where that says enough."""
    yield 'batch_size', cfg.train_dataloader.get('batch_size')
    yield 'accumulative_counts', cfg.optim_wrapper.get('accumulative_counts', 1)
    yield 'lr', cfg.optim_wrapper.optimizer.lr
    for part in ('train_cfg', 'param_scheduler', 'custom_hooks', 'default_hooks'):
        for name, value in walk(cfg.get(part), part):
            if not isinstance(value, (dict, list, tuple)):
                yield name.removeprefix('default_hooks.'), value


def _shown(value: Any) -> str:
    return f'{value:g}' if isinstance(value, float) else str(value)


def _world_size() -> int:
    """The processes of a run by the launcher's environment variables, before any process group exists."""
    numbers = (os.environ.get(name) for name in ('WORLD_SIZE', 'SLURM_NTASKS', 'OMPI_COMM_WORLD_SIZE'))
    return int(next(filter(None, numbers), 1))


def _set_batch(cfg: Config, asked: Schedule, images: int | None) -> tuple[int, int]:
    """Set batches and their accumulation; returns the images of a step in the recipe, and now."""
    loader, wrapper, world = cfg.train_dataloader, cfg.optim_wrapper, _world_size()
    scaling = cfg.get('auto_scale_lr') or {}
    accumulated = wrapper.get('accumulative_counts', 1)
    recipe = scaling.get('base_batch_size') or world * loader.batch_size * accumulated
    asked_for = asked.batch_size_total or recipe
    if images and not asked.batch_size_total:
        steps = 1 if asked.batch_size else _STEPS_AN_EPOCH  # an epoch must have one
        asked_for = min(recipe, images, max(_LEAST_IMAGES, 2 ** int(math.log2(max(1, images / steps)))))
    if not (images or asked.batch_size or asked.batch_size_total):
        return recipe, recipe
    loader['batch_size'] = asked.batch_size or min(loader.batch_size, max(1, asked_for // world))
    together = world * loader.batch_size
    if scaling.get('enable'):  # --auto-scale-lr accumulates nothing, and scales the rate by itself
        return recipe, recipe
    wrapper['accumulative_counts'] = max(1, round(asked_for / together))
    images_a_step = together * wrapper['accumulative_counts']
    if asked.batch_size_total and images_a_step != asked.batch_size_total:
        raise UserError(
            f'--batch-size-total {asked.batch_size_total} is no multiple of the {together} images that {world} '
            f'processes take at once with a batch size of {loader.batch_size}: change one of them.'
        )
    cfg.auto_scale_lr = {**scaling, 'enable': False, 'base_batch_size': images_a_step}
    return recipe, images_a_step


def _scale_lr(cfg: Config, factor: float) -> None:
    for schedule in _schedules(cfg):
        if schedule.get('eta_min'):
            schedule['eta_min'] *= factor
    cfg.optim_wrapper.optimizer.lr *= factor


def _schedules(cfg: Config) -> Iterator[dict]:
    """Schedules of the learning rate, also where several optimizers have lists of them."""
    yield from (node for _, node in walk(cfg.get('param_scheduler')) if isinstance(node, dict) and 'type' in node)


def _set_length(cfg: Config, asked: Schedule, batches: int, own_data: bool) -> None:
    """Set the length of a run, where an epoch has so many batches, 0 if unknown."""
    loop, count = cfg.train_cfg, cfg.optim_wrapper.get('accumulative_counts', 1)
    by_epoch = loop.get('type') == 'EpochBasedTrainLoop' or loop.get('by_epoch') is True
    old = loop.max_epochs if by_epoch else loop.max_iters
    if asked.epochs and not by_epoch and not batches:
        raise UserError(f'--epochs {asked.epochs}: the images of an epoch cannot be counted here; give --iters.')
    least = min(math.ceil(_LEAST_STEPS * count / batches), _MOST_EPOCHS) if own_data and batches else 0
    if asked.iters:
        new = asked.iters
    elif by_epoch:
        new = asked.epochs or max(old, least)
    elif asked.epochs:
        new = asked.epochs * batches
    else:  # as many steps of the optimizer
        new = old * count
        if least:
            new = min(new, max(least, _MOST_EPOCHS // 3) * batches)
    if by_epoch:
        loop.setdefault('val_interval', 1)
    if by_epoch and asked.iters:
        _scale_places(cfg, new / old, 1, new)
        _count_iterations(cfg)
    elif by_epoch:
        _scale_places(cfg, new / old, new / old, new * batches // count if batches else None)
    else:
        _scale_places(cfg, new / old, new / old)
    if asked.iters or not by_epoch:
        loop['max_iters'] = new
        if logger := cfg.default_hooks.get('logger'):
            logger['interval'] = min(logger.get('interval', 10), math.ceil(new / 20))
    else:
        loop['max_epochs'] = new
    _let_warm_ups_end(cfg, batches // count if batches else None)


def _let_warm_ups_end(cfg: Config, steps_an_epoch: int | None) -> None:
    """Give a warm-up two steps at least: mmengine's LinearLR of a single one keeps the rate at its start for good."""
    for schedule in _schedules(cfg):
        begin = schedule.get('begin', 0)
        steps = schedule.get('end', math.inf) - begin
        if schedule.get('convert_to_iter_based'):
            steps *= 2 if steps_an_epoch is None else steps_an_epoch  # of unknown length it has several
        if schedule['type'] == 'LinearLR' and steps < 2:
            schedule['end'] = begin + 2


def _scale_places(cfg: Config, factor: float, step_factor: float, steps: int | None = None) -> None:
    """Move what happens in a run.

    Args:
        cfg: Changed in place.
        factor: For places in the unit of the loop, and intervals.
        step_factor: For the places of schedules that count steps where the loop counts epochs.
        steps: Of the run, if known: a warm-up in steps takes a tenth of them at most.
    """
    for schedule in _schedules(cfg):
        by_epoch = schedule.get('by_epoch', True)
        spans = schedule.get('T_max') == schedule.get('end', 0) - schedule.get('begin', 0)
        _scale(schedule, _PLACES, factor if by_epoch else step_factor)
        if schedule.get('begin') and schedule.get('end'):  # of one epoch, a warm-up and what follows share it
            schedule['begin'] = min(schedule['begin'], schedule['end'] - 1)
        if steps and schedule['type'] == 'LinearLR' and not by_epoch:
            schedule['end'] = min(schedule['end'], schedule.get('begin', 0) + max(1, int(_LONGEST_WARM_UP * steps)))
        if spans:
            schedule['T_max'] = schedule['end'] - schedule.get('begin', 0)
        else:
            _scale(schedule, ('T_max',), factor if by_epoch else step_factor)
    _scale(cfg.train_cfg, ('val_interval', 'val_begin'), factor)
    if changes := cfg.train_cfg.get('dynamic_intervals'):  # of the validation
        cfg.train_cfg.dynamic_intervals = [(round(place * factor), interval) for place, interval in changes]
    _scale(cfg.default_hooks.get('checkpoint') or {}, ('interval',), factor)
    for hook in cfg.get('custom_hooks') or []:
        _scale(hook, _HOOK_PLACES, factor)


def _scale(settings: dict, keys: tuple[str, ...], factor: float) -> None:
    """Scale whole numbers, each alone or in a list; one above 0 stays above it."""
    for key in keys:
        value = settings.get(key)
        if isinstance(value, (list, tuple)):
            settings[key] = [max(1, round(one * factor)) for one in value]
        elif value and value > 0:
            settings[key] = max(1, round(value * factor))


def _count_iterations(cfg: Config) -> None:
    """Let a recipe in epochs, whose places are in iterations already, count these."""
    cfg.train_cfg['type'] = 'IterBasedTrainLoop'
    for key in ('max_epochs', 'by_epoch'):
        cfg.train_cfg.pop(key, None)
    for schedule in _schedules(cfg):
        schedule['by_epoch'] = False
        schedule.pop('convert_to_iter_based', None)
    for name, key in dict(checkpoint='by_epoch', logger='log_metric_by_epoch').items():
        if hook := cfg.default_hooks.get(name):
            hook[key] = False
    cfg.log_processor = {**(cfg.get('log_processor') or {}), 'by_epoch': False}
    sampler = cfg.train_dataloader.get('sampler')
    if sampler and sampler.get('type') == 'DefaultSampler':
        sampler['type'] = 'InfiniteSampler'
