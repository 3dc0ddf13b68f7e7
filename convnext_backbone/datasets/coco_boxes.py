"""Evidence in a COCO annotation file that its boxes are something else than [x, y, width, height]."""

import math
import operator
from collections import Counter, defaultdict
from collections.abc import Iterator

from .coco_format import Annotation, CocoProblem, Image

_NEAR = 2  # pixels by which a box of any size may miss its mask or leave its image
_Corners = tuple[float, float, float, float]


class BoxEvidence:
    """Counts the boxes of a file that contradict their mask, their area or their image.

    In all data sets some boxes reach a little beyond their image or their mask, and in some many reach far beyond the
    image, where people are partly outside. So a box without a mask that is larger than its image is taken for two
    corners only if all boxes of the file could be corners.
    """

    def __init__(self) -> None:
        self._all = self._possible = self._outlined = 0
        self._found: Counter[str] = Counter()
        self._first: dict[str, str] = {}
        self._images: defaultdict[str, set[str]] = defaultdict(set)

    def add(self, number: int, annotation: Annotation, image: Image) -> None:
        """Look at the box of an annotation."""
        x, y, width, height = annotation.bbox
        possible = x < width <= image.width + _NEAR and y < height <= image.height + _NEAR
        self._all += 1
        self._possible += possible
        kind = None
        extent = _find_extent(annotation.segmentation)
        if extent:
            self._outlined += 1
            if not _are_near(extent, (x, y, x + width, y + height)):
                kind = 'corners' if possible and _are_near(extent, annotation.bbox) else 'apart'
        elif possible:
            if abs((width - x) * (height - y) - annotation.area) <= 1 and annotation.area < 0.9 * width * height:
                kind = 'corners'
            elif x + width > 1.01 * image.width + _NEAR or y + height > 1.01 * image.height + _NEAR:
                kind = 'beyond'
        if kind:
            self._found[kind] += 1
            self._first.setdefault(kind, f'annotations[{number}] with bbox={list(annotation.bbox)}')
            self._images[kind].add(image.file_name)

    def find_problems(self) -> Iterator[CocoProblem]:
        """Iterate over what too many boxes contradict; the texts name their number and the first one."""
        for kind, allowed, contradicted in (
            ('corners', 0.02 * self._all, 'segmentation or area'),
            ('beyond', 0.2 * self._all if self._possible >= 0.98 * self._all else math.inf, 'image size'),
            ('apart', 0.5 * self._outlined, 'segmentation'),
        ):
            if self._found[kind] > allowed:
                yield CocoProblem(
                    f'has {self._found[kind]} of {self._all} boxes that contradict their {contradicted}, the first in '
                    f'{self._first[kind]}: write [x, y, width, height] in pixels of the image, not two corners',
                    'boxes that are not [x, y, width, height]',
                    self._found[kind],
                    self._images[kind],
                )


def _find_extent(outline: object) -> _Corners | None:
    """The corners of the box around polygons; None without any, or for a mask of another kind."""
    polygons = [polygon for polygon in outline if len(polygon) >= 6] if isinstance(outline, list) else []
    if not polygons:
        return None
    xs, ys = [polygon[::2] for polygon in polygons], [polygon[1::2] for polygon in polygons]
    return min(map(min, xs)), min(map(min, ys)), max(map(max, xs)), max(map(max, ys))


def _are_near(extent: _Corners, corners: _Corners) -> bool:
    """Whether a box is that of a mask, with the tolerance that small and partly hidden objects need."""
    near = _NEAR + max(extent[2] - extent[0], extent[3] - extent[1]) / 4
    return max(map(abs, map(operator.sub, extent, corners))) <= near
