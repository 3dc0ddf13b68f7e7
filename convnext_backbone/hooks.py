"""Hooks: stop before a loss that is not finite does harm, validate what a kill cut off, draw the curves of a run."""

import json
import math
from collections import defaultdict
from pathlib import Path

import torch
from mmengine.dist import all_gather_object, all_reduce, broadcast_object_list, is_main_process
from mmengine.hooks import Hook, ParamSchedulerHook
from mmengine.model import is_model_wrapper
from mmengine.registry import HOOKS
from mmengine.runner import IterBasedTrainLoop
from torch import Tensor, nn

from .errors import NonFiniteError
from .saving import save_state
from .sharding import local
from .steps import ends_step


@HOOKS.register_module()
class FiniteCheckHook(Hook):
    """Stops a run at the first loss or gradient that is not finite, before it reaches the weights.

    The state before that iteration is saved and named in the error. It costs one look at the losses of each iteration
    and one norm of the gradients. Under fp16 the loss scaler skips steps with infinite gradients by itself, and those
    are not an error.
    """

    def before_train(self, runner: object) -> None:
        """Hangs the checks into the model and the optimizer."""
        self._runner = runner
        self._model = bare_model(runner)
        self._model.register_forward_hook(self._check_losses)
        runner.optim_wrapper.optimizer.register_step_pre_hook(self._check_gradients)

    def before_train_iter(self, runner: object, batch_idx: int, data_batch: object = None) -> None:
        """Remembers the buffers: a forward pass that fails has already spoilt the running statistics of its norms."""
        self._buffers = [buffer.clone() for buffer in self._model.buffers()]
        self._batch = data_batch

    def _check_losses(self, model: nn.Module, inputs: tuple, output: object) -> None:
        if not isinstance(output, dict):  # predictions
            return
        losses = {name: _total(loss) for name, loss in output.items() if 'loss' in name}
        if losses and not _finite_everywhere(torch.stack([*losses.values()]).sum()):
            bad = {name: float(loss) for name, loss in losses.items() if not loss.isfinite()}
            self._stop(f'The loss is not finite at iteration {self._runner.iter + 1}', bad)

    def _check_gradients(self, optimizer: torch.optim.Optimizer, args: tuple, kwargs: dict) -> None:
        parameters = (p for group in optimizer.param_groups for p in group['params'])
        gradients = [local(p.grad) for p in parameters if p.grad is not None]
        # The norm of finite gradients can overflow too, hence the second look.
        norm = torch.nn.utils.get_total_norm(gradients)
        if not _finite_everywhere(norm) and not _finite_everywhere(*gradients):
            self._stop(f'A gradient is not finite at iteration {self._runner.iter + 1}')

    def _stop(self, what: str, losses: dict[str, float] | None = None) -> None:
        """Ends the run, in all processes together."""
        runner = self._runner
        for buffer, before in zip(self._model.buffers(), self._buffers, strict=True):
            buffer.copy_(before)
        found = all_gather_object((losses or {}, image_names(self._batch)))
        bad = ', '.join(f'{name} = {value}' for process, _ in found for name, value in process.items())
        # With losses to tell by, it is the images of those processes that have them.
        images = ', '.join(name for process, names in found if process or not bad for name in names)
        if losses is not None:
            what += f' ({bad or "the sum of the losses overflows"})'
        advice = 'Lower the learning rate, use bf16 or fp32 in the place of fp16, or look at the images of that batch'
        advice += f': {images}' if images else ''
        if not _finite_everywhere(*(local(tensor) for tensor in (*self._model.parameters(), *self._model.buffers()))):
            raise NonFiniteError(f'{what}: stopped, and nothing was saved, as the weights are not finite. {advice}.')
        path = save_state(runner, f'last_good_iter_{runner.iter}.pth', runner.iter)
        raise NonFiniteError(
            f'{what}: stopped; the state after iteration {runner.iter} is in {path}. '
            f'{advice}, then go on with --resume.'
        )


def _finite_everywhere(*tensors: Tensor) -> bool:
    """Whether tensors are finite, in all processes."""
    finite = torch.stack([tensor.isfinite().all() for tensor in tensors]).all().float()
    all_reduce(finite, 'min')
    return bool(finite)


