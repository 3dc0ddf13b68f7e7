"""Checks of segmentation masks before a run: each image has one, and a sample of them holds the ids of classes."""

import functools
import os
import sys
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from mmengine.registry import DATASETS

from ..utils.errors import UserError, printable, shorten
from .mask_values import get_reader
from .masks import VOID, to_labels

_SAMPLE, _WIDE_SAMPLE = 64, 1000  # masks
_MOST_PIXELS = 2 * 10**8  # of a sample: some seconds
_FEW = 16  # masks, in which a class may be missing


class MaskReport(NamedTuple):
    """What a sample of the masks of a data set holds.

    Attributes:
        masks: The number of masks of the data set.
        sampled: How many of them were looked at.
        void: The share of pixels without a class.
        unseen: The classes that no pixel has.
    """

    masks: int
    sampled: int
    void: float
    unseen: tuple[str, ...]


def check_masks(
    config: Mapping, scope: str | None, split: str, ignored: Collection[int] = (VOID,)
) -> MaskReport | None:
    """Check the masks of a data set of mmsegmentation.

    Args:
        config: Of the data set.
        scope: The default scope of the config.
        split: ``'train'``, ``'val'`` or ``'test'``.
        ignored: The labels that loss or metric ignore.

    Returns:
        None for what is not checked: data of other kinds, with other transforms that load it, or without masks.

    Raises:
        UserError: A mask is missing, is no image of ids, has ids that no class has, or does not mean what the config
            says: the text names the mask, what was found, and the remedy.
    """
    dataset, infos = _open(config, scope)
    if dataset is None:
        return None
    _check_names(infos, dataset, split)
    if 'seg_map_path' not in infos[0]:
        return None
    sample = _Sample(infos, dataset)
    shift = sample.describe_shift(split)
    problem = sample.find_problem(split, ignored) or (shift if split == 'train' else None)
    if problem:
        raise UserError(problem)
    if shift:  # the masks of an evaluation may just lack a class
        print(f'warning: {shift}', file=sys.stderr)
    return sample.report(ignored)


def _open(config: Mapping, scope: str | None) -> tuple[Any, list[dict]]:
    """The data set without its pipeline, and its images; None if it is not checked, or fails, as the run will, too."""
    loads = [step for step in _steps(config.get('pipeline')) if str(step.get('type')).endswith('LoadAnnotations')]
    known = all(
        step['type'] in ('LoadAnnotations', 'mmseg.LoadAnnotations')
        and step.get('imdecode_backend') in (None, 'pillow')
        and not step.get('backend_args')
        for step in loads
    )
    if not loads or not known or config.get('backend_args'):
        return None, []
    with DATASETS.switch_scope_and_registry(scope) as registry:
        try:
            kind = config['type'] if isinstance(config['type'], type) else registry.get(config['type'])
            if {'BaseSegDataset', 'ImageMaskPairs'} & {base.__name__ for base in kind.__mro__}:
                dataset = registry.build({**config, 'pipeline': [], 'lazy_init': True})
                return dataset, dataset.load_data_list()
        except UserError:
            raise
        except Exception:  # of any type
            pass
    return None, []


def _steps(node: Any) -> Iterator[Mapping]:
    """The transforms of a pipeline, those of test-time augmentation included."""
    if isinstance(node, Mapping):
        yield node
        node = list(node.values())
    for item in node if isinstance(node, (list, tuple)) else ():
        yield from _steps(item)


def _check_names(infos: list[dict], dataset: Any, split: str) -> None:
    """Compare the names of all images and masks with the files that there are."""
    if not infos:
        folder = str(dataset.data_prefix.get('img_path') or '.')
        raise UserError(
            f'The {split} data has no image: {printable(str(dataset.ann_file or folder))} has none with '
            f'img_suffix={dataset.img_suffix!r} ({_endings(folder)}); correct img_suffix or data_prefix.'
        )
    listing = functools.cache(lambda folder: set(os.listdir(folder)) if os.path.isdir(folder) else set())
    suffix = dataset.img_suffix
    for folder in {os.path.dirname(info['img_path']) for info in infos} if not dataset.ann_file else ():
        for name in listing(folder):
            if name.lower().endswith(suffix.lower()) and not name.endswith(suffix) and not name.startswith('.'):
                raise UserError(
                    f'The {split} data would leave out {printable(os.path.join(folder, name))}, as img_suffix='
                    f'{suffix!r} is written in another case: rename such images, or list all in an ann_file.'
                )
    for key, what in (('img_path', 'image'), ('seg_map_path', 'mask')):
        paths = [info[key] for info in infos if key in info]
        lost = [i for i, path in enumerate(paths) if os.path.basename(path) not in listing(os.path.dirname(path))]
        if lost:
            path = paths[lost[0]]
            owner = f' for the image {printable(infos[lost[0]]["img_path"])}' if what == 'mask' else ''
            raise UserError(
                f'The {split} data lacks {len(lost)} of {len(infos)} {what}s: there is no {printable(path)}{owner} '
                f'({_endings(os.path.dirname(path))}); put it there, leave the image out, or correct data_prefix and '
                f'the suffixes.'
            )


