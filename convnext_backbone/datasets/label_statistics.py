"""What images with and without labels hold: how many each class has."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from mmengine.registry import DATASETS

from ..utils.errors import UserError
from .samples import Sample, SplitStatistics


class LabelStatistics(SplitStatistics):
    """A split of labelled images.

    Args:
        split: ``'train'``, ``'val'`` or ``'test'``.
        dataset: Config of a :class:`.TimmDataset`.

    Raises:
        UserError: The images are not found, or are no files.
    """

    def __init__(self, split: str, dataset: Mapping) -> None:
        self.split = split
        built: Any = DATASETS.build({'type': 'TimmDataset', **dataset})
        self.classes: Sequence[str] = built.metainfo['classes']
        files = getattr(getattr(built, 'reader', None), 'samples', None)
        if files is None or not all(isinstance(path, (str, bytes)) or hasattr(path, '__fspath__') for path, _ in files):
            raise _refuse_archive(split)
        self.samples = [Sample(split, str(path), place, (label,)) for place, (path, label) in enumerate(files)]

    def summary(self) -> dict[str, Any]:
        """Numbers for people and programs."""
        numbers = Counter(one.labels[0] for one in self.samples)
        return dict(classes={name: dict(images=numbers[label]) for label, name in enumerate(self.classes)})


class ImageStatistics(SplitStatistics):
    """A split of images without labels.

    Args:
        split: ``'train'``, ``'val'`` or ``'test'``.
        dataset: Config of an :class:`.UnlabelledImages`.

    Raises:
        UserError: The images are not found, or are no files.
    """

    def __init__(self, split: str, dataset: Mapping) -> None:
        self.split = split
        built: Any = DATASETS.build({'type': 'UnlabelledImages', **dataset})
        reader = getattr(built, 'reader', None)
        if reader is None or reader.archives:
            raise _refuse_archive(split)
        self.samples = [Sample(split, str(reader.folder / name), place) for place, name in enumerate(reader.names)]

    def summary(self) -> dict[str, Any]:
        """Numbers for people and programs."""
        return dict(classes={})


def _refuse_archive(split: str) -> UserError:
    return UserError(
        f'The {split} images are in an archive or a stream, in which nothing is looked at: unpack them into folders.'
    )
