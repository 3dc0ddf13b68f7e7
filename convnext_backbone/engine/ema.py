"""The exponential moving average of the weights (paper, table 5), evaluated and saved beside the plain ones.

mmengine's ``EMAHook`` evaluates the average alone, saves it under the name of the plain weights, and averages once for
each batch of an accumulated step, which shortens its memory.
"""

import copy
from collections.abc import Mapping

import torch
from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.registry import HOOKS
from mmengine.runner.amp import autocast
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from ..utils.errors import ArgumentError
from ..utils.validation import numbers
from .fsdp import WRAPPER, is_sharded, unwrap_model

KEY = 'ema_state_dict'


@HOOKS.register_module()
class AveragedWeightsHook(Hook):
    """Averages the weights after each optimizer step, starting from the first ones.

    A checkpoint holds the plain weights as ``state_dict`` and the averaged ones as ``ema_state_dict``; an evaluation
    gives both scores, those of the average as ``ema_<name>``.

    Args:
        decay: How much of the average stays at each step.
    """

    priority = 'ABOVE_NORMAL'  # before hooks that hang into the model, and before those that log and save

    def __init__(self, decay: float = 0.9999) -> None:
        numbers(lambda value: 0 < value < 1, 'between 0 and 1').check('decay', decay)
        self._decay = decay
        self._evaluator = None
        self._loaded: Mapping | None = None

    def after_load_checkpoint(self, runner: object, checkpoint: Mapping) -> None:
        """Remembers the average of a checkpoint; what mmengine's hook saves under that name are the plain weights."""
        found = checkpoint.get(KEY, {})
        self._loaded = None if not found or 'steps' in found else found

    def _start(self, runner: object, weights: Mapping | None) -> None:
        """Makes the average: of the model's weights, or as it was saved."""
        self._average = AveragedModel(unwrap_model(runner), multi_avg_fn=get_ema_multi_avg_fn(self._decay))
        self._average.requires_grad_(False)
        self._average.n_averaged.fill_(1)  # the first weights count, as in the official code
        if weights is not None:
            self._average.module.load_state_dict(weights)

    def before_train(self, runner: object) -> None:
        """Starts the average: from the first weights, or where a resumed run left it.

        Raises:
            ArgumentError: The model is sharded, and cannot be copied.
        """
        if is_sharded(runner.model):
            raise ArgumentError(
                f'AveragedWeightsHook cannot average a sharded model (model_wrapper_cfg.type={WRAPPER!r}): take one of '
                f'the two out of the config.'
            )
        if runner._resume and self._loaded is None:
            print_log('warning: the checkpoint holds no averaged weights: they start anew from the plain ones.')
        self._start(runner, self._loaded if runner._resume else None)
        self._loaded = None
        runner.logger.info(f'Averaged weights: decay {self._decay} at each optimizer step; checkpoints hold both.')

    def after_train_iter(
        self, runner: object, batch_idx: int, data_batch: object = None, outputs: object = None
    ) -> None:
        """Averages, if this batch ended an optimizer step."""
        if runner.optim_wrapper.should_update():
            self._average.update_parameters(unwrap_model(runner))

    def before_save_checkpoint(self, runner: object, checkpoint: dict) -> None:
        """Adds the averaged weights, and what the two sets of weights are."""
        checkpoint[KEY] = self._average.module.state_dict()
        checkpoint['meta']['weights'] = {'state_dict': 'plain', KEY: f'averaged, decay {self._decay}'}

    def _add(self, loop: object, data_batch: object) -> None:
        if self._evaluator is not None:
            with torch.no_grad(), autocast(enabled=loop.fp16):
                outputs = self._average.module.val_step(data_batch)
            self._evaluator.process(data_samples=outputs, data_batch=data_batch)

    def _end(self, runner: object, loop: object, metrics: dict, split: str) -> None:
        if self._evaluator is not None:
            scores = self._evaluator.evaluate(len(loop.dataloader.dataset))
            metrics.update({f'ema_{name}': score for name, score in scores.items()})
            for name, score in scores.items():  # where the log takes them from; the engine's own are there already
                runner.message_hub.update_scalar(f'{split}/ema_{name}', score)

    def before_val_epoch(self, runner: object) -> None:
        """Begins a second evaluation."""
        self._evaluator = copy.deepcopy(runner.val_evaluator)
        self._average.eval()

    def before_test_epoch(self, runner: object) -> None:
        """Begins a second evaluation, if the checkpoint holds averaged weights."""
        if self._loaded is not None:
            self._start(runner, self._loaded)
            self._evaluator = copy.deepcopy(runner.test_evaluator)
            self._average.eval()

    def after_val_iter(self, runner: object, batch_idx: int, data_batch: object = None, outputs: object = None) -> None:
        """Evaluates the average on the same batch."""
        self._add(runner.val_loop, data_batch)

    def after_test_iter(
        self, runner: object, batch_idx: int, data_batch: object = None, outputs: object = None
    ) -> None:
        """Evaluates the average on the same batch."""
        self._add(runner.test_loop, data_batch)

    def after_val_epoch(self, runner: object, metrics: dict | None = None) -> None:
        """Adds the average's scores."""
        self._end(runner, runner.val_loop, metrics, 'val')

    def after_test_epoch(self, runner: object, metrics: dict | None = None) -> None:
        """Adds the average's scores."""
        self._end(runner, runner.test_loop, metrics, 'test')
