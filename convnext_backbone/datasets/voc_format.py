"""Pascal VOC's annotations: an XML file of boxes for each image, and lists of images."""

import math
import os
from collections import defaultdict
from pathlib import Path
from xml.etree import ElementTree

from ..utils.errors import UserError, printable
from .box_formats import Annotated, Converted, Folders, describe_unused, make_object, to_coco
from .faults import RAISED, Faults
from .folders import find_images, pair_folders, read_size, read_text
from .image_lists import find_splits

_XML_FOLDERS = ('annotations', 'annotation', 'annotations/xmls', 'xmls', 'labels')


def convert_voc(root: Path, folders: Folders, faults: Faults = RAISED) -> Converted | None:
    """Convert the boxes of Pascal VOC's XML files.

    Splits are those of lists, as in ``ImageSets/Main``, else of the folders. Objects that are marked difficult become
    crowds, which are neither learnt nor counted. Pixels are counted from 1, as in VOC, unless a box begins at 0.

    Args:
        root: The folder of the data.
        folders: File names by folder below it.
        faults: Gets files that are no annotations, and images that cannot be read.

    Returns:
        None where there are no such files.

    Raises:
        UserError: A file is invalid; the text names it.
    """
    files: dict[Path, Path | None] = {}  # of images
    found: set[Path] = set()
    for folder, other in pair_folders(folders, '.xml', _XML_FOLDERS):
        names = {*folders[other]}
        found |= {other / name for name in names if name.endswith('.xml')}
        for name in find_images(folders[folder]):
            xml = f'{os.path.splitext(name)[0]}.xml'
            files[folder / name] = other / xml if xml in names else None
    listed, notes = find_splits(files, found, root, folders, faults)
    splits: dict[str | None, list[Annotated]] = defaultdict(list)
    used = {path for path in files.values() if path}
    unlabelled = len(files) - len(used)
    for image, path in files.items():
        for split in listed[image]:
            splits[split] += _read_voc(image, path, split or '', faults) if path else []
    objects = [one for annotated in splits.values() for image in annotated for one in image.objects]
    if not objects:
        return None
    first = int(all(min(one['bbox'][:2]) >= 1 for one in objects))  # the number of the first pixel
    for one in objects:  # of two corners
        left, top, right, bottom = one['bbox']
        one.update(make_object(one['category_id'], left - first, top - first, right, bottom, []))
    classes = sorted({one['category_id'] for one in objects})
    for one in objects:
        one['category_id'] = classes.index(one['category_id'])
    notes += describe_unused(found, used, faults)
    if unlabelled:
        note, total = f'{unlabelled} images without an XML file are left out', unlabelled + len(used)
        remedy = 'annotate them, or remove them'
        notes.append(faults.mention('images without annotations', '', note, remedy, total, unlabelled))
    return Converted('Pascal VOC', {split: to_coco(one, classes, root) for split, one in splits.items()}, notes)


def _read_voc(image: Path, path: Path, split: str, faults: Faults) -> list[Annotated]:
    """An image with its annotations; none if there is a fault."""
    try:
        size, objects = _parse(path)
    except UserError as error:
        faults.add('invalid annotation files', split, str(error), [str(image)])
        return []
    size = size if all(size) else read_size(image, split, faults)
    return [Annotated(image, size, objects)] if all(size) else []


def _parse(path: Path) -> tuple[tuple[int, int], list[dict]]:
    """The size of an image and its objects, of an XML file."""
    text = read_text(path, declared=True)
    if '<!DOCTYPE' in text or '<!ENTITY' in text:  # which may grow without end, or name files
        raise UserError(f'{path} has a document type, which no annotation needs: remove it.')
    try:
        tree = ElementTree.fromstring(text)
        width, height = (int(float(tree.findtext(f'size/{key}') or 0)) for key in ('width', 'height'))
        return (width, height), [_read_object(one) for one in tree.findall('object')]
    except (ElementTree.ParseError, TypeError, ValueError, OverflowError) as error:
        raise UserError(
            f'{path} is no annotation of Pascal VOC ({printable(str(error))}): an object has a name, and a bndbox of '
            f'xmin, ymin, xmax and ymax.'
        ) from error


def _read_object(element: ElementTree.Element) -> dict:
    name = (element.findtext('name') or '').strip()
    box = [float(element.findtext(f'bndbox/{key}')) for key in ('xmin', 'ymin', 'xmax', 'ymax')]  # type: ignore[arg-type]
    if not name or not all(map(math.isfinite, box)):
        raise ValueError('an object has no name' if not name else f'bndbox is {box}')
    return dict(category_id=name, bbox=box, iscrowd=int((element.findtext('difficult') or '0').strip() == '1'))
