"""Checks of COCO annotation files: each problem is one sentence that names the file, the entry and its value.

A problem is what mmdet fails on or silently misreads. What it leaves out is none: crowds, boxes without an area within
the image, annotations of other classes or of images that the file does not list; it is counted.
"""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from ..utils.errors import UserError, printable
from .coco_boxes import BoxEvidence
from .coco_format import RLE, Annotation, CocoFile, CocoProblem, Image, read_coco

_CROWD, _NO_OUTLINE = 'iscrowd=1', 'a segmentation of fewer than three points'
_DECODED = 2000  # annotations whose compressed masks are decoded, which takes half a millisecond each


class CocoContent(NamedTuple):
    """What a data set takes from its annotation file: file names of images by id, and how many annotations."""

    path: Path
    images: dict[float | str, str]
    dropped: Counter[str]  # images that are left out, by reason
    used: int
    left_out: Counter[str]  # annotations that are left out, by reason

    def describe_loss(self) -> str:
        """Say what is left out of what, and why."""
        parts = [f'{number} of {len(self.images)} images {why}' for why, number in self.dropped.most_common()]
        annotations = self.used + self.left_out.total()
        parts += [f'{number} of {annotations} annotations have {why}' for why, number in self.left_out.most_common()]
        return f'in {self.path} {", and ".join(parts) or "there are no annotations"}'


class CocoObserver:
    """Looks on while a file is checked. This one raises the first problem, as a run does."""

    def begin(self, coco: CocoFile, images: Mapping[float | str, Image]) -> None:
        """Get the file, and its images by id, before the first annotation."""

    def see(self, number: int, annotation: Annotation, image: Image | None, why: str | None) -> None:
        """Get an annotation, its place, its image if there is one, and why it is left out if it is."""

    def refuse(self, problem: CocoProblem) -> None:
        """Get a problem; the check goes on if this returns."""
        raise problem


def check_coco(
    dataset: Mapping, classes: Sequence[str] | None = None, observer: CocoObserver | None = None
) -> CocoContent:
    """Check the annotation file of a data set.

    Args:
        dataset: Config of a data set of mmdet.
        classes: The class names of the config, if it has any.
        observer: Gets all entries and problems.

    Raises:
        UserError: The file is missing or invalid, has other classes, or contradicts itself.
    """
    observer = observer or CocoObserver()
    path = Path(dataset.get('data_root') or '.') / dataset['ann_file']
    masks = any(isinstance(step, dict) and step.get('with_mask') for step in dataset.get('pipeline') or ())
    try:
        coco = read_coco(path)
        images = {image.id: image for image in coco.entries('images', observer.refuse)}
        observer.begin(coco, images)
        categories = _find_categories(coco, classes)
        left_out, annotated = _check_annotations(
            coco, images, categories, masks, bool(dataset.get('test_mode')), observer
        )
    except OSError as error:
        raise UserError(
            f'The annotation file {path} cannot be read ({error}): point elsewhere with --data-root.'
        ) from error
    except CocoProblem as error:
        raise UserError(f'The annotation file {path} {error}.') from error
    dropped = _count_dropped(images, annotated, {} if dataset.get('test_mode') else dataset.get('filter_cfg') or {})
    used = len(coco.annotations) - left_out.total()
    return CocoContent(path, {name: image.file_name for name, image in images.items()}, dropped, used, left_out)


def _find_categories(coco: CocoFile, classes: Sequence[str] | None) -> dict[float | str, bool]:
    """The ids of all categories, and whether a config names them, which must be in the order of the file."""
    categories = [*coco.entries('categories')]
    names = [category.name for category in categories]
    # mmdet numbers labels in the order of the file's categories, whatever the order of the classes.
    if classes is not None and [name for name in names if name in classes] != list(classes):
        raise CocoProblem(
            f'has the categories {printable(names)}, but the config the classes {printable(list(classes))}: labels are '
            f'their places in the file, which must list all in this order; change it, or metainfo.classes of all data '
            f'sets'
        )
    return {category.id: classes is None or category.name in classes for category in categories}


