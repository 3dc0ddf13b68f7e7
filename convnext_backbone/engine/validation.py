"""A trial of the validation before training: what would end a run after its first epoch ends it at the start."""

import contextlib
import copy
import io
import json
import logging
import math
import os
import random
import traceback
import warnings
from collections.abc import Iterator, Sequence
from numbers import Real
from typing import IO, Any

import numpy as np
import torch
from mmengine.dist import get_world_size
from mmengine.evaluator import BaseMetric, Evaluator
from mmengine.fileio import register_handler
from mmengine.fileio.handlers import JsonHandler
from mmengine.hooks import CheckpointHook, Hook
from mmengine.runner import Runner, TestLoop, ValLoop
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


class _MayNeedMoreError(ArgumentError):
    """A metric that is not of mmdet or mmseg refuses the values of one batch, such as a single class."""


class ValidationCheckHook(Hook):
    """Validates one batch before a run starts, and warns of scores that are no numbers.

    The batch is the one whose images differ the most in shape. The run stays as it is: its random numbers, its weights
    and statistics, its metrics and its log. Left out are resumed runs, which have validated before, and streams, whose
    images have one size.
    """

    priority = 'VERY_LOW'  # after the other hooks are ready

    def before_train(self, runner: Runner) -> None:
        """Validate one batch, and compare the names of the scores with those that hooks and schedules watch."""
        loop = runner.val_loop
        if runner.iter or not isinstance(loop, ValLoop):
            return
        try:
            with _left_unchanged(runner.model):
                predicted = _predict_batch(runner.model, loop, 'val')
                _check_images(loop.dataloader.dataset)
                scores = _score_batch(loop.evaluator, *predicted) if predicted else []
        except _MayNeedMoreError as doubt:
            runner.logger.warning(f'{doubt} It may need more than a batch, so the run goes on.')
            return
        if any(isinstance(hook, AveragedWeightsHook) for hook in runner.hooks):
            scores += [f'ema_{name}' for name in scores]
        schedulers = runner.param_schedulers if isinstance(runner.param_schedulers, list) else []
        for part in (*runner.hooks, *schedulers) if scores else ():
            if isinstance(part, CheckpointHook) and part.save_best:
                check_score_names('default_hooks.checkpoint.save_best', part.key_indicators, scores)
            elif isinstance(getattr(part, 'monitor', None), str):  # EarlyStoppingHook, ReduceOnPlateauLR
                check_score_names(f'monitor of {type(part).__name__}', [part.monitor], scores)

    def before_test(self, runner: Runner) -> None:
        """Predict one batch, where images of several sizes may meet in it."""
        loop = runner.test_loop
        if isinstance(loop, TestLoop) and (loop.dataloader.batch_size or 1) > 1:
            with _left_unchanged(runner.model):
                _predict_batch(runner.model, loop, 'test')

    def after_val_epoch(self, runner: Runner, metrics: dict[str, float]) -> None:
        """Warn of scores that are no numbers."""
        lacking = [name for name, score in metrics.items() if isinstance(score, Real) and math.isnan(score)]
        if lacking:
            runner.logger.warning(
                f'No number: {", ".join(lacking)}. The data has no pixel or object that it could be computed from.'
            )

    after_test_epoch = after_val_epoch


@register_handler('json')
class StrictJsonHandler(JsonHandler):
    """Writes the logs and scores of a run as json, where mmengine writes NaN, which is none: null.

    Lists stay as they are: of detections, which metrics read again.
    """

    def dump_to_str(self, obj: Any, **kwargs: Any) -> str:
        """Encode an object."""
        text = super().dump_to_str(obj, **kwargs)
        if isinstance(obj, dict) and ('NaN' in text or 'Infinity' in text):
            text = super().dump_to_str(json.loads(text, parse_constant=lambda _: None), **kwargs)
        return text

    def dump_to_fileobj(self, obj: Any, file: IO[str], **kwargs: Any) -> None:
        """Write an object."""
        file.write(self.dump_to_str(obj, **kwargs))


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


