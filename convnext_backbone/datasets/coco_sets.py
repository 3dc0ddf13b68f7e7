"""COCO annotation files of any exporter: what they hold, where their images lie, and copies that mmdet can read."""

import mmap
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import msgspec
from msgspec import Raw, Struct

from ..utils.errors import UserError, printable, shorten
from ..utils.files import write_atomically
from .coco_format import CocoFile, CocoProblem, read_coco
from .faults import Faults
from .folders import IMAGE_FOLDERS, name_split, read_size

_TRIED = 20  # images of a file that are looked for in each folder
_NO_MASK = (b'null', b'[]', b'[[]]', b'{}', b'""')
_Id: TypeAlias = int | float | str | None
_KEYS = (b'"images"', b'"categories"', b'"file_name"')
_MANY = 50  # more json files in a folder are those of single images


class _Image(Struct):
    id: _Id
    file_name: str
    height: Any = None
    width: Any = None


class _Annotation(Struct):
    id: _Id = None
    image_id: _Id = None
    category_id: _Id = None
    area: Any = None
    iscrowd: Any = None
    segmentation: Raw = Raw(b'null')

    @property
    def is_complete(self) -> bool:
        """Whether it has what mmdet and pycocotools take: an id of 0 would be no match for the latter."""
        return bool(self.id) and self.area is not None and self.iscrowd is not None

    @property
    def has_mask(self) -> bool:
        """Whether it has one, whatever it may be."""
        mask = self.segmentation
        return len(mask) > 99 or b''.join(bytes(mask).split()) not in _NO_MASK


class CocoSet(NamedTuple):
    """A split of a user's data."""

    path: Path
    coco: CocoFile
    categories: list[dict]
    images: dict[Any, str]  # file names by id
    pairs: Counter  # annotations by ids of image and category
    numbers: Counter  # annotations by id of category
    masks: int  # annotations with one
    complete: bool  # it can be read as it is
    folder: Path  # of the images
    dropped: int  # leading folders of the file names that are not there

    @property
    def names(self) -> list[str]:
        """Names of the categories, in the order of the file."""
        return [category['name'] for category in self.categories]

    def locate(self, image: Any) -> str:
        """The path of the image with an id."""
        return os.path.normpath(self.folder / shorten_name(self.images[image], self.dropped))


def find_coco_files(folders: Mapping[Path, Sequence[str]]) -> list[Path]:
    """Find annotation files by their content: captions have no categories, files of other tools none of the keys."""
    found = []
    for folder, files in folders.items():
        names = [name for name in files if name.lower().endswith('.json')]
        found += [folder / name for name in names if len(names) <= _MANY and _has_keys(folder / name)]
    return found


def _has_keys(path: Path) -> bool:
    try:
        with path.open('rb') as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            return all(content.find(key) >= 0 for key in _KEYS)
    except (OSError, ValueError):  # it cannot be read, or is empty
        return False


def open_set(path: Path, split: str, root: Path, folders: Collection[Path]) -> CocoSet:
    """Read what an annotation file holds, and find its images.

    Args:
        path: The file.
        split: ``'train'``, ``'val'`` or ``'test'``.
        root: The folder of the data.
        folders: Those in which images may lie, itself included.

    Raises:
        UserError: The file cannot be read, is not in COCO's format, or its images are nowhere.
    """
    try:
        coco = read_coco(path)
        categories = [category for _, category in _decode(path, coco.categories, dict)]
        [*coco.entries('categories')]
    except OSError as error:
        raise UserError(f'The annotation file {path} cannot be read ({error.strerror}): name another.') from error
    except CocoProblem as error:
        raise UserError(f'The annotation file {path} {error}.') from error
    images = [image for _, image in _decode(path, coco.images, _Image)]
    doubles = [key for key, number in Counter(image.id for image in images).items() if number > 1]
    if doubles:
        raise UserError(f'The annotation file {path} has several images with id={printable(repr(doubles[0]))}.')
    pairs: Counter = Counter()
    masks, complete = 0, all(image.height and image.width for image in images)
    for _, annotation in _decode(path, coco.annotations, _Annotation):
        pairs[annotation.image_id, annotation.category_id] += 1
        masks += annotation.has_mask
        complete = complete and annotation.is_complete
    names = {image.id: image.file_name for image in images}
    try:
        folder, dropped = _find_folder(path, split, [*names.values()], root, folders)
    except UserError:
        spelled = _respell(names, folders)
        if spelled == names:
            raise
        folder, dropped = _find_folder(path, split, [*spelled.values()], root, folders)
        names, complete = spelled, False
    complete = complete and not any(shorten_name(name, dropped) != name for name in names.values())
    numbers: Counter = Counter()
    for (_, category), number in pairs.items():
        numbers[category] += number
    return CocoSet(path, coco, categories, names, pairs, numbers, masks, complete, folder, dropped)


def _decode(path: Path, entries: Sequence[Raw], kind: type) -> Iterator[tuple[Raw, Any]]:
    """Iterate over entries of a file as text and as what is looked at."""
    decoder: msgspec.json.Decoder = msgspec.json.Decoder(kind)
    for raw in entries:
        try:
            yield raw, decoder.decode(raw)
        except msgspec.DecodeError as error:
            text = printable(bytes(raw).decode())
            raise UserError(f'The annotation file {path} has an entry that is wrong ({error}): {text}.') from error


def split_name(file_name: str) -> list[str]:
    """The parts of a file name as tools write it: of Windows, of another machine, or an address of Label Studio."""
    return [part for part in re.split(r'[\\/]|\?d=', file_name) if part]


