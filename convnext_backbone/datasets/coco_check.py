"""What is wrong with a COCO annotation file, in one sentence that names the file, the entry and its value.

Wrong is what mmdet stumbles over, or takes for something else than it says. What it skips is not: boxes without an area
within the image, polygons of less than three points, annotations of other classes or of no image of the file.
"""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from ..utils.errors import printable
from ..utils.validation import COUNT, is_number

_KEYS = ('images', 'annotations', 'categories')
_EXPECTED = 'a COCO annotation file is a json object with the lists images, annotations and categories'
_FAR = 1e6  # pixels: pycocotools walks along the edges of a polygon, pixel by pixel


def find_coco_problem(dataset: Mapping, classes: Sequence[str] | None = None, failed: bool = False) -> str | None:
    """What keeps a data set of mmdet's from being read; None if nothing does.

    Args:
        dataset: Its config.
        classes: The classes that the config names, if it names any.
        failed: Whether a run has failed: then images must be there too, of which a run may leave some out.
    """
    root = Path(dataset.get('data_root') or '.')
    path = root / dataset['ann_file']
    try:
        content = json.loads(path.read_text(encoding='utf-8'))
    except (ValueError, OSError, RecursionError) as error:
        return f'The annotation file {path} is not json ({error}): {_EXPECTED}; point elsewhere with --data-root.'
    lacking = [key for key in _KEYS if not isinstance(content, dict) or not isinstance(content.get(key), list)]
    if lacking:
        return f'The annotation file {path} is not COCO json, it has no list {", ".join(lacking)}: {_EXPECTED}.'
    steps = [step for step in dataset.get('pipeline') or [] if isinstance(step, dict)]
    masks = any(step.get('with_mask') for step in steps)
    problems = [_entry_problems(content), _class_problems(content, classes), _outline_problems(content, masks)]
    if failed and not any(step.get('backend_args') for step in steps):  # or the images may be anywhere
        problems.append(_file_problems(content, root / ((dataset.get('data_prefix') or {}).get('img') or '')))
    for problem in (one for kind in problems for one in kind):
        return f'The annotation file {path} {problem}.'
    return None


def _entry_problems(content: dict[str, list]) -> Iterator[str]:
    wanted = dict(
        images=dict(id=_is_id, file_name=_is_text, height=COUNT.fits, width=COUNT.fits),
        categories=dict(id=_is_id, name=_is_text),
        annotations=dict(id=_is_id, image_id=_is_id, category_id=_is_id, bbox=_is_box, area=_is_real),
    )
    for kind, keys in wanted.items():
        if not content[kind] and kind != 'annotations':
            yield f'has no {kind}'
        known = set()
        for place, entry in enumerate(content[kind]):
            if not isinstance(entry, dict):
                yield f'has {kind}[{place}]={_shown(entry)}, which is no object'
            for key, fits in keys.items():
                if key not in entry or not fits(entry[key]):
                    yield f'has {kind}[{place}] with {key}={_shown(entry.get(key, "missing"))}'
            if entry['id'] in known:
                yield f'has two {kind} with id={entry["id"]!r}'
            known.add(entry['id'])


def _class_problems(content: dict[str, list], classes: Sequence[str] | None) -> Iterator[str]:
    names = [category['name'] for category in content['categories']]
    if classes is not None and [name for name in names if name in classes] != list(classes):
        # mmdet's labels are the places of the file's categories, whatever the order of the classes.
        yield (
            f'has the categories {_shown(names)}, but the config the classes {_shown(list(classes))}: name those of '
            f'the file, in its order, in metainfo.classes of the data set'
        )


def _file_problems(content: dict[str, list], folder: Path) -> Iterator[str]:
    for place, image in enumerate(content['images']):
        try:
            found = (folder / image['file_name']).is_file()
        except (ValueError, OSError):
            found = False
        if not found:
            yield (
                f'has images[{place}] with file_name={_shown(image["file_name"])}, which is missing in {folder}: mend '
                f'data_root and data_prefix, or put it there'
            )


def _outline_problems(content: dict[str, list], masks: bool) -> Iterator[str]:
    images = {image['id']: image for image in content['images']}
    for place, entry in enumerate(content['annotations']):
        image = images.get(entry['image_id'])
        if image is None or _is_skipped(entry, image):
            continue
        outline = entry.get('segmentation')
        problem = _outline_problem(outline, image) if outline else masks and 'but the config asks for masks'
        if problem:
            yield f'has annotations[{place}] with segmentation={_shown(outline)}, {problem}'


def _is_skipped(entry: dict, image: dict) -> bool:
    x, y, width, height = entry['bbox']
    seen = min(x + width, image['width']) > max(x, 0) and min(y + height, image['height']) > max(y, 0)
    return bool(entry.get('ignore')) or not seen or width < 1 or height < 1 or entry['area'] <= 0


def _outline_problem(outline: object, image: dict) -> str | None:
    """What is wrong with polygons, of which mmdet leaves out those of less than three points, or with RLE."""
    if isinstance(outline, list):
        if not all(isinstance(polygon, list) for polygon in outline):
            return 'which is no list of polygons'
        kept = [polygon for polygon in outline if len(polygon) % 2 == 0 and len(polygon) >= 6]
        return None if all(map(_is_near, kept)) else 'which has other things than coordinates in pixels'
    if not isinstance(outline, dict):
        return 'which is neither polygons nor RLE'
    counts, size = outline.get('counts'), outline.get('size')
    if size is None or not isinstance(counts, (list, str)):
        return None  # mmdet leaves it out
    if size != [image['height'], image['width']]:
        return f'whose size is not that of its image, {[image["height"], image["width"]]}'
    if isinstance(counts, list):
        whole = all(isinstance(count, int) and count >= 0 for count in counts)
        return None if whole and sum(counts) == size[0] * size[1] else 'whose counts do not add up to its size'
    from pycocotools import mask  # where there are masks of mmdet's, it is there

    try:
        mask.decode(outline)
    except Exception as error:
        return f'which cannot be decoded ({error})'
    return None


def _is_near(polygon: list) -> bool:
    try:  # a million of them in a second or two
        return -_FAR < min(polygon) and max(polygon) < _FAR and not math.isnan(sum(polygon))
    except TypeError:
        return False


def _shown(value: object) -> str:
    return printable(repr(value))


def _is_text(value: object) -> bool:
    return isinstance(value, str) and bool(value)


def _is_id(value: object) -> bool:
    return isinstance(value, (int, str)) and not isinstance(value, bool)


def _is_real(value: object) -> bool:
    return isinstance(value, float) or (is_number(value) and abs(value) < 2**63)


def _is_box(value: object) -> bool:
    return isinstance(value, list) and len(value) == 4 and all(map(_is_real, value))
