"""Checks of COCO annotation files: the first problem as one sentence that names the file, the entry and its value.

A problem is what mmdet fails on or silently misreads. What it skips is none: boxes without an area within the image,
polygons of fewer than three points, annotations of other classes or of images that the file does not list.
"""

import os.path
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..utils.errors import printable

if TYPE_CHECKING:
    from pydantic import ValidationError

    from .coco_format import RLE, Annotation, CocoFile, Image

_EXPECTED = 'a COCO annotation file is a json object with the lists images, annotations and categories'


def find_coco_problem(dataset: Mapping, classes: Sequence[str] | None = None, failed: bool = False) -> str | None:
    """Describe the first problem of the annotation file of a data set; None if there is none.

    Args:
        dataset: Config of a data set of mmdet.
        classes: The class names of the config, if it has any.
        failed: Whether a run has failed: then every image must exist, though a run may use only some of them.
    """
    from pydantic import ValidationError  # here: it takes a fifth of a second to import

    from .coco_format import CocoFile

    root = Path(dataset.get('data_root') or '.')
    path = root / dataset['ann_file']
    try:
        coco = CocoFile.model_validate_json(path.read_bytes())
    except OSError as error:
        return f'The annotation file {path} cannot be read ({error}): point elsewhere with --data-root.'
    except ValidationError as error:
        return f'The annotation file {path} {_schema_problem(error)}.'
    steps = [step for step in dataset.get('pipeline') or [] if isinstance(step, dict)]
    masks = any(step.get('with_mask') for step in steps)
    problem = _duplicate_id(coco) or _class_problem(coco, classes) or _segmentation_problem(coco, masks)
    if not problem and failed and not any(step.get('backend_args') for step in steps):  # else images may be elsewhere
        problem = _missing_image(coco, root / ((dataset.get('data_prefix') or {}).get('img') or ''))
    return problem and f'The annotation file {path} {problem}.'


def _schema_problem(invalid: 'ValidationError') -> str:
    errors = invalid.errors(include_url=False)
    first, location = errors[0], errors[0]['loc']
    if not location:
        what = 'json' if first['type'] == 'json_invalid' else 'COCO json'
        return f'is not {what} ({first["msg"]}): {_EXPECTED}; point elsewhere with --data-root'
    name = ''.join(f'[{part}]' if isinstance(part, int) else f'.{part}' for part in location[:3])[1:]
    if first['type'] == 'missing':
        return f'lacks {name}' + (f': {_EXPECTED}' if len(location) == 1 else '')
    # Of the alternatives of a union, the one that got furthest.
    error = max((one for one in errors if one['loc'][:3] == location[:3]), key=lambda one: len(one['loc']))
    return f'has {_shown(error["input"])} in {name} ({error["msg"]})'


def _duplicate_id(coco: 'CocoFile') -> str | None:
    for kind in ('images', 'annotations', 'categories'):
        for one, number in Counter(entry.id for entry in getattr(coco, kind)).items():
            if number > 1:
                return f'has {number} {kind} with id={_shown(one)}'
    return None


def _class_problem(coco: 'CocoFile', classes: Sequence[str] | None) -> str | None:
    names = [category.name for category in coco.categories]
    # mmdet numbers labels in the order of the file's categories, whatever the order of the classes.
    if classes is None or [name for name in names if name in classes] == list(classes):
        return None
    return (
        f'has the categories {_shown(names)}, but the config the classes {_shown(list(classes))}: name those of the '
        f'file, in its order, in metainfo.classes of the data set'
    )


def _segmentation_problem(coco: 'CocoFile', masks: bool) -> str | None:
    images = {image.id: image for image in coco.images}
    for number, annotation in enumerate(coco.annotations):
        image, outline = images.get(annotation.image_id), annotation.segmentation
        if image is None or _is_skipped(annotation, image):
            continue
        if not outline:
            problem = 'but the config asks for masks' if masks else None
        else:
            problem = None if isinstance(outline, list) else _rle_problem(outline, image)
        if problem:
            return f'has annotations[{number}] with segmentation={_shown(outline)}, {problem}'
    return None


def _missing_image(coco: 'CocoFile', folder: Path) -> str | None:
    for number, image in enumerate(coco.images):
        if not os.path.isfile(folder / image.file_name):
            return (
                f'has images[{number}] with file_name={_shown(image.file_name)}, which is missing in {folder}: fix '
                f'data_root and data_prefix, or put it there'
            )
    return None


def _is_skipped(annotation: 'Annotation', image: 'Image') -> bool:
    x, y, width, height = annotation.bbox
    inside = min(x + width, image.width) > max(x, 0) and min(y + height, image.height) > max(y, 0)
    return bool(annotation.ignore) or not inside or width < 1 or height < 1 or annotation.area <= 0


def _rle_problem(rle: 'RLE', image: 'Image') -> str | None:
    size = [image.height, image.width]
    if rle.size != size:
        return f'whose size is not that of its image, {size}'
    if isinstance(rle.counts, list):  # which pycocotools would decode to arbitrary pixels if their sum is wrong
        return None if sum(rle.counts) == image.height * image.width else 'whose counts do not add up to its size'
    from pycocotools import mask

    try:
        mask.decode(rle.model_dump())
    except Exception as error:
        return f'which cannot be decoded ({error})'
    return None


def _shown(value: object) -> str:
    return printable(repr(value))
