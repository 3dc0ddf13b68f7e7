"""What a run on labelled images looks after: the number of classes, images that cannot be read, the report by class."""

from pathlib import Path

from mmengine.dist import is_main_process
from mmengine.evaluator import Evaluator
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from torch.utils.data import DataLoader

from ..datasets.class_names import describe_class
from ..evaluation.accuracy import AccuracyMetric
from ..evaluation.class_report import write_class_report
from ..utils.errors import ArgumentError, UserError, shorten
from .fsdp import unwrap_model


@HOOKS.register_module()
class LabelledImagesHook(Hook):
    """Names and counts the images that cannot be read, and writes the report by class after each evaluation.

    Args:
        max_broken: The part of a data set that may be unreadable; one image always may.

    Raises:
        ArgumentError: The data set has another number of classes than the model's head, or other classes than the one
            for training.
        UserError: Too many images cannot be read.
    """

    def __init__(self, max_broken: float = 0.01) -> None:
        if not 0 <= max_broken <= 1:
            raise ArgumentError(f'max_broken={max_broken!r} is out of range: it is a part of the data set in [0, 1].')
        self._max_broken = max_broken
        self._broken: set[str] = set()
        self._classes: tuple[str, ...] = ()

    def _check_classes(self, runner: object, loader: DataLoader) -> None:
        model = unwrap_model(runner)
        names = loader.dataset.metainfo['classes']
        if self._classes and names and names != self._classes:
            only = shorten(sorted(set(names) ^ set(self._classes))) or 'none, but the order differs'
            raise ArgumentError(
                f'The validation data has other classes than the training data (in one of them alone: {only}), so '
                f'their labels would not agree: give both data sets a class_map, a file of all names.'
            )
        if names and len(names) != model.head.out_features:
            raise ArgumentError(
                f'The data has {len(names)} classes ({names[0]}, ..., {names[-1]}), but the model '
                f'{model.head.out_features}: set model.num_classes={len(names)}, or name all classes in a class_map.'
            )

    def _count(self, runner: object, loader: DataLoader, batch: dict, training: bool = False) -> None:
        new = {name for names in batch['broken'] if names for name in names.split('\n')} - self._broken
        self._broken |= new
        for number, name in enumerate(sorted(new), start=len(self._broken) - len(new) + 1):
            runner.logger.warning(f'The image {name} cannot be read and is skipped ({number} so far).')
        allowed = max(1, int(self._max_broken * len(loader.dataset)))
        none_instead = training and bool((batch['labels'] < 0).any())
        if len(self._broken) > allowed or none_instead:
            raise UserError(
                f'{len(self._broken)} images cannot be read, the last of them {max(self._broken)}; {allowed} of '
                f'{len(loader.dataset)} may be: mend the data (the log names them), or set max_broken of '
                f'{type(self).__name__}.'
            )

    def _report(self, runner: object, evaluator: Evaluator, loader: DataLoader) -> None:
        for metric in evaluator.metrics:
            if isinstance(metric, AccuracyMetric) and is_main_process():
                classes = loader.dataset.metainfo['classes'] or [str(i) for i in range(len(metric.confusion))]
                write_class_report(metric.confusion, [describe_class(name) for name in classes], Path(runner.work_dir))

    def before_train(self, runner: object) -> None:
        """Checks the number of classes."""
        self._check_classes(runner, runner.train_dataloader)
        self._classes = runner.train_dataloader.dataset.metainfo['classes']
        if runner.val_loop is not None:
            self._check_classes(runner, runner.val_dataloader)

    def before_test(self, runner: object) -> None:
        """Checks the number of classes."""
        self._check_classes(runner, runner.test_dataloader)

    def before_train_iter(self, runner: object, batch_idx: int, data_batch: dict | None = None) -> None:
        """Counts the images that could not be read."""
        self._count(runner, runner.train_dataloader, data_batch, training=True)

    def before_val_iter(self, runner: object, batch_idx: int, data_batch: dict | None = None) -> None:
        """Counts the images that could not be read."""
        self._count(runner, runner.val_dataloader, data_batch)

    def before_test_iter(self, runner: object, batch_idx: int, data_batch: dict | None = None) -> None:
        """Counts the images that could not be read."""
        self._count(runner, runner.test_dataloader, data_batch)

    def after_val_epoch(self, runner: object, metrics: dict | None = None) -> None:
        """Writes the report."""
        self._report(runner, runner.val_evaluator, runner.val_dataloader)

    def after_test_epoch(self, runner: object, metrics: dict | None = None) -> None:
        """Writes the report."""
        self._report(runner, runner.test_evaluator, runner.test_dataloader)
