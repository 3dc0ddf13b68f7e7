"""Classification runs: checks the classes, counts unreadable images, and writes the report for each class."""

from pathlib import Path

from mmengine.dist import is_main_process
from mmengine.registry import HOOKS
from mmengine.runner import Runner

from ..datasets.class_names import describe_class
from ..evaluation.accuracy import AccuracyMetric
from ..evaluation.class_report import write_class_report
from ..utils.errors import ArgumentError, shorten
from .broken_images import BrokenImagesHook
from .fsdp import unwrap_model


@HOOKS.register_module()
class LabelledImagesHook(BrokenImagesHook):
    """Logs and counts unreadable images, and writes the report for each class after each evaluation.

    Args:
        max_broken: The fraction of a data set that may be unreadable; one image always may.

    Raises:
        ArgumentError: The model has another number of classes than the data, or validation other ones than training.
        UserError: Too many images are unreadable.
    """

    def __init__(self, max_broken: float = 0.01) -> None:
        super().__init__(max_broken)
        self._classes: tuple[str, ...] = ()

    def before_train(self, runner: Runner) -> None:
        """Check the classes of the training and the validation data."""
        self._check_classes(runner, 'train')
        self._classes = runner.train_dataloader.dataset.metainfo['classes']
        if runner.val_loop is not None:
            self._check_classes(runner, 'val')

    def before_test(self, runner: Runner) -> None:
        """Check the classes of the test data."""
        self._check_classes(runner, 'test')

    def _check_classes(self, runner: Runner, mode: str) -> None:
        names = getattr(runner, f'{mode}_dataloader').dataset.metainfo['classes']
        outputs = unwrap_model(runner).head.out_features
        if self._classes and names and names != self._classes:
            differing = shorten(sorted(set(names) ^ set(self._classes))) or 'none, but the order differs'
            raise ArgumentError(
                f'The validation data has other classes than the training data (in one of them alone: {differing}), so '
                f'their labels would not agree: give both data sets a class_map, a file of all names.'
            )
        if names and len(names) != outputs:
            raise ArgumentError(
                f'The data has {len(names)} classes ({names[0]}, ..., {names[-1]}), but the model {outputs}: set '
                f'model.num_classes={len(names)}, or name all classes in a class_map.'
            )

    def _after_epoch(self, runner: Runner, mode: str = 'train') -> None:
        """Write the report of an evaluation."""
        if mode == 'train' or not is_main_process():
            return
        names = getattr(runner, f'{mode}_dataloader').dataset.metainfo['classes']
        for metric in getattr(runner, f'{mode}_evaluator').metrics:
            if isinstance(metric, AccuracyMetric) and metric.confusion is not None:
                classes = [describe_class(name) for name in names] or [str(i) for i in range(len(metric.confusion))]
                write_class_report(metric.confusion, classes, Path(runner.work_dir))
