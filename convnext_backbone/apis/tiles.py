"""Tiles of a large image: overlapping windows at full resolution, and one result out of those of all windows."""

import itertools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from ..utils.errors import UserError
from ..utils.validation import COUNT

_AGREE = 0.5  # least overlap of two boxes of one object; that of the detectors' own NMS


class Window(NamedTuple):
    """A part of an image, in pixels."""

    left: int
    top: int
    right: int
    bottom: int


class Tiles(NamedTuple):
    """Square windows of a size, in pixels, of which neighbours share a part."""

    size: int
    overlap: float

    def check(self) -> None:
        """Raise UserError if no image can be covered with such windows."""
        COUNT.check('--tile', self.size)
        if not 0 <= self.overlap <= 0.9:
            raise UserError(f'--overlap {self.overlap} is out of range: neighbours share between 0 and 0.9 of a tile.')

    def spans(self, length: int) -> list[tuple[int, int]]:
        """The first pixel and the one after the last of each tile along a side of an image, equally spaced."""
        if length <= self.size:
            return [(0, length)]
        steps = math.ceil((length - self.size) / max(1, math.floor(self.size * (1 - self.overlap))))
        starts = [(length - self.size) * i // steps for i in range(steps + 1)]
        return [(start, start + self.size) for start in starts]

    def windows(self, height: int, width: int) -> list[Window]:
        """The windows over an image, row by row."""
        rows, columns = self.spans(height), self.spans(width)
        return [Window(left, top, right, bottom) for (top, bottom), (left, right) in itertools.product(rows, columns)]

    def cores(self, height: int, width: int) -> list[Window]:
        """The part of each window that is nearer to its middle than to that of a neighbour: together the image."""
        rows, columns = _cores(self.spans(height)), _cores(self.spans(width))
        return [Window(left, top, right, bottom) for (top, bottom), (left, right) in itertools.product(rows, columns)]


def _cores(spans: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    middles = [(end + start) // 2 for (_, end), (start, _) in itertools.pairwise(spans)]
    return [*itertools.pairwise([spans[0][0], *middles, spans[-1][1]])]


def merge_detections(
    found: Sequence[tuple[Window, list[tuple[int, dict]]]], size: tuple[int, int]
) -> list[tuple[int, dict]]:
    """Merge the detections of windows, one of which may be the whole image, so that each object is found once.

    Detections of a class in different windows are of one object if their boxes agree in what both windows see. The
    detection of the best score stays, but not one that a border of its window cuts if another is whole, which then gets
    that score. A cut box that lies mostly in a whole one goes, too. If all are cut, their union stays. Detections of
    one window are never merged: its model has told them apart.

    Unlike the greedy merging of sahi, which goes by the share of the smaller box alone, this keeps small objects in
    front of large ones of their class, and joins the halves of what is larger than the overlap.

    Args:
        found: Windows, and in each the detections as of :func:`.coco_detections`, in pixels of the window.
        size: Height and width of the image.

    Returns:
        Detections in pixels of the image, best first.
    """
    rows = [(window, number, *one) for number, (window, inside) in enumerate(found) for one in inside]
    if not rows:
        return []
    pool = _Pool(rows, size)
    kept = [i for i in np.lexsort((-pool.scores, pool.cut)) if pool.take(i)]
    return [pool.detection(i) for i in sorted(kept, key=lambda i: -pool.scores[i])]


class _Pool:
    """Detections of all windows that are not taken yet: boxes as corners, in pixels of the image."""

    def __init__(self, rows: list[tuple[Window, int, int, dict]], size: tuple[int, int]) -> None:
        self._rows, self._size = rows, size
        self._views = np.array([window for window, *_ in rows], float)
        corners = np.array([one['bbox'] for *_, one in rows], float)
        corners[:, 2:] += corners[:, :2]
        self._boxes = corners + np.tile(self._views[:, :2], 2)
        self.scores = np.array([one['score'] for *_, one in rows])
        self._labels = np.array([label for *_, label, _ in rows])
        self._sources = np.array([number for _, number, *_ in rows])
        image = np.array([0, 0, size[1], size[0]], float)
        margin = np.maximum(2, (self._views[:, 2:] - self._views[:, :2]).max(1, keepdims=True) / 100)
        self.cut = ((np.abs(self._boxes - self._views) < margin) & (self._views != image)).any(1)
        self._parts = [[i] for i in range(len(rows))]
        self._free = np.ones(len(rows), bool)

    def take(self, i: int) -> bool:
        """Take a detection and all others of its object; whether it was still there."""
        if not self._free[i]:
            return False
        self._free[i] = False
        while True:
            sources = self._sources[self._parts[i]]
            others = self._free & (self._labels == self._labels[i]) & ~np.isin(self._sources, sources)
            others = np.flatnonzero(others)
            agree, inside = self._compare(i, others)
            same = others[agree >= _AGREE]
            self._free[same] = False
            self.scores[i] = max([self.scores[i], *self.scores[same]])
            if not self.cut[i]:  # all that is left to come is cut, or is of another object
                self._free[others[self.cut[others] & (inside >= _AGREE)]] = False
                return True
            if not len(same):
                return True
            self._parts[i] += same.tolist()
            for corners in (self._boxes, self._views):
                corners[i, :2] = corners[[i, *same], :2].min(0)
                corners[i, 2:] = corners[[i, *same], 2:].max(0)

    def _compare(self, i: int, others: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """IoU of a box with others in what both windows see, and the share of each of the others that lies in it."""
        shared = _intersect(self._views[i], self._views[others])
        one, other = _intersect(self._boxes[i], shared), _intersect(self._boxes[others], shared)
        common, areas = _area(_intersect(one, other)), _area(other)
        return common / np.maximum(_area(one) + areas - common, 1e-9), common / np.maximum(areas, 1e-9)

    def detection(self, i: int) -> tuple[int, dict]:
        """A detection that was taken, with the masks of its parts joined."""
        left, top, right, bottom = self._boxes[i].tolist()
        merged: dict[str, Any] = dict(bbox=[left, top, right - left, bottom - top], score=float(self.scores[i]))
        rows = [self._rows[k] for k in self._parts[i]]
        parts = [(window, one['segmentation']) for window, *_, one in rows if 'segmentation' in one]
        if parts:
            from pycocotools import mask as coco_mask

            rle = coco_mask.merge([place_mask(mask, window, self._size) for window, mask in parts])
            merged['area'] = float(coco_mask.area(rle))
            merged['segmentation'] = dict(size=[int(n) for n in rle['size']], counts=rle['counts'].decode())
        return int(self._labels[i]), merged


def _intersect(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    return np.concatenate([np.maximum(one[..., :2], other[..., :2]), np.minimum(one[..., 2:], other[..., 2:])], -1)


def _area(boxes: np.ndarray) -> np.ndarray:
    return np.clip(boxes[..., 2:] - boxes[..., :2], 0, None).prod(-1)


def place_mask(rle: dict, window: Window, size: tuple[int, int]) -> dict:
    """Move the mask of a window, as RLE, to its place in an image of a height and width."""
    from pycocotools import mask as coco_mask

    if tuple(rle['size']) == size:
        return rle
    # COCO's runs go down the columns of the image: only those of the window are looked at, not megapixels around it.
    column, row = np.diff(np.pad(coco_mask.decode(rle).T.astype(np.int8), ((0, 0), (1, 1)))).nonzero()
    places, times = np.unique((column + window.left) * size[0] + row + window.top, return_counts=True)
    # Twice where a run goes on in the next column.
    changes = places[(times == 1) & (places < size[0] * size[1])]
    counts = np.diff(changes, prepend=0, append=size[0] * size[1]).tolist()
    return coco_mask.frPyObjects(dict(size=list(size), counts=counts), *size)
