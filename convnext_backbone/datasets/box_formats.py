"""Annotations of other formats, a file for each image, as the content of COCO annotation files."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

from ..utils.errors import UserError, printable, shorten
from .coco_sets import find_area
from .faults import Faults

Folders: TypeAlias = Mapping[Path, Sequence[str]]


class Converted(NamedTuple):
    """Data sets of another format in that of COCO.

    Attributes:
        format: Its name.
        contents: Of an annotation file for each split (None where none is named); file names are relative to the root,
            or absolute.
        notes: Sentences on what a person should know.
    """

    format: str
    contents: dict[str | None, dict[str, list[dict]]]
    notes: list[str]


class Annotated(NamedTuple):
    """An image with its annotations: category_id, bbox, segmentation, area and iscrowd."""

    image: Path
    size: tuple[int, int]  # width, height
    objects: list[dict]


def describe_unused(found: set[Path], used: set[Path], faults: Faults) -> list[str]:
    """Say which annotation files have no image; none if all have one."""
    unused = sorted(path.name for path in found - used)
    if not unused:
        return []
    note = f'{len(unused)} of {len(found)} annotation files have no image and are left out: {shorten(unused)}'
    remedy = 'put their images there, or remove these files'
    return [faults.mention('annotation files without an image', '', note, remedy, len(found), len(unused))]


def make_object(label: Any, left: float, top: float, right: float, bottom: float, outline: list) -> dict:
    """An annotation of a category, of the corners of its box and the polygons of its mask in pixels."""
    one = dict(category_id=label, bbox=[left, top, right - left, bottom - top], segmentation=outline)
    return dict(one, area=find_area(one))


def to_coco(annotated: Iterable[Annotated], classes: Sequence[str], root: Path) -> dict[str, list[dict]]:
    """The content of an annotation file of some images, whose objects have labels of the classes."""
    images: list[dict] = []
    annotations: list[dict] = []
    for number, (image, (width, height), objects) in enumerate(annotated, 1):
        name = str(image.relative_to(root) if image.is_relative_to(root) else image.absolute())
        if name.encode(errors='replace').decode() != name:
            raise UserError(f'The image {printable(name)} has a name that is not UTF-8: rename it.')
        images.append(dict(id=number, file_name=name, width=width, height=height))
        for one in objects:
            annotations.append(dict(dict(iscrowd=0), **one, id=len(annotations) + 1, image_id=number))
    categories = [dict(id=label, name=name) for label, name in enumerate(classes)]
    return dict(images=images, annotations=annotations, categories=categories)
