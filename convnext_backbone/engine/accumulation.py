"""Gradient accumulation: optimizer steps over several batches, and schedules that count optimizer steps."""

from typing import Any

from mmengine.hooks import ParamSchedulerHook
from mmengine.logging import MMLogger
from mmengine.optim import OptimWrapper
from mmengine.registry import HOOKS
from mmengine.runner import IterBasedTrainLoop, Runner

from ..utils.errors import ArgumentError


def batches_per_step(optim_wrapper: OptimWrapper) -> int:
    """Batches that an optimizer step accumulates; one, for a wrapper of several optimizers."""
    return getattr(optim_wrapper, '_accumulative_counts', 1)


def is_step_complete(optim_wrapper: OptimWrapper) -> bool:
    """Whether the last batch completed an optimizer step."""
    return batches_per_step(optim_wrapper) == 1 or optim_wrapper.should_update()


def set_accumulation(
    optim_wrapper: dict, auto_scale_lr: dict, batch_size: int, world_size: int, logger: MMLogger
) -> int:
    """Replace ``accumulative_counts='auto'`` in the config of an optimizer wrapper by the number that fits the recipe.

    Logs the images of an optimizer step; returns the batches of one.
    """
    count = optim_wrapper.get('accumulative_counts', 1)
    recipe, scales_lr = auto_scale_lr.get('base_batch_size'), auto_scale_lr.get('enable')
    if recipe is None and count == 'auto':
        raise ArgumentError("accumulative_counts='auto' needs the images of a step: set auto_scale_lr.base_batch_size.")
    if recipe is None:
        return count
    together = world_size * batch_size
    fitting = max(1, round(recipe / together))
    if count == 'auto':
        count = optim_wrapper['accumulative_counts'] = 1 if scales_lr else fitting
    images = together * count
    what = f'{images} images a step = {world_size} processes x {batch_size} images x {count} accumulated batches'
    if images == recipe or scales_lr:
        logger.info(what)
    else:
        remedy = 'choose another train_dataloader.batch_size'
        if fitting * together == recipe:
            remedy = f'optim_wrapper.accumulative_counts={fitting} matches it, --auto-scale-lr scales the learning rate'
        logger.warning(f'{what}, where the recipe has {recipe}: {remedy}.')
    return count


def set_epoch_length(schedulers: Any, steps: int) -> Any:
    """Schedules (a config, or lists and dicts of them) with so many optimizer steps in an epoch."""
    if isinstance(schedulers, (list, tuple)):
        return [set_epoch_length(item, steps) for item in schedulers]
    if not isinstance(schedulers, dict):
        return schedulers
    if 'type' in schedulers:
        return {**schedulers, 'epoch_length': steps}
    return {name: set_epoch_length(item, steps) for name, item in schedulers.items()}


@HOOKS.register_module()
class StepSchedulerHook(ParamSchedulerHook):
    """mmengine's ``ParamSchedulerHook``, counting optimizer steps instead of batches in training by epochs.

    A step then has the learning rate of the recipe, however many batches it accumulates.
    """

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """Advance the schedules, unless the optimizer still accumulates."""
        if is_step_complete(runner.optim_wrapper) or isinstance(runner.train_loop, IterBasedTrainLoop):
            super().after_train_iter(runner, batch_idx, data_batch, outputs)

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Leave out the functions in the state of a schedule, OneCycleLR's, which would make the file unreadable."""
        saved = checkpoint.get('param_schedulers') or []
        for schedulers in saved.values() if isinstance(saved, dict) else [saved]:
            schedulers[:] = [{key: value for key, value in one.items() if not callable(value)} for one in schedulers]
