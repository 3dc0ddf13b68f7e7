"""Labelled images by a list: the files that runs read, and tables of image names and labels that people have."""

import csv
import io
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from ..utils.errors import UserError, printable, shorten
from ..utils.files import write_atomically
from .faults import NO_LABEL, Faults
from .folders import name_split

_LABELS = re.compile(r'label(s|_?name)?|class(es|_?name|_?id)?|categor(y|ies)|target|species|breed|y', re.IGNORECASE)
_SAMPLE = 50  # rows by which columns are told apart


class ListedImages:
    """Labelled images of a list, as timm's readers give them.

    Args:
        path: The list: a table of two columns, image and class, without titles, as :func:`write_list` writes it.
        folder: That image names are relative to.
        class_map: The label of each class; by default its place among the sorted classes of the list.
    """

    def __init__(self, path: Path, folder: Path, class_map: Mapping[str, int] | None = None) -> None:
        rows = read_table(path)
        if wrong := [row for row in rows if len(row) != 2]:
            raise UserError(f'{printable(path)} has the row {printable(wrong[0])}: it takes image and class.')
        self.class_to_idx = dict(class_map or {name: i for i, name in enumerate(sort_classes(row[1] for row in rows))})
        if strange := sorted({label for _, label in rows} - {*self.class_to_idx}):
            raise UserError(f'{printable(path)} has classes that the class_map lacks: {shorten(strange)}.')
        self.samples = [(folder / name, self.class_to_idx[label]) for name, label in rows]
        self._folder = folder

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> tuple[BinaryIO, int]:
        path, label = self.samples[index]
        return path.open('rb'), label

    def filename(self, index: int) -> str:
        """The name of an image, relative to the folder."""
        return self.samples[index][0].relative_to(self._folder).as_posix()


def sort_classes(names: Iterable[str]) -> list[str]:
    """Different class names in timm's order: numbers in them count as such."""
    from timm.utils.misc import natural_key

    return sorted({*names}, key=natural_key)


def write_list(rows: Iterable[tuple[str, str]], path: Path) -> None:
    """Write image names and classes for :class:`ListedImages`."""
    text = io.StringIO()
    csv.writer(text, lineterminator='\n').writerows(rows)
    write_atomically(text.getvalue().encode(errors='surrogateescape'), path)


def read_table(path: Path) -> list[list[str]]:
    """Read the rows of a table, separated by commas, semicolons or tabs, without empty ones.

    Raises:
        UserError: It cannot be read.
    """
    try:
        text = path.read_text(encoding='utf-8-sig', errors='surrogateescape')
        delimiter = Counter(re.findall(r'[,;\t]', text[:4096])).most_common(1)
        reader = csv.reader(io.StringIO(text, newline=''), delimiter=delimiter[0][0] if delimiter else ',')
        return [[cell.strip() for cell in row] for row in reader if any(row)]
    except (OSError, csv.Error) as error:
        raise UserError(f'The list {printable(path)} cannot be read ({error}): write it as CSV.') from error


class ImageNames:
    """The images of a folder, found by what tables call them: a part of the path, with or without the file type."""

    def __init__(self, images: Iterable[str]) -> None:
        self._by_name: defaultdict[str, list[PurePosixPath]] = defaultdict(list)
        for image in map(PurePosixPath, images):
            for name in {image.name, image.stem}:
                self._by_name[name].append(image)

    def find(self, text: str, split: str | None) -> str | None:
        """Return the path of an image, None if there is none; of several that of the split, else the first."""
        wanted = PurePosixPath(text.replace('\\', '/'))
        found = self._by_name.get(wanted.name, [])
        for skipped in range(len(wanted.parts)):  # folders of another machine
            tail = wanted.parts[skipped:]
            fitting = [one for one in found if one.parts[-len(tail) :][:-1] == tail[:-1]]
            if fitting:
                return str(next((one for one in fitting if name_split(one) == split), fitting[0]))
        return None