def _find_folder(path: Path, split: str, names: list[str], root: Path, folders: Collection[Path]) -> tuple[Path, int]:
    """The folder that file names are relative to, and how many of their leading parts are not there."""
    if all(map(os.path.isabs, names)) and any(map(os.path.isfile, names)):
        return root, 0
    tried = names[:: max(1, len(names) // _TRIED)][:_TRIED]

    def rank(folder: Path) -> int:
        splits = name_split(folder.relative_to(root)) if folder.is_relative_to(root) else None
        likely = (folder == path.parent, splits == split, folder == root, folder.name in IMAGE_FOLDERS)
        return likely.index(True) if True in likely else 4 + (splits is not None)

    ranked = sorted({*folders, path.parent}, key=lambda folder: (rank(folder), len(folder.parts), folder))
    for dropped in range(max(len(split_name(name)) for name in tried)):
        short = [shorten_name(name, dropped) for name in tried]
        hits = {folder: sum(os.path.isfile(folder / name) for name in short) for folder in ranked}
        fitting = [folder for folder in ranked if 2 * hits[folder] >= len(tried)]
        if not fitting:
            continue
        if len({shorten_name(name, dropped) for name in names}) < len(set(names)):
            break
        best = [folder for folder in fitting if rank(folder) == rank(fitting[0])]
        if len(best) > 1 and len(best[0].parts) == len(best[1].parts):
            raise UserError(
                f'The images of {path} may lie in {shorten([*map(str, best)])}, which hold files of the same names: '
                f'move the other folders out of {root}.'
            )
        return best[0], dropped
    raise UserError(
        f'The images of {path} are not in {root}: none of its folders holds {shorten(tried)}; put the images there, or '
        f'correct file_name.'
    )


def _respell(names: Mapping[Any, str], folders: Collection[Path]) -> dict[Any, str]:
    """File names in the letters of the files: Windows takes a.JPG for a.jpg, and macOS writes umlauts as two."""

    def fold(name: str) -> str:
        return unicodedata.normalize('NFC', name).casefold()

    found: dict[str, set[str]] = {}
    for folder in folders:
        for name in os.listdir(folder):
            found.setdefault(fold(name), set()).add(name)
    spelled = {}
    for key, name in names.items():
        last = split_name(name)[-1]
        files = found.get(fold(last), set())
        spelled[key] = name.removesuffix(last) + min(files) if len(files) == 1 else name
    return spelled


def shorten_name(name: str, dropped: int) -> str:
    """A file name without its leading folders; as it is where none is dropped and it has no backslash."""
    return name if not dropped and '\\' not in name else '/'.join(split_name(name)[dropped:])


def write_set(
    source: CocoSet, path: Path, order: Sequence[str], kept: Collection[Any], split: str, faults: Faults
) -> None:
    """Write a copy of an annotation file with what mmdet and pycocotools need.

    File names become those that are there, areas those of mask or box, sizes those of the images.

    Args:
        source: What is copied.
        path: The copy.
        order: Categories come in this order of names, others after them.
        kept: The ids of the images that are copied, with their annotations.
        split: That it is for.
        faults: Gets images whose size is not given and that cannot be read.

    Raises:
        WriteError: The disk is full.
    """
    # Entries stay the text that they are where nothing lacks, so that a large file takes no memory.
    images: list = [raw for raw, one in _decode(source.path, source.coco.images, _Image) if one.id in kept]
    if not source.complete:
        images = [_complete_image(image, source, split, faults) for _, image in _decode(source.path, images, dict)]
        images = [image for image in images if image['width']]
        kept = {image['id'] for image in images}

    def keeps(image: _Id) -> bool:  # those without an image are left to the check of the data
        return image in kept or (split == 'train' and image not in source.images)

    annotations: list = [
        raw for raw, one in _decode(source.path, source.coco.annotations, _Annotation) if keeps(one.image_id)
    ]
    if not source.complete:
        annotations = _complete_annotations([one for _, one in _decode(source.path, annotations, dict)])
    places = {name: place for place, name in enumerate(order)}
    categories = sorted(source.categories, key=lambda category: places.get(category['name'], len(places)))
    content = dict(images=images, annotations=annotations, categories=categories)
    write_atomically(msgspec.json.encode(content), path)


def _complete_image(image: dict, source: CocoSet, split: str, faults: Faults) -> dict:
    image['file_name'] = shorten_name(source.images[image['id']], source.dropped)
    if not (image.get('width') and image.get('height')):
        image['width'], image['height'] = read_size(source.folder / image['file_name'], split, faults)
    return image


def _complete_annotations(annotations: list[dict]) -> list[dict]:
    new_ids = not all(annotation.get('id') for annotation in annotations)
    for number, annotation in enumerate(annotations, 1):
        if new_ids:
            annotation['id'] = number
        if annotation.get('area') is None:
            annotation['area'] = find_area(annotation)
        annotation['iscrowd'] = annotation.get('iscrowd') or 0
    return annotations


def find_area(annotation: Mapping) -> float:
    """The area of an annotation in pixels: that of its polygons, else of its box."""
    polygons = annotation.get('segmentation')
    try:
        if polygons and isinstance(polygons, list):
            return sum(abs(_shoelace(polygon[::2], polygon[1::2])) for polygon in polygons)
        return annotation['bbox'][2] * annotation['bbox'][3]
    except (LookupError, TypeError, ValueError):  # of which the check of the file tells
        return 0


def _shoelace(xs: Sequence[float], ys: Sequence[float]) -> float:
    return sum(xs[i - 1] * ys[i] - xs[i] * ys[i - 1] for i in range(len(xs))) / 2
