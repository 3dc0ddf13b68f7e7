"""COCO annotation files as msgspec types: the keys that mmdet reads, strictly typed."""

import codecs
import functools
import json
import mmap
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Raw, Struct

from ..utils.errors import printable

_Id = int | float | str  # pandas writes 1.0, which pycocotools takes for 1
_Flag = bool | float | None  # as text '0' would be true
_Name = Annotated[str, Meta(min_length=1)]
_Positive = Annotated[int, Meta(gt=0)]
_Number = Annotated[float, Meta(gt=-(2**63), lt=2**63)]  # finite, and in the range of torch's integers
_Coordinate = Annotated[float, Meta(gt=-1e6, lt=1e6)]  # pycocotools visits each pixel along a polygon's edges
_EXPECTED = 'a COCO annotation file is a json object with the lists images, annotations and categories'


class CocoProblem(ValueError):
    """What is wrong with a file, as the predicate of a sentence about it.

    Attributes:
        kind: Of problem, in a few words.
        number: How many entries have it.
        images: The file names of their images, as far as they are known.
    """

    def __init__(self, text: str, kind: str = 'invalid entries', number: int = 1, images: Iterable[str] = ()) -> None:
        super().__init__(text)
        self.kind, self.number, self.images = kind, number, images


def refuse(problem: CocoProblem) -> None:
    """Raise a problem, as a run does with the first that it meets."""
    raise problem


class Image(Struct):
    """An entry of ``images``."""

    id: _Id
    file_name: _Name
    height: _Positive
    width: _Positive


class RLE(Struct):
    """A mask, run-length encoded."""

    size: list[int]
    counts: list[Annotated[int, Meta(ge=0)]] | str


class Annotation(Struct):
    """An entry of ``annotations``."""

    id: _Id
    image_id: _Id
    category_id: _Id
    bbox: tuple[_Number, _Number, _Number, _Number]
    area: _Number
    iscrowd: _Flag = None
    ignore: _Flag = None
    segmentation: list[list[_Coordinate]] | RLE | None = None


class Category(Struct):
    """An entry of ``categories``."""

    id: _Id
    name: _Name


class CocoFile(Struct):
    """A file, whose entries stay the bytes that they are until they are looked at, one by one."""

    images: Annotated[list[Raw], Meta(min_length=1)]
    categories: Annotated[list[Raw], Meta(min_length=1)]
    annotations: list[Raw] = []  # the test data of challenges has none

    def entries(self, kind: str, refuse: Callable[[CocoProblem], None] = refuse) -> Iterator[Any]:
        """Iterate over the entries of ``images``, ``annotations`` or ``categories``.

        Args:
            kind: One of these.
            refuse: Is given an invalid entry, or one whose id was there before; if it returns, that is left out.
        """
        return (entry for _, entry in self.numbered(kind, refuse))

    def numbered(self, kind: str, refuse: Callable[[CocoProblem], None]) -> Iterator[tuple[int, Any]]:
        """Iterate over places and entries as :meth:`entries` does."""
        decode = msgspec.json.Decoder(_ENTRIES[kind]).decode
        seen = set()
        for number, raw in enumerate(getattr(self, kind)):
            try:
                entry = decode(raw)
            except msgspec.ValidationError as error:
                refuse(CocoProblem(_invalid(error, raw, f'{kind}[{number}]')))
                continue
            if entry.id in seen:
                name = printable(repr(entry.id))
                refuse(CocoProblem(f'has several {kind} with id={name}', 'ids that are there twice'))
                continue
            seen.add(entry.id)
            yield number, entry


_ENTRIES = dict(images=Image, annotations=Annotation, categories=Category)


def read_coco(path: Path, kind: type[CocoFile] = CocoFile) -> CocoFile:
    """Map a file into memory, so that it takes none of the process, and find its entries.

    Args:
        path: The file.
        kind: What it must have.

    Raises:
        OSError: It cannot be read.
        CocoProblem: It is not UTF-8, not json, or not in COCO's format.
    """
    with path.open('rb') as file:
        try:
            for _ in codecs.iterdecode(iter(functools.partial(file.read, 2**20), b''), 'utf-8'):
                pass
            content = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
        except UnicodeDecodeError as error:
            raise CocoProblem(f'is not UTF-8 text ({error.reason}): save it in this encoding') from error
        except ValueError as error:
            raise CocoProblem(f'is empty: {_EXPECTED}; point elsewhere with --data-root') from error
    if content[:3] == codecs.BOM_UTF8:  # as Windows writes it
        content = content[3:]
    try:
        return _find_entries(content, kind)
    except msgspec.DecodeError:  # also of NaN and the like, which Python, and so pycocotools, takes for json
        try:
            plain = msgspec.json.encode(json.loads(str(content, 'utf-8'), parse_constant=str))
        except (ValueError, RecursionError) as error:
            raise CocoProblem(f'is not json ({error}): {_EXPECTED}; point elsewhere with --data-root') from error
        return _find_entries(plain, kind)


def _find_entries(content: memoryview | bytes, kind: type[CocoFile]) -> CocoFile:
    try:
        return msgspec.json.decode(content, type=kind)
    except msgspec.ValidationError as error:
        if ' - at ' not in str(error) and 'field' not in str(error):  # it is no object at all
            raise CocoProblem(f'is not COCO json: {_EXPECTED}; point elsewhere with --data-root') from error
        raise CocoProblem(f'{_invalid(error, content, "")}: {_EXPECTED}') from error


def _invalid(error: msgspec.ValidationError, content: Any, place: str) -> str:
    """Describe the first invalid value in an object, which is at a place of the file."""
    what, _, path = str(error).partition(' - at `$')
    path = path.rstrip('`')
    missing = re.fullmatch('Object missing required field `(.+)`', what)
    if missing:
        return f'lacks {f"{place}{path}.{missing[1]}".lstrip(".")}'
    value = msgspec.json.decode(content)
    for key, number in re.findall(r'\.(\w+)|\[(\d+)\]', path):
        value = value[key] if key else value[int(number)]
    return f'has {printable(repr(value))} in {f"{place}{path}".lstrip(".")} ({what.replace("`", "").lower()})'


def read_utf8() -> None:
    """Let pycocotools, and so mmdet, read annotation files as UTF-8 with or without a byte order mark.

    It opens them with the encoding of the locale.
    """
    import pycocotools.coco

    pycocotools.coco.open = functools.partial(open, encoding='utf-8-sig')