def read_labels(
    path: Path, images: ImageNames, split: str | None, faults: Faults
) -> list[tuple[str, str, str | None]] | None:
    """Read a table of images and labels; columns are known by their content, and labels by their title, too.

    Args:
        path: The table, with titles or without.
        images: Those that there are.
        split: Of the table.
        faults: Gets images that are missing, or have no or two classes.

    Returns:
        Image, class, and split of each row, where the table has a column of splits; None if it is no such table.

    Raises:
        UserError: The column of the classes is ambiguous.
    """
    rows = read_table(path)
    width = max(map(len, rows), default=0)
    rows = [row for row in rows if len(row) == width]
    hits = [sum(images.find(row[i], split) is not None for row in rows[:_SAMPLE]) for i in range(width)]
    if width < 2 or max(hits) < max(1, min(len(rows), _SAMPLE) // 2):
        return None
    column = hits.index(max(hits))
    titled = images.find(rows[0][column], split) is None
    titles, rows = (rows[0], rows[1:]) if titled else ([''] * width, rows)
    others = [i for i in range(width) if i != column]
    splits = next((i for i in others if all(name_split(PurePosixPath(row[i])) for row in rows)), None)
    labels = _find_labels(path, rows, titles, [i for i in others if i != splits])
    found = [images.find(row[column], split) for row in rows]
    if lost := [row[column] for row, image in zip(rows, found, strict=True) if image is None]:
        text = (
            f'{len(lost)} of {len(rows)} images of {printable(path)} are not there: {shorten(lost)}; put them '
            f'beside it, or take them out of the list.'
        )
        faults.add('missing images', split or '', text, lost, len(rows), len(lost))
    if empty := [row[column] for row, label in zip(rows, labels, strict=True) if not label]:
        text = (
            f'{len(empty)} of {len(rows)} images of {printable(path)} have no label: {shorten(empty)}; write it, or '
            f'take them out of the list.'
        )
        faults.add(NO_LABEL, split or '', text, empty, len(rows), len(empty))
    classes: dict[str, str] = {}
    named: dict[str, str | None] = {}
    for image, label, row in zip(found, labels, rows, strict=True):
        if image is None or not label:
            continue
        if classes.setdefault(image, label) != label:
            text = (
                f'{printable(path)} has {printable(image)} twice, as {printable(classes[image])} and as '
                f'{printable(label)}: an image has one class.'
            )
            faults.add('images with two classes', split or '', text, [image], len(rows))
        named[image] = name_split(PurePosixPath(row[splits])) if splits is not None else None
    return [(image, label, named[image]) for image, label in classes.items()]


def _find_labels(path: Path, rows: Sequence[Sequence[str]], titles: Sequence[str], columns: Sequence[int]) -> list[str]:
    """The class of each row: of the column with such a title, of the only one, or of columns of 0 and 1."""
    named = [i for i in columns if _LABELS.fullmatch(titles[i].strip().replace(' ', '_'))]
    if len(named) != 1 and len(columns) > 1 and all(_as_number(row[i]) in ('0', '1') for row in rows for i in columns):
        marked = [[titles[i] for i in columns if _as_number(row[i]) == '1'] for row in rows]
        if wrong := next((row for row, marks in zip(rows, marked, strict=True) if len(marks) != 1), None):
            raise UserError(
                f'{printable(path)} marks no or several classes in the row {printable(wrong)}: a classifier '
                f'here learns one class an image.'
            )
        return [marks[0] for marks in marked]
    chosen = named or columns
    values = {i: [_as_number(row[i]) for row in rows] for i in chosen}
    if len({*map(len, map(set, values.values())), len({*zip(*values.values(), strict=True)})}) > 1:  # they differ
        chosen = [i for i in named if titles[i].strip().lower() == 'label'] or chosen
    elif named:  # ids and names of the same classes
        chosen = [min(named, key=lambda i: all(map(str.isdigit, values[i])))]
    if len(chosen) != 1:
        raise UserError(
            f'{printable(path)} has the columns {shorten([titles[i] or str(i + 1) for i in chosen])}, any of '
            f'which may hold the classes: give one of them the title label.'
        )
    return values[chosen[0]]


def _as_number(text: str) -> str:
    """A whole number that pandas wrote as 1.0 as 1; other texts unchanged."""
    return re.sub(r'(\d+)\.0+', r'\1', text) if re.fullmatch(r'\d+\.0+', text) else text
