"""Optimizer steps that accumulate several batches."""


def accumulated_batches(optim_wrapper: object) -> int:
    """Batches of a step of mmengine's optimizer wrapper; one of several optimizers counts none."""
    return getattr(optim_wrapper, '_accumulative_counts', 1)


def ends_step(optim_wrapper: object) -> bool:
    """Whether the batch that was just trained on ended a step."""
    return accumulated_batches(optim_wrapper) == 1 or optim_wrapper.should_update()