def _predict_batch(model: Any, loop: ValLoop | TestLoop, mode: str) -> tuple[Any, Sequence, int] | None:
    """Predict a batch of a loader as the loop does; returns it, the outputs and its size, None if there is no data."""
    loader = loop.dataloader
    samples = [loader.dataset[index] for index in _choose_batch(loader)]

    def predict(samples: list) -> tuple[Any, Sequence, int]:
        batch = loader.collate_fn(samples)
        with torch.no_grad(), autocast(enabled=loop.fp16):
            return batch, getattr(model, f'{mode}_step')(batch), len(samples)

    model.eval()
    try:
        return predict(samples) if samples else None
    except Exception as error:
        sizes = sorted({f'{width} x {height}' for height, width in map(_shape_of, samples)})
        if len(sizes) == 1 or isinstance(error, torch.OutOfMemoryError):
            raise
        predict(samples[:1])  # which may raise the same
        raise ArgumentError(
            f'{mode}_dataloader.batch_size={len(samples)} puts images of {" and ".join(sizes[:2])} pixels into one '
            f'batch, which this model does not take ({printable(str(error))}): set {mode}_dataloader.batch_size=1, or '
            f'resize them to one size in the pipeline.'
        ) from error


def _score_batch(evaluator: Evaluator, batch: Any, outputs: Sequence, size: int) -> list[str]:
    """Score a batch; returns the names of the scores, none where not all metrics can be tried.

    Raises:
        ArgumentError: A metric fails.
    """
    labels = batch.get('labels') if isinstance(batch, dict) else None
    unreadable = isinstance(labels, Tensor) and bool((labels < 0).all())  # as some images of a classifier may be
    if type(evaluator) is not Evaluator or unreadable:
        return []
    # Models may append their loss.
    outputs = [one for one in outputs if not isinstance(one, BaseDataElement) or one.keys() != ['loss']]
    _add_detection(outputs[0])
    trial = copy.copy(evaluator)
    trial.metrics = [
        _fresh_copy(metric, outputs)
        for metric in evaluator.metrics
        if not any(getattr(metric, name, None) for name in _OUTPUTS)
    ]
    try:
        trial.process(outputs, batch)
        scores = trial.evaluate(size * get_world_size())
    except UserError:
        raise
    except Exception as error:  # metrics raise anything
        place = traceback.extract_tb(error.__traceback__)[-1]
        names = ', '.join(type(metric).__name__ for metric in trial.metrics)
        text = printable(' '.join(f'{type(error).__name__}: {error}'.split()))
        known = all(type(metric).__module__.startswith(('mmdet.', 'mmseg.')) for metric in trial.metrics)
        doubtful = not known and isinstance(error, (ValueError, ArithmeticError))
        raise (_MayNeedMoreError if doubtful else ArgumentError)(
            f'val_evaluator ({names}) fails on the first batch of the validation data: {text} ({place.filename}:'
            f'{place.lineno}); correct it, or val_dataloader.dataset, or the model.'
        ) from error
    return list(scores) if len(trial.metrics) == len(evaluator.metrics) else []


def _choose_batch(loader: DataLoader) -> Sequence[int]:
    """The indices of the batch whose images differ the most in shape, without decoding any; none of a stream."""
    dataset: Any = loader.dataset
    batches = list(loader.batch_sampler or ()) if not isinstance(dataset, IterableDataset) else []
    if not batches or len(batches[0]) == 1 or not hasattr(dataset, 'get_data_info'):
        return batches[0] if batches else []

    def variety(batch: Sequence[int]) -> tuple[float, int]:
        sizes = [_image_size(dataset.get_data_info(index)) for index in batch]
        ratios = [width / height for width, height in sizes]
        return max(ratios) / min(ratios), len(set(sizes))

    return max(batches, key=variety)


def _check_images(dataset: Any) -> None:
    """Look for all images of a data set whose first one is a local file.

    Raises:
        UserError: One is missing.
    """
    numbers = range(len(dataset)) if hasattr(dataset, 'get_data_info') else ()
    for number, path in enumerate(dataset.get_data_info(number).get('img_path') for number in numbers):
        if not isinstance(path, str) or not os.path.isfile(path):
            if number == 0:
                return
            raise UserError(
                f'The image {printable(str(path))} of the validation data is missing: put it there, correct data_root '
                f'and data_prefix, or take it out of the data.'
            )


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


def _fresh_copy(metric: BaseMetric, outputs: Sequence) -> BaseMetric:
    """A metric without results; it shares the annotations, which may be large."""
    metric = copy.copy(metric)
    metric.results = []
    ids = [getattr(output, 'img_id', None) for output in outputs]
    if hasattr(metric, 'img_ids') and None not in ids:  # or COCO's go through all images of their file
        metric.img_ids = ids
    return metric


def _add_detection(output: Any) -> None:
    """Add a detection where an untrained detector has none: COCO's metrics tell no scores of nothing."""
    found = getattr(output, 'pred_instances', None)
    if found is not None and not len(found) and all(isinstance(value, Tensor) for value in found.values()):
        output.pred_instances = type(found)(**{k: v.new_zeros((1, *v.shape[1:])) for k, v in found.items()})
