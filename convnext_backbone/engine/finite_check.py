"""Detection of non-finite losses and gradients before they reach the weights."""

from collections.abc import Sequence
from typing import Any

import torch
from mmengine.dist import all_gather_object, all_reduce
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from torch import Tensor, nn

from ..utils.errors import NonFiniteError
from .checkpoint import save_state
from .fsdp import to_local, unwrap_model
from .resume import count_iterations, find_checkpoints


@HOOKS.register_module()
class FiniteCheckHook(Hook):
    """Stops a run at the first loss or gradient that is not finite, before it reaches the weights.

    The state before that iteration is saved and named in the error. Each iteration costs the largest value of each
    gradient, one message between processes, and one wait for a GPU: before the optimizer step, or with a fused
    optimizer, which leaves out a step on the device, where mmengine's log waits for the losses in any case. Infinite
    gradients under fp16 are no error: the loss scaler skips their steps, and lowers its scale.
    """

    priority = 'HIGHEST'  # before averages, schedules and checkpoints

    def before_train(self, runner: Runner) -> None:
        """Start without hooks on the model: averages of it copy them, too, and begin later than this hook."""
        self._model: nn.Module | None = None

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        """Copy the buffers: a forward pass that fails has already corrupted the running statistics of its norms."""
        if self._model is None:
            self._runner, self._model = runner, unwrap_model(runner)
            self._model.register_forward_hook(self._keep_losses)
            runner.optim_wrapper.optimizer.register_step_pre_hook(self._check_step)
        self._buffers = [(buffer, buffer.clone()) for buffer in self._model.buffers()]
        self._batch = data_batch
        self._losses: dict[str, Tensor] = {}
        self._finite: Tensor | None = None

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """Stop if the step was left out, or none was due and a loss is not finite."""
        if self._finite is None:
            self._finite = self._all_finite()
        if not self._finite:
            self._stop()

    def _keep_losses(self, model: nn.Module, inputs: tuple, output: Any) -> None:
        if isinstance(output, dict):  # else predictions
            self._losses = {name: _total(loss) for name, loss in output.items() if 'loss' in name}

    def _check_step(self, optimizer: Any, args: tuple, kwargs: dict) -> None:
        parameters = (p for group in optimizer.param_groups for p in group['params'])
        gradients = [to_local(p.grad) for p in parameters if p.grad is not None]
        gradients = [gradient for gradient in gradients if gradient.numel()]  # some shards hold nothing
        scaler = getattr(self._runner.optim_wrapper, 'loss_scaler', None)
        is_scaled = scaler is not None and scaler.is_enabled()  # and has looked at them
        self._finite = self._all_finite([] if is_scaled else gradients)
        # The protocol of torch's loss scaler; not in a first step, where SGD leaves its momentum uninitialized.
        if getattr(optimizer, '_step_supports_amp_scaling', False) and optimizer.state:
            skipped = 1 - self._finite
            optimizer.found_inf = torch.maximum(optimizer.found_inf, skipped) if is_scaled else skipped
        elif not self._finite:
            self._stop()

    def _all_finite(self, gradients: Sequence[Tensor] = ()) -> Tensor:
        """Whether the losses, their sum and the gradients are finite in all processes: 1 or 0, on their device."""
        values = [self._sum_losses()] if self._losses else []
        values += [torch.nn.utils.get_total_norm(gradients, torch.inf)] if gradients else []
        return _all_finite(*(values or [torch.zeros(())]))

    def _sum_losses(self) -> Tensor:
        return torch.stack([*self._losses.values()]).sum()

    def _stop(self) -> None:
        """End the run, in all processes together."""
        runner = self._runner
        for buffer, before in self._buffers:
            buffer.copy_(before)
        what = f'at iteration {runner.iter + 1}'
        losses = {name: float(loss) for name, loss in self._losses.items() if not loss.isfinite()}
        if self._losses and not losses and not self._sum_losses().isfinite():
            losses = {'their sum': float('inf')}
        found = all_gather_object((losses, _image_names(self._batch)))
        bad = ', '.join(f'{name} = {value}' for process, _ in found for name, value in process.items())
        # Where losses tell which processes failed, only their images are named.
        images = ', '.join(name for process, names in found if process or not bad for name in names)
        what = f'The loss is not finite {what} ({bad})' if bad else f'A gradient is not finite {what}'
        advice = 'Use bf16 or fp32 instead of fp16, or look at the images of that batch'
        advice += f': {images}' if images else ''
        values = (value for state in runner.optim_wrapper.optimizer.state.values() for value in (state or {}).values())
        tensors = [value for value in values if torch.is_tensor(value) and value.ndim]  # the steps are on the CPU
        if not _all_finite(*map(to_local, (*runner.model.parameters(), *runner.model.buffers(), *tensors))):
            what += ': stopped, and nothing was saved, as the weights or the state of the optimizer are not finite'
        else:
            path = save_state(runner, f'last_good_iter_{runner.iter}.pth', runner.iter)
            what += f': stopped; the state after iteration {runner.iter} is in {path}'
            advice += ', then go on with --resume'
        earlier = [path for path in find_checkpoints(runner.work_dir) if count_iterations(path) < runner.iter]
        again = f'go on with --resume {earlier[0]}' if earlier else 'start again with another --work-dir'
        # From the state that was saved the loss would be the same, whatever the rate.
        raise NonFiniteError(f'{what}. {advice}. If training diverged, lower the learning rate and {again}.')


def _all_finite(*tensors: Tensor) -> Tensor:
    """Whether tensors are finite in all processes: 1 or 0, on their device."""
    finite = torch.stack([tensor.isfinite().all() for tensor in tensors]).all().float()
    all_reduce(finite, 'min')
    return finite


def _image_names(batch: Any) -> list[str]:
    """The image files of a batch, or image ids where it names no files."""
    if isinstance(batch, dict) and 'names' in batch:  # of the data sets of this package
        return [*map(str, batch['names'])]
    samples = batch.get('data_samples') if isinstance(batch, dict) else None
    if not isinstance(samples, (list, tuple)):
        return []
    metas = [getattr(sample, 'metainfo', {}) for sample in samples]
    return [str(meta.get('img_path', meta.get('img_id'))) for meta in metas if 'img_path' in meta or 'img_id' in meta]


def _total(loss: Tensor | list[Tensor]) -> Tensor:
    parts = loss if isinstance(loss, (list, tuple)) else [loss]
    return torch.stack([part.detach().float().mean() for part in parts]).sum()
