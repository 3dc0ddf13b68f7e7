"""Samples of data sets of all tasks as files: reading all of them, and finding pictures that are there twice."""

import hashlib
import os
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
from mmengine.utils import track_iter_progress

from ..utils.errors import UserError, printable
from ..utils.image_io import read_image
from .faults import Faults, name_image_fault
from .image_loading import check_size


class Sample(NamedTuple):
    """An image of a split.

    Attributes:
        split: ``'train'``, ``'val'`` or ``'test'``.
        path: Its file.
        place: In its data set.
        labels: Of the classes in it, as far as they are known without reading it.
        size: Width and height by its annotations; None if they say nothing.
    """

    split: str
    path: str
    place: int
    labels: tuple[int, ...] = ()
    size: tuple[int, int] | None = None


class Look(NamedTuple):
    """What a look at an image gave.

    Attributes:
        size: Width and height; None for an image that cannot be read.
        digest: Of its pixels.
        more: Of the function that looked on.
        faults: Kinds and sentences.
    """

    size: tuple[int, int] | None
    digest: bytes
    more: Any
    faults: list[tuple[str, str]]


class SplitStatistics:
    """What a split of a data set holds: the parts that tasks share, with what a classifier needs.

    Attributes:
        split: ``'train'``, ``'val'`` or ``'test'``.
        samples: Its images.
    """

    split: str
    samples: Sequence[Sample]

    def look_on(self, sample: Sample, image: np.ndarray, found: list[tuple[str, str]]) -> Any:
        """Look at the annotations of an image, (H, W, 3), in a thread; adds kinds and sentences of faults."""

    def take(self, sample: Sample, more: Any) -> tuple[int, ...]:
        """Take what :meth:`look_on` returned, in the main thread; returns the labels that are seen in the image."""
        return sample.labels

    def summary(self) -> dict[str, Any]:
        """Numbers for people and programs, with ``classes`` by name."""
        raise NotImplementedError


def look_at_all(splits: Mapping[str, SplitStatistics], faults: Faults) -> Iterator[tuple[Sample, Look]]:
    """Read all images as training does, with a progress bar on stderr, and find pictures that are there twice.

    Args:
        splits: By name.
        faults: Gets what is wrong.
    """
    samples = [sample for one in splits.values() for sample in one.samples]
    totals = {split: len(one.samples) for split, one in splits.items()}
    same: defaultdict[bytes, list[Sample]] = defaultdict(list)
    pool = ThreadPoolExecutor(len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count())
    try:
        looks = pool.map(lambda sample: _look(sample, splits[sample.split].look_on), samples)
        for sample, look in zip(samples, track_iter_progress((looks, len(samples)), file=sys.stderr), strict=True):
            for kind, text in look.faults:
                faults.add(kind, sample.split, text, [sample.path], totals[sample.split])
            if look.digest:
                same[look.digest].append(sample)
            yield sample, look
    finally:
        pool.shutdown(cancel_futures=True)
    for copies in same.values():
        if len(copies) > 1:
            _add_copies(copies, totals, faults)


def _look(sample: Sample, look_on: Callable[[Sample, np.ndarray, list], Any]) -> Look:
    found: list[tuple[str, str]] = []
    try:
        image = read_image(sample.path)
    except UserError as error:
        return Look(None, b'', None, [(name_image_fault(error.__cause__), str(error))])
    height, width = image.shape[:2]
    if sample.size is not None:
        try:
            check_size(sample.path, (height, width), sample.size[::-1], 'in the annotation file')
        except UserError as error:
            found.append(('images of another size than their annotations', str(error)))
    # Of the pixels: copies may differ in their metadata, or in their format.
    digest = hashlib.blake2b(image.data, digest_size=16, salt=width.to_bytes(8, 'big')).digest()
    return Look((width, height), digest, look_on(sample, image, found), found)


def _add_copies(copies: Sequence[Sample], totals: dict[str, int], faults: Faults) -> None:
    """Add copies of a picture: in a split, in classes that differ, and across splits, of training or validation."""
    first: dict[str, Sample] = {}
    for one in copies:
        original = first.setdefault(one.split, one)
        if original is one:
            continue
        pair = f'{printable(original.path)} and {printable(one.path)} are the same picture'
        if len({*original.labels} | {*one.labels}) > 1 and len(original.labels) == len(one.labels) == 1:
            kind, remedy = 'pictures that are there in several classes', 'keep the one that is right'
        else:
            kind, remedy = 'pictures that are there twice', 'keep one'
        faults.add(kind, one.split, f'{pair}: {remedy}.', [original.path, one.path], totals[one.split])
    splits = [split for split in ('train', 'val', 'test') if split in first]
    for split in splits[1:]:
        other, one = first[splits[0]], first[split]
        text = (
            f'{printable(one.path)} is the picture {printable(other.path)} of {splits[0]}: scores on what was learnt, '
            f'or chosen by, are too good; remove one.'
        )
        number = sum(copy.split == split for copy in copies)
        faults.add('pictures that another split has, too', split, text, [one.path, other.path], totals[split], number)