def _check_annotations(
    coco: CocoFile,
    images: dict[float | str, Image],
    categories: dict[float | str, bool],
    masks: bool,
    evaluated: bool,
    observer: CocoObserver,
) -> tuple[Counter[str], set[float | str]]:
    """Why annotations are left out, and the ids of images that have some of the wanted categories."""
    left_out: Counter[str] = Counter()
    annotated, boxes = set(), BoxEvidence()
    for number, annotation in coco.numbered('annotations', observer.refuse):
        if categories.get(annotation.category_id):
            annotated.add(annotation.image_id)
        image = images.get(annotation.image_id)
        why = (
            _why_left_out(annotation, image, categories, masks)
            if image
            else _why_unknown('image', annotation.image_id, images)
        )
        observer.see(number, annotation, image, why)
        if why:
            left_out[why] += 1
        if image is None:
            continue
        problem = None
        if not why:
            boxes.add(number, annotation, image)
        if why in (None, _CROWD):
            problem = _mask_problem(annotation.segmentation, image, masks, number < _DECODED)
        elif why == _NO_OUTLINE and evaluated:  # pycocotools takes four numbers for a box, and fails
            problem = 'where an evaluation needs three points or more'
        if problem:
            text = f'has annotations[{number}] with segmentation={printable(annotation.segmentation)}, {problem}'
            observer.refuse(CocoProblem(text, 'unusable masks', images=[image.file_name]))
    for contradiction in boxes.find_problems():
        observer.refuse(contradiction)
    return left_out, annotated


def _why_left_out(
    annotation: Annotation, image: Image, categories: Mapping[float | str, bool], masks: bool
) -> str | None:
    """Why mmdet does not learn from an annotation; None if it does."""
    if not categories.get(annotation.category_id):
        known = annotation.category_id in categories
        return 'another class' if known else _why_unknown('category', annotation.category_id, categories)
    if annotation.ignore:
        return 'ignore=1'
    x, y, width, height = annotation.bbox
    if min(x + width, image.width) <= max(x, 0) or min(y + height, image.height) <= max(y, 0):
        return 'a bbox outside of the image'
    if width < 1 or height < 1:
        return 'a bbox below one pixel'
    if annotation.area <= 0:
        return 'no area'
    if annotation.iscrowd:
        return _CROWD
    polygons = annotation.segmentation if masks and isinstance(annotation.segmentation, list) else []
    return _NO_OUTLINE if polygons and all(len(polygon) < 6 for polygon in polygons) else None


def _why_unknown(kind: str, name: float | str, known: Collection[float | str]) -> str:
    """Why an image or a category is not found by its id."""
    other = str(name) if not isinstance(name, str) else int(name) if name.isdecimal() else None
    if other in known:
        types = ('text', 'a number') if isinstance(name, str) else ('a number', 'text')
        return f'{types[0]} as {kind}_id, where the id of the {kind} is {types[1]}'
    return 'another image_id than any image' if kind == 'image' else 'another category_id than any category'


def _mask_problem(mask: list | RLE | None, image: Image, masks: bool, decode: bool) -> str | None:
    """What pycocotools fails on or decodes to arbitrary pixels; polygons are checked by their type."""
    if not mask:
        return 'but the config asks for masks' if masks else None
    if isinstance(mask, list):
        return None
    if mask.size != [image.height, image.width]:
        return f'whose size is not that of its image, {[image.height, image.width]}'
    if isinstance(mask.counts, list):
        return None if sum(mask.counts) == image.height * image.width else 'whose counts do not add up to its size'
    if decode:
        from pycocotools.mask import decode as decode_mask

        try:
            decode_mask(dict(size=mask.size, counts=mask.counts))
        except Exception as error:
            return f'which cannot be decoded ({error})'
    return None


def _count_dropped(images: dict[float | str, Image], annotated: set[float | str], settings: Mapping) -> Counter[str]:
    """Why mmdet's filter leaves out images."""
    dropped: Counter[str] = Counter()
    smallest = settings.get('min_size', 0)
    for image in images.values():
        if min(image.width, image.height) < smallest:
            dropped[f'are smaller than filter_cfg.min_size={smallest}'] += 1
        elif settings.get('filter_empty_gt') and image.id not in annotated:
            dropped['have no annotation of the classes, which filter_cfg.filter_empty_gt asks for'] += 1
    return dropped
