"""A trial of the validation before training: what would end a run after its first epoch ends it at the start."""

import contextlib
import copy
import io
import logging
import math
import random
import traceback
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from mmengine.dist import get_world_size
from mmengine.evaluator import BaseMetric, Evaluator
from mmengine.hooks import CheckpointHook, EarlyStoppingHook, Hook
from mmengine.runner import Runner, ValLoop
from mmengine.runner.amp import autocast
from mmengine.structures import BaseDataElement
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset

from ..utils.errors import ArgumentError, UserError, printable
from ..utils.image_io import FORMATS
from .checkpoint import check_score_names
from .ema import AveragedWeightsHook

# Settings of metrics that make them write files, which a trial must not.
_OUTPUTS = ('outfile_prefix', 'output_dir', 'out_file_path', 'out_dir', 'format_only')


class ValidationCheckHook(Hook):
    """Validates one batch before a run starts, and warns of scores that are no numbers.

    The batch is the one whose images differ the most in shape. The run stays as it is: its random numbers, its weights
    and statistics, its metrics and its log. Left out are resumed runs, which have validated before, and streams, whose
    images have one size.
    """

    priority = 'VERY_LOW'  # after the other hooks are ready

    def before_train(self, runner: Runner) -> None:
        """Validate one batch, and compare the names of the scores with those that hooks ask for."""
        loop = runner.val_loop
        if runner.iter or not isinstance(loop, ValLoop) or isinstance(loop.dataloader.dataset, IterableDataset):
            return
        with _left_unchanged(runner.model):
            scores = _try_batch(runner.model, loop)
        if any(isinstance(hook, AveragedWeightsHook) for hook in runner.hooks):
            scores += [f'ema_{name}' for name in scores]
        for hook in runner.hooks if scores else ():
            if isinstance(hook, CheckpointHook) and hook.save_best:
                check_score_names('default_hooks.checkpoint.save_best', hook.key_indicators, scores)
            elif isinstance(hook, EarlyStoppingHook):
                check_score_names('monitor of EarlyStoppingHook', [hook.monitor], scores)

    def after_val_epoch(self, runner: Runner, metrics: dict[str, float]) -> None:
        """Warn of scores that are no numbers."""
        lacking = [name for name, score in metrics.items() if isinstance(score, float) and math.isnan(score)]
        if lacking:
            runner.logger.warning(
                f'No number: {", ".join(lacking)}. The data has no pixel or object that it could be computed from.'
            )

    after_test_epoch = after_val_epoch


@contextlib.contextmanager
def _left_unchanged(model: nn.Module) -> Iterator[None]:
    """Context that restores random states and training modes, and in which nothing is printed or logged."""
    modes = [(module, module.training) for module in model.modules()]
    python, numpy, level = random.getstate(), np.random.get_state(), logging.root.manager.disable
    devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
    logging.disable(logging.CRITICAL)
    try:
        with torch.random.fork_rng(devices), contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter('ignore')
            yield
    finally:
        logging.disable(level)
        random.setstate(python)
        np.random.set_state(numpy)
        for module, training in modes:
            module.training = training


