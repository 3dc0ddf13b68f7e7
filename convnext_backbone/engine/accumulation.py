"""Gradient accumulation: optimizer steps of several batches, and schedules that count steps."""

from mmengine.hooks import ParamSchedulerHook
from mmengine.registry import HOOKS
from mmengine.runner import IterBasedTrainLoop


def accumulated_batches(optim_wrapper: object) -> int:
    """Batches of a step of mmengine's optimizer wrapper; one of several optimizers counts none."""
    return getattr(optim_wrapper, '_accumulative_counts', 1)


def ends_step(optim_wrapper: object) -> bool:
    """Whether the batch that was just trained on ended a step."""
    return accumulated_batches(optim_wrapper) == 1 or optim_wrapper.should_update()


@HOOKS.register_module()
class StepSchedulerHook(ParamSchedulerHook):
    """mmengine's ``ParamSchedulerHook``; in training by epochs, schedules by iteration count optimizer steps.

    However many batches a step accumulates, it then has the learning rate that the recipe gives it.
    """

    def after_train_iter(
        self, runner: object, batch_idx: int, data_batch: object = None, outputs: object = None
    ) -> None:
        """Steps the schedules, unless the optimizer still accumulates."""
        if ends_step(runner.optim_wrapper) or isinstance(runner.train_loop, IterBasedTrainLoop):
            super().after_train_iter(runner, batch_idx, data_batch, outputs)