def image_names(batch: object) -> list[str]:
    """The files of a batch, or the ids of its images where it names no files."""
    samples = batch.get('data_samples') if isinstance(batch, dict) else None
    if not isinstance(samples, (list, tuple)):
        return []
    known = [getattr(sample, 'metainfo', {}) for sample in samples]
    return [str(one.get('img_path', one.get('img_id'))) for one in known if 'img_path' in one or 'img_id' in one]


def bare_model(runner: object) -> nn.Module:
    """The model of a run, without the wrapper of distributed training."""
    return runner.model.module if is_model_wrapper(runner.model) else runner.model


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


def _total(loss: Tensor | list[Tensor]) -> Tensor:
    parts = loss if isinstance(loss, (list, tuple)) else [loss]
    return torch.stack([part.detach().float().mean() for part in parts]).sum()


class LateValidationHook(Hook):
    """On a resume, makes up for a validation that was cut off.

    A checkpoint is saved before it is validated, and a run goes on behind that: its scores would be missing, and with
    them perhaps the best checkpoint.
    """

    priority = 'VERY_LOW'  # all others are ready

    def before_train(self, runner: object) -> None:
        """Validates, if the checkpoint was to be validated and the folder of the run has no scores of it."""
        loop = runner.train_loop
        if isinstance(loop, IterBasedTrainLoop):
            done, end = runner.iter, loop.max_iters
        else:
            done, end = runner.epoch, loop.max_epochs
            if runner.iter != runner.epoch * len(runner.train_dataloader):  # within an epoch
                return
        due = runner.val_loop is not None and done >= loop.val_begin and (done % loop.val_interval == 0 or done == end)
        if not done or not due:
            return
        missing = [False]
        if is_main_process():  # which wrote the scores
            trained, validated = read_scalars(runner.work_dir)
            missing = [bool(trained) and done not in validated]
        broadcast_object_list(missing)
        if missing[0]:
            runner.logger.info('The last validation was cut off: it is done now.')
            runner.val_loop.run()


@HOOKS.register_module()
class CurvesHook(Hook):
    """Draws loss and scores over the whole run, resumed parts included, to ``<work_dir>/curves.png``."""

    priority = 'VERY_LOW'

    def after_train(self, runner: object) -> None:
        """Draws the picture at the end of a run."""
        if is_main_process():
            path = draw_curves(runner.work_dir)
            if path is not None:
                runner.logger.info(f'Curves: {path}')


def read_scalars(work_dir: str | Path) -> tuple[dict[int, dict], dict[int, dict]]:
    """Training and validation records by step, from the json lines that mmengine writes; a resumed step counts once."""
    training, validation = {}, {}
    for file in sorted(Path(work_dir).glob('*/vis_data/scalars.json')):
        for line in file.read_text().splitlines():
            try:
                record = json.loads(line)
            except json.JSONDecodeError:  # the last line of a run that was killed
                continue
            (training if 'loss' in record else validation)[record.get('step', 0)] = record
    return training, validation


def draw_curves(work_dir: str | Path) -> Path | None:
    """Draws the curves of a work_dir; returns the path of the picture, or None where nothing was logged."""
    from matplotlib.figure import Figure  # only where a picture is wanted

    training, validation = read_scalars(work_dir)
    if not training:
        return None
    steps = sorted(training)
    figure = Figure(figsize=(11, 4), layout='constrained')
    loss_axes, score_axes = figure.subplots(1, 2)
    loss_axes.plot(steps, [training[step]['loss'] for step in steps], color='tab:blue')
    loss_axes.set(title='Training loss', xlabel='iteration', ylabel='loss')
    scores = defaultdict(list)
    for step in sorted(validation):
        for name, value in validation[step].items():
            if name.endswith(('mAP', 'mAP_50', 'mIoU', 'top1')) and isinstance(value, float) and not math.isnan(value):
                scores[name].append((step, value))
    for name, points in scores.items():
        score_axes.plot(*zip(*points, strict=True), marker='o', markersize=3, label=name)
    score_axes.set(title='Validation', xlabel='epoch or iteration', ylabel='score')
    if scores:
        score_axes.legend(fontsize='small')
    for axes in (loss_axes, score_axes):
        axes.grid(alpha=0.3)
    path = Path(work_dir) / 'curves.png'
    figure.savefig(path, dpi=110)
    return path
