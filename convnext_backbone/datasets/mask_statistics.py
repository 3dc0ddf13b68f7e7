"""What segmentation masks hold: the share of each class, and what is wrong with them."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from mmengine.registry import DATASETS

from ..utils.errors import UserError, printable
from .faults import Faults
from .image_loading import check_size
from .image_mask_pairs import ImageMaskPairs
from .mask_values import get_reader
from .masks import VOID, to_labels
from .samples import Sample, SplitStatistics


class MaskStatistics(SplitStatistics):
    """A split of images with masks.

    Args:
        split: ``'train'``, ``'val'`` or ``'test'``.
        dataset: Config of a data set of mmsegmentation or of :class:`.ImageMaskPairs`.
        scope: The registry scope of its type.
        classes: The names of its classes.
        faults: Gets what is wrong.

    Raises:
        UserError: Images or masks are not found.
    """

    def __init__(self, split: str, dataset: Mapping, scope: str | None, classes: Sequence[str], faults: Faults) -> None:
        self.split, self._classes, self._faults = split, classes, faults
        with DATASETS.switch_scope_and_registry(scope) as registry:
            built = registry.build({**dataset, 'pipeline': [], 'lazy_init': True})
        more = (self._refuse,) if isinstance(built, ImageMaskPairs) else ()
        self._infos: list[dict] = built.load_data_list(*more)
        self._read = get_reader(getattr(built, 'mask_values', None))
        self.samples = [Sample(split, info['img_path'], place) for place, info in enumerate(self._infos)]
        self._pixels = np.zeros(256, np.int64)  # by label
        self._images_with = np.zeros(256, np.int64)
        self._unlabelled = 0

    def _refuse(self, error: UserError, images: Sequence[str]) -> None:
        self._faults.add('images without a mask', self.split, str(error), images, number=len(images))

    def read_labels(self, sample: Sample) -> np.ndarray:
        """Read the mask of an image as training does: labels, (H, W), bytes; 255 is void.

        Raises:
            UserError: It cannot be read, or has a value that no class has.
        """
        info = self._infos[sample.place]
        ids = self._read(info['seg_map_path'], sample.path)
        return to_labels(ids, info['reduce_zero_label'], info['label_map'])

    def look_on(self, sample: Sample, image: np.ndarray, found: list[tuple[str, str]]) -> np.ndarray | None:
        """Count the pixels of each label."""
        mask = self._infos[sample.place]['seg_map_path']
        try:
            labels = self.read_labels(sample)
        except UserError as error:
            kind = 'values that no class has' if 'which no class has' in str(error) else 'unusable masks'
            found.append((kind, str(error)))
            return None
        try:
            check_size(sample.path, image.shape[:2], labels.shape, f'in the mask {mask}')
        except UserError as error:
            found.append(('masks of another size than their image', str(error)))
        pixels = np.bincount(labels.ravel(), minlength=256)
        strange = np.flatnonzero(pixels[len(self._classes) : VOID])
        if len(strange):
            text = (
                f'The mask {printable(mask)} holds the label {strange[0] + len(self._classes)}, which no class has: '
                f'there are {len(self._classes)}, from 0 on; name all classes, or write void.'
            )
            found.append(('values that no class has', text))
        return pixels

    def take(self, sample: Sample, more: np.ndarray | None) -> tuple[int, ...]:
        """Add the pixels of a mask."""
        if more is None:
            return ()
        self._pixels += more
        self._images_with += more > 0
        labels = tuple(np.flatnonzero(more[: len(self._classes)]).tolist())
        self._unlabelled += not labels
        return labels

    def summary(self) -> dict[str, Any]:
        """Numbers for people and programs; shares of classes are of the pixels that have one."""
        labelled = self._pixels[: len(self._classes)]
        shares = labelled / max(1, labelled.sum())
        return dict(
            void=float(1 - labelled.sum() / max(1, self._pixels.sum())),
            classes={
                name: dict(images=int(self._images_with[label]), share=float(shares[label]))
                for label, name in enumerate(self._classes)
            },
        )
