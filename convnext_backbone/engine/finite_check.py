"""Detection of non-finite losses and gradients before they reach the weights."""

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

    The state before that iteration is saved and named in the error. Each iteration costs one check of the losses and
    one norm of the gradients. Infinite gradients under fp16 are no error: the loss scaler skips their steps.
    """

    def before_train(self, runner: Runner) -> None:
        """Register the checks on the model and the optimizer."""
        self._runner = runner
        self._model = unwrap_model(runner)
        self._model.register_forward_hook(self._check_losses)
        runner.optim_wrapper.optimizer.register_step_pre_hook(self._check_gradients)

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        """Copy the buffers: a forward pass that fails has already corrupted the running statistics of its norms."""
        self._buffers = [buffer.clone() for buffer in self._model.buffers()]
        self._batch = data_batch

    def _check_losses(self, model: nn.Module, inputs: tuple, output: Any) -> None:
        if not isinstance(output, dict):  # predictions
            return
        losses = {name: _total(loss) for name, loss in output.items() if 'loss' in name}
        if losses and not _all_finite(torch.stack([*losses.values()]).sum()):
            bad = {name: float(loss) for name, loss in losses.items() if not loss.isfinite()}
            self._stop(f'The loss is not finite at iteration {self._runner.iter + 1}', bad)

    def _check_gradients(self, optimizer: torch.optim.Optimizer, args: tuple, kwargs: dict) -> None:
        parameters = (p for group in optimizer.param_groups for p in group['params'])
        gradients = [to_local(p.grad) for p in parameters if p.grad is not None]
        # The norm of finite gradients can overflow too, hence the second check.
        norm = torch.nn.utils.get_total_norm(gradients)
        if not _all_finite(norm) and not _all_finite(*gradients):
            self._stop(f'A gradient is not finite at iteration {self._runner.iter + 1}')

    def _stop(self, what: str, losses: dict[str, float] | None = None) -> None:
        """End the run, in all processes together."""
        runner = self._runner
        for buffer, before in zip(self._model.buffers(), self._buffers, strict=True):
            buffer.copy_(before)
        found = all_gather_object((losses or {}, _image_names(self._batch)))
        bad = ', '.join(f'{name} = {value}' for process, _ in found for name, value in process.items())
        # Where losses tell which processes failed, only their images are named.
        images = ', '.join(name for process, names in found if process or not bad for name in names)
        if losses is not None:
            what += f' ({bad or "the sum of the losses overflows"})'
        advice = 'Use bf16 or fp32 instead of fp16, or look at the images of that batch'
        advice += f': {images}' if images else ''
        values = (value for state in runner.optim_wrapper.optimizer.state.values() for value in (state or {}).values())
        tensors = [value for value in values if torch.is_tensor(value) and value.ndim]  # the steps are on the CPU
        if not _all_finite(*map(to_local, (*self._model.parameters(), *self._model.buffers(), *tensors))):
            what += ': stopped, and nothing was saved, as the weights or the state of the optimizer are not finite'
        else:
            path = save_state(runner, f'last_good_iter_{runner.iter}.pth', runner.iter)
            what += f': stopped; the state after iteration {runner.iter} is in {path}'
            advice += ', then go on with --resume'
        earlier = [path for path in find_checkpoints(runner.work_dir) if count_iterations(path) < runner.iter]
        again = f'go on with --resume {earlier[0]}' if earlier else 'start again with another --work-dir'
        # From the state that was saved the loss would be the same, whatever the rate.
        raise NonFiniteError(f'{what}. {advice}. If training diverged, lower the learning rate and {again}.')


def _all_finite(*tensors: Tensor) -> bool:
    """Whether tensors are finite in all processes."""
    finite = torch.stack([tensor.isfinite().all() for tensor in tensors]).all().float()
    all_reduce(finite, 'min')
    return bool(finite)


def _image_names(batch: Any) -> list[str]:
    """The image files of a batch, or image ids where it names no files."""
    samples = batch.get('data_samples') if isinstance(batch, dict) else None
    if not isinstance(samples, (list, tuple)):
        return []
    metas = [getattr(sample, 'metainfo', {}) for sample in samples]
    return [str(meta.get('img_path', meta.get('img_id'))) for meta in metas if 'img_path' in meta or 'img_id' in meta]


def _total(loss: Tensor | list[Tensor]) -> Tensor:
    parts = loss if isinstance(loss, (list, tuple)) else [loss]
    return torch.stack([part.detach().float().mean() for part in parts]).sum()
