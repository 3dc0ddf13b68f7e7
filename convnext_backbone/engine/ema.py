"""Exponential moving average of the weights (paper, table 5), evaluated and saved along with the plain weights.

mmengine's ``EMAHook`` evaluates only the average, saves it as ``state_dict``, and ignores gradient accumulation.
"""

import copy
from collections.abc import Mapping
from typing import Any

import torch
from mmengine.evaluator import Evaluator
from mmengine.hooks import EMAHook, Hook
from mmengine.logging import print_log
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from mmengine.runner.amp import autocast
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from ..utils.errors import ArgumentError, CheckpointError, printable
from ..utils.validation import numbers
from ..weights.load_model import load_model
from .accumulation import is_step_complete
from .fsdp import WRAPPER, is_sharded, unwrap_model

KEY = 'ema_state_dict'


def refuse_average(checkpoint: Mapping, hooks: list[Hook], source: str) -> None:
    """Refuse to go on from averaged weights as if they were plain: mmengine's ``EMAHook`` saves them as such.

    Raises:
        CheckpointError: That hook wrote the checkpoint, and the run has none.
    """
    if 'steps' in (checkpoint.get(KEY) or ()) and not any(isinstance(hook, EMAHook) for hook in hooks):
        raise CheckpointError(
            f'The checkpoint {printable(source)} was written by a run with EMAHook, so that its weights are averages: '
            f'resume with this hook in custom_hooks, or start a new run from them with --cfg-options '
            f'load_from={printable(source)}.'
        )


@HOOKS.register_module()
class AveragedWeightsHook(Hook):
    """Averages the weights after each optimizer step, starting from the initial ones.

    A checkpoint holds the plain weights as ``state_dict`` and the averaged ones as ``ema_state_dict``; an evaluation
    returns the scores of both, those of the average as ``ema_<name>``.

    Args:
        decay: Weight of the old average at each step.
    """

    priority = 'ABOVE_NORMAL'  # before hooks that register on the model, and before those that log and save

    def __init__(self, decay: float = 0.9999) -> None:
        numbers(lambda value: 0 < value < 1, 'between 0 and 1').check('decay', decay)
        self._decay = decay
        self._average: Any = None
        self._evaluator: Evaluator | None = None
        self._loaded: Mapping | None = None

    def after_load_checkpoint(self, runner: Runner, checkpoint: Mapping) -> None:
        """Keep the averaged weights of a checkpoint; under this key mmengine's ``EMAHook`` saves the plain ones."""
        found = checkpoint.get(KEY)
        self._loaded = found if isinstance(found, Mapping) and found and 'steps' not in found else None

    def _start(self, runner: Runner, weights: Mapping | None) -> None:
        """Start the average from the model's weights, or from saved ones."""
        self._average = AveragedModel(unwrap_model(runner), multi_avg_fn=get_ema_multi_avg_fn(self._decay))
        self._average.requires_grad_(False)
        self._average.n_averaged.fill_(1)  # the initial weights count, as in the official code
        if weights is not None:
            load_model(self._average.module, dict(state_dict=weights), runner._load_from)

    def before_train(self, runner: Runner) -> None:
        """Start the average from the initial weights, or resume it."""
        if is_sharded(runner.model):
            raise ArgumentError(
                f'AveragedWeightsHook cannot average a sharded model (model_wrapper_cfg.type={WRAPPER!r}): take one of '
                f'the two out of the config.'
            )
        if runner._resume and self._loaded is None:
            print_log('warning: the checkpoint holds no averaged weights: the average restarts from the plain ones.')
        self._start(runner, self._loaded if runner._resume else None)
        self._loaded = None
        runner.logger.info(f'Averaged weights: decay {self._decay} at each optimizer step; checkpoints hold both.')

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """Update the average after an optimizer step."""
        if is_step_complete(runner.optim_wrapper):
            self._average.update_parameters(unwrap_model(runner))

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Add the averaged weights, and describe both sets of weights in the metadata."""
        checkpoint[KEY] = self._average.module.state_dict()
        checkpoint['meta']['weights'] = {'state_dict': 'plain', KEY: f'averaged, decay {self._decay}'}

    def _before_epoch(self, runner: Runner, mode: str = 'train') -> None:
        """Start the evaluation of the average; outside of training that of a checkpoint, if it holds one."""
        if mode != 'train' and self._loaded is not None:
            self._start(runner, self._loaded)
        if mode != 'train' and self._average is not None:
            self._mode, self._evaluator = mode, copy.deepcopy(getattr(runner, f'{mode}_evaluator'))
            self._average.eval()

    def _after_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None, mode: str = 'val'
    ) -> None:
        """Evaluate the average on a batch of validation or test."""
        if self._evaluator is not None:
            with torch.no_grad(), autocast(enabled=getattr(runner, f'{mode}_loop').fp16):
                samples = self._average.module.val_step(data_batch)
            self._evaluator.process(data_samples=samples, data_batch=data_batch)

    def after_val_epoch(self, runner: Runner, metrics: dict) -> None:
        """Add the scores of the average."""
        if self._evaluator is not None:
            scores = self._evaluator.evaluate(len(getattr(runner, f'{self._mode}_dataloader').dataset))
            for name, score in scores.items():
                metrics[f'ema_{name}'] = score
                runner.message_hub.update_scalar(f'{self._mode}/ema_{name}', score)  # for the log

    after_test_epoch = after_val_epoch
