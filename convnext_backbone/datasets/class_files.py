"""Files that name the classes of segmentation masks, and their colours or ids: of CVAT, CamVid, Roboflow, or a list."""

import csv
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from ..utils.errors import UserError, printable
from .folders import read_text

Color = tuple[int, int, int]  # of 0 to 255: red, green, blue

_FILE = re.compile(
    r'_?(class(es|_names|_dict|_list)?|labels?|label_?(map|names|colou?rs)|colou?r_?map|palette|objectinfo150)'
    r'\.(txt|csv)',
    re.IGNORECASE,
)
_VOID = re.compile(r'void|unlabell?ed|ignored?|ignore_?(region|label)|un(known|annotated|defined)|do?nt?_?care')
_RGB = r'(\d+)[\s,;]+(\d+)[\s,;]+(\d+)'
_COLOR_LAST = re.compile(rf'(?P<name>.*[^\s,;:])[\s,;:]+{_RGB}\s*(:.*)?')  # CVAT: "road:128,64,128:parts:actions"
_COLOR_FIRST = re.compile(rf'{_RGB}[\s,;:]+(?P<name>\S.*)')
_VALUE_FIRST = re.compile(r'(\d+)[\s,;:]+(?P<name>\S.*)')


class NamedClass(NamedTuple):
    """A class as a file names it.

    Attributes:
        name: Its name.
        color: Its colour, if the file has colours.
        value: Its id in the masks, if the file has ids.
    """

    name: str
    color: Color | None = None
    value: int | None = None


def find_class_files(folders: Iterable[Path]) -> list[Path]:
    """Find files that by their names list classes, directly in folders."""
    files = [file for folder in dict.fromkeys(folders) for file in sorted(folder.iterdir()) if file.is_file()]
    return [file for file in files if _FILE.fullmatch(file.name)]


def is_void(name: str) -> bool:
    """Whether a class of this name holds the pixels that have no class."""
    return bool(_VOID.fullmatch(re.sub(r"[\s\-'.]+", '_', name.strip(' _-<>()[]').lower())))


def read_class_file(path: Path) -> list[NamedClass]:
    """Read names of classes, with colours or ids where the file has them.

    Args:
        path: A table with a line of titles (``name,r,g,b`` or ``Pixel Value, Class``), or a line for each class: its
            name, before or after it the colour as three numbers, or before it the id. Lines from ``#`` on are comments.

    Raises:
        UserError: It is no text, is empty, or a class, a colour or an id is there twice; the text names the line.
    """
    lines = [line for line in map(str.strip, read_text(path).splitlines()) if line and line[0] != '#']
    lines = lines[lines[:2] == ['__ignore__', '_background_'] :]  # labelme counts them from -1
    try:
        classes = _parse_table(lines) or _parse_lines(lines)
    except ValueError as error:
        raise UserError(f'{printable(path)} is no list of classes: {printable(error)}.') from error
    for key in NamedClass._fields:
        values = [getattr(one, key) for one in classes if getattr(one, key) is not None]
        if twice := next((value for i, value in enumerate(values) if value in values[:i]), None):
            raise UserError(
                f'{printable(path)} has the {key} {printable(twice)} twice: each class has one line, with '
                f'a {key} of its own.'
            )
    return classes


def _parse_table(lines: Sequence[str]) -> list[NamedClass]:
    """Parse a table whose first line has titles; none if it has none."""
    if not lines:
        raise ValueError('it is empty; write a name a line')
    delimiter = next((mark for mark in '\t;,' if mark in lines[0]), ',')
    rows = list(csv.reader(lines, delimiter=delimiter, skipinitialspace=True))
    titles = [re.sub(r'[\s_]+', ' ', title.strip().lower()) for title in rows[0]]

    def column(*names: str) -> int | None:
        return next((i for i, title in enumerate(titles) if title in names), None)

    name = column('name', 'names', 'class', 'class name', 'label', 'label name')
    rgb = [column(*words) for words in (('r', 'red'), ('g', 'green'), ('b', 'blue'))]
    value = column('pixel value', 'id', 'value', 'idx', 'index', 'label id', 'class id', 'pixel')
    if name is None or len(titles) < 2 or (value is None and None in rgb):
        return []
    classes = []
    for row in rows[1:]:
        try:
            color = None if None in rgb else _color([row[i] for i in rgb if i is not None])
            classes.append(NamedClass(row[name].strip(), color, None if value is None else int(row[value])))
        except (ValueError, IndexError) as error:
            raise ValueError(f'its line {delimiter.join(row)!r} does not fit its titles') from error
    return classes


def _parse_lines(lines: Sequence[str]) -> list[NamedClass]:
    for pattern in (_COLOR_LAST, _COLOR_FIRST):
        found = [pattern.fullmatch(line) for line in lines]
        if sum(map(bool, found)) > len(lines) / 2:
            names, colors = [], []
            for line, match in zip(lines, found, strict=True):
                if match is None:
                    raise ValueError(f'its line {line!r} has no colour such as 128 64 0')
                names.append(match['name'])
                colors.append(_color(match.groups()[1:4] if pattern is _COLOR_LAST else match.groups()[:3]))
            return [
                NamedClass(name, color, value)
                for (name, value), color in zip(_split_values(names), colors, strict=True)
            ]
    return [NamedClass(name, None, value) for name, value in _split_values(lines)]


def _split_values(lines: Sequence[str]) -> list[tuple[str, int | None]]:
    """Take the ids before the names, where all have one, and no two the same."""
    found = [_VALUE_FIRST.fullmatch(line) for line in lines]
    values = {int(match[1]) for match in found if match}
    if len(values) == len(lines):
        return [(match['name'], int(match[1])) for match in found if match]
    return [(line, None) for line in lines]


def _color(texts: Sequence[str]) -> Color:
    red, green, blue = map(int, texts)
    if max(red, green, blue) > 255:
        raise ValueError(f'the colour {red} {green} {blue} is none of 0 to 255')
    return red, green, blue
