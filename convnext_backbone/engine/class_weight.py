"""Class weights of mmsegmentation's cross entropy where masks have void pixels."""

import inspect

import numpy as np
import torch
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from torch import nn

from .fsdp import unwrap_model


@HOOKS.register_module()
class ClassWeightHook(Hook):
    """Makes ``class_weight`` of mmsegmentation's ``CrossEntropyLoss`` what it is in torch.

    The mean is over the weights of all pixels that have a class, where mmsegmentation looks up those of void, too, and
    fails; with ``use_sigmoid`` a weight belongs to its class, where mmsegmentation takes it for that of a column.
    :class:`.ResumableRunner` registers this hook itself; other runners need it in ``custom_hooks``.
    """

    def before_train(self, runner: Runner) -> None:
        """Prepare the losses of the model."""
        for loss in unwrap_model(runner).modules():
            kind = type(loss)
            if kind.__name__ != 'CrossEntropyLoss' or not kind.__module__.startswith('mmseg.') or loss.use_mask:
                continue
            if loss.class_weight is not None and loss.use_sigmoid:
                loss.class_weight = np.reshape(loss.class_weight, (-1, 1, 1)).tolist()
            elif loss.class_weight is not None:
                loss.register_forward_pre_hook(_add_average, with_kwargs=True)


def _add_average(loss: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
    """Add the ``avg_factor`` of a mean over the pixels that have a class, unless the caller gives one."""
    given = inspect.signature(loss.forward).bind(*args, **kwargs).arguments
    reduction = given.get('reduction_override') or loss.reduction
    if given.get('avg_factor') is None and reduction == 'mean':
        labels = given['label']
        labels = labels[labels != given.get('ignore_index', -100)]
        # In fp32: fp16 ends at 65504, fewer pixels than a crop has.
        weights = torch.tensor(loss.class_weight, dtype=torch.float32, device=labels.device)
        kwargs = {**kwargs, 'avg_factor': weights[labels].sum()}
    return args, kwargs