def _try_batch(model: Any, loop: ValLoop) -> list[str]:
    """Validate a batch; returns the names of the scores, or none where a metric cannot be tried."""
    loader = loop.dataloader
    samples = [loader.dataset[index] for index in _choose_batch(loader)]
    if not samples:
        return []

    def validate(samples: list) -> tuple[Any, Sequence]:
        batch = loader.collate_fn(samples)
        with torch.no_grad(), autocast(enabled=loop.fp16):
            return batch, model.val_step(batch)

    model.eval()
    try:
        batch, outputs = validate(samples)
    except Exception as error:
        sizes = sorted({f'{width} x {height}' for height, width in map(_shape_of, samples)})
        if len(sizes) == 1:
            raise
        validate(samples[:1])  # which may raise the same
        raise ArgumentError(
            f'val_dataloader.batch_size={len(samples)} puts images of {" and ".join(sizes[:2])} pixels into one batch, '
            f'which this model does not take ({printable(str(error))}): set val_dataloader.batch_size=1, or resize '
            f'them to one size in the pipeline.'
        ) from error
    if type(loop.evaluator) is not Evaluator or _is_unreadable(batch):
        return []
    try:
        return _names_of_scores(loop.evaluator, batch, outputs, len(samples) * get_world_size())
    except UserError:
        raise
    except Exception as error:  # metrics raise anything
        place = traceback.extract_tb(error.__traceback__)[-1]
        metrics = ', '.join(type(metric).__name__ for metric in loop.evaluator.metrics)
        text = printable(' '.join(f'{type(error).__name__}: {error}'.split()))
        raise ArgumentError(
            f'val_evaluator ({metrics}) fails on the first batch of the validation data: {text} ({place.filename}:'
            f'{place.lineno}); correct it, or val_dataloader.dataset, or the model.'
        ) from error


def _choose_batch(loader: DataLoader) -> Sequence[int]:
    """The indices of the batch whose images differ the most in shape, without decoding any."""
    batches, dataset = list(loader.batch_sampler or ()), loader.dataset
    if not batches or len(batches[0]) == 1 or not hasattr(dataset, 'get_data_info'):
        return batches[0] if batches else []

    def variety(batch: Sequence[int]) -> tuple[float, int]:
        sizes = [_image_size(dataset.get_data_info(index)) for index in batch]
        ratios = [width / height for width, height in sizes]
        return max(ratios) / min(ratios), len(set(sizes))

    return max(batches, key=variety)


def _image_size(info: dict) -> tuple[int, int]:
    from PIL import Image

    if info.get('width') and info.get('height'):
        return info['width'], info['height']
    with contextlib.suppress(Exception), Image.open(info['img_path'], formats=FORMATS) as image:
        return image.size
    return 1, 1  # it fails when it is loaded


def _shape_of(sample: Any) -> tuple[int, ...]:
    image = sample.get('inputs') if isinstance(sample, dict) else None
    return tuple(image.shape[-2:]) if isinstance(image, Tensor) else (0, 0)


def _is_unreadable(batch: Any) -> bool:
    """Whether none of the images of a classifier could be read, of which a run may have some."""
    labels = batch.get('labels') if isinstance(batch, dict) else None
    return isinstance(labels, Tensor) and bool((labels < 0).all())


def _names_of_scores(evaluator: Evaluator, batch: Any, outputs: Sequence, size: int) -> list[str]:
    """Score a batch with copies of the metrics; no names if some of them write files, and are left out."""
    outputs = [output for output in outputs if not _is_loss(output)]
    _add_detection(outputs[0])
    trial = copy.copy(evaluator)
    trial.metrics = [
        _fresh_copy(metric, outputs)
        for metric in evaluator.metrics
        if not any(getattr(metric, name, None) for name in _OUTPUTS)
    ]
    trial.process(outputs, batch)
    scores = trial.evaluate(size)
    return list(scores) if len(trial.metrics) == len(evaluator.metrics) else []


def _is_loss(output: Any) -> bool:
    """Whether an output is no prediction but the loss, which models may append."""
    return isinstance(output, BaseDataElement) and output.keys() == ['loss']


def _fresh_copy(metric: BaseMetric, outputs: Sequence) -> BaseMetric:
    """A metric without results; it shares the annotations, which may be large."""
    metric = copy.copy(metric)
    metric.results = []
    if hasattr(metric, 'img_ids'):  # those of COCO go through all images of their file otherwise
        metric.img_ids = [output.img_id for output in outputs]
    return metric


def _add_detection(output: Any) -> None:
    """Add a detection where an untrained detector has none: COCO's metrics tell no scores of nothing."""
    found = getattr(output, 'pred_instances', None)
    if found is not None and not len(found) and all(isinstance(value, Tensor) for value in found.values()):
        output.pred_instances = type(found)(**{k: v.new_zeros((1, *v.shape[1:])) for k, v in found.items()})