def _endings(folder: str) -> str:
    """The suffixes of the files of a folder, in words."""
    found = Counter(path.suffix for path in Path(folder).rglob('*') if path.is_file())
    files = [f'{number} files {suffix}' for suffix, number in found.most_common()]
    return f'that folder holds {shorten(files) or "no files"}'


class _Sample:
    """The ids in a sample of the masks of a data set."""

    def __init__(self, infos: list[dict], dataset: Any) -> None:
        self._infos, self._dataset = infos, dataset
        self._read_mask = get_reader(getattr(dataset, 'mask_values', None))
        self._classes: Sequence[str] = dataset.metainfo.get('classes') or ()
        self._labels = to_labels(np.arange(256), dataset.reduce_zero_label, dataset.label_map)  # by id
        self._first: dict[int, str] = {}  # the first mask that has an id
        self._read(_SAMPLE)
        if self._lacks_ids():  # which may be rare
            self._read(_WIDE_SAMPLE)

    def _read(self, number: int) -> None:
        """Read masks that are spread over the data set; of a wide sample until no ids are lacking."""
        self._pixels = np.zeros(256, np.int64)  # by id
        places = np.linspace(0, len(self._infos) - 1, min(number, len(self._infos))).round().astype(int)
        for sampled, place in enumerate(places, 1):
            self._sampled, info = sampled, self._infos[place]
            counts = np.bincount(self._read_mask(info['seg_map_path'], info['img_path']).ravel(), minlength=256)
            self._pixels += counts
            for found in np.flatnonzero(counts).tolist():
                self._first.setdefault(found, info['seg_map_path'])
            if (number == _WIDE_SAMPLE and not self._lacks_ids()) or self._pixels.sum() > _MOST_PIXELS:
                break

    def _lacks_ids(self) -> bool:
        return self._first.keys() <= {0, VOID} or self._seems_shifted()

    def _seems_shifted(self) -> bool:
        """Whether with ``reduce_zero_label`` all ids from 0 on occur, but not the last one."""
        last, dataset = len(self._classes), self._dataset
        if not dataset.reduce_zero_label or dataset.label_map or getattr(dataset, 'void', ()) or not last:
            return False
        return {*range(last)} <= self._first.keys() and last not in self._first

    def report(self, ignored: Collection[int]) -> MaskReport:
        """Sum up what there is."""
        void = self._pixels[np.isin(self._labels, [*ignored])].sum() / max(1, self._pixels.sum())
        seen = {*self._labels[self._pixels > 0]}
        unseen = tuple(name for label, name in enumerate(self._classes) if label not in seen)
        return MaskReport(len(self._infos), self._sampled, float(void), unseen)

    def find_problem(self, split: str, ignored: Collection[int]) -> str | None:
        """Describe what is wrong with the ids; None if nothing is."""
        ids, number, reduced = sorted(self._first), len(self._classes), self._dataset.reduce_zero_label
        labels = {one: self._labels[one] for one in ids if self._labels[one] not in ignored}
        wrong = [one for one, label in labels.items() if number and label >= number]
        name = printable(self._first[wrong[0] if wrong else ids[-1]])
        held = f'hold the ids {", ".join(map(str, ids[:12]))}{", ..." if len(ids) > 12 else ""}'
        if number == 1:
            return (
                f'The {split} masks, such as {name}, {held}, and metainfo.classes names '
                f'{printable(str(self._classes[0]))} alone: the background is a class, too; name both and set '
                f'num_classes=2 of the heads, with out_channels=1 for a sigmoid.'
            )
        if wrong:
            first = ', of which reduce_zero_label=True makes 1 the first' if reduced else ''
            shift = 'set reduce_zero_label=True if 0 is unlabelled and 1 the first class, or '
            return (
                f'The mask {name} holds the id {wrong[0]}, which no class has: the {split} masks {held}, and there are '
                f'{number} classes{first}; {shift if wrong == [number] and not reduced else ""}name all classes in '
                f'metainfo.classes, or write {VOID} for pixels of no class.'
            )
        if ids == [0, VOID] and labels and number:
            return (
                f'The {split} masks, such as {name}, {held} alone, and {VOID} is void: only '
                f'{printable(str(self._classes[labels[0]]))} is left; write the objects as 1.'
            )
        if not labels:
            return (
                f'No pixel of the {split} masks has a class: {self._sampled} of {len(self._infos)}, such as {name}, '
                f'{held}, which is void{" by reduce_zero_label=True" if reduced and 0 in ids else ""}; write the ids '
                f'of the classes.'
            )
        return None

    def describe_shift(self, split: str) -> str | None:
        """Describe masks that seem to count the classes from 0, but have ``reduce_zero_label``; None for others."""
        number = len(self._classes)
        if not self._seems_shifted() or (split != 'train' and self._sampled < _FEW):
            return None
        return (
            f'The {split} masks, such as {printable(self._first[number - 1])}, hold the ids 0 to {number - 1} and '
            f'never {number}: they count the {number} classes from 0, but reduce_zero_label=True takes 0 for void and '
            f'1 for the first class; set reduce_zero_label=False, or leave out the class without pixels.'
        )
