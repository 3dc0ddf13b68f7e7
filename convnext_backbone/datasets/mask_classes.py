"""The classes of segmentation masks: from a file of names, from known colours, or from the values that occur."""

import colorsys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ..utils.errors import UserError, printable, shorten
from .class_files import Color, NamedClass, is_void
from .faults import Faults
from .known_classes import KnownClasses, known_by_colors, known_by_ids, known_by_name, known_by_palette
from .mask_content import MaskContent
from .masks import VOID

_MOST_CLASSES = 255  # labels of 8 bits, and void
_MOST_UNNAMED = 64  # colours without names; more are edges that were smoothed

Value = int | Color


class MaskFolder(NamedTuple):
    """What the names of masks say.

    Attributes:
        folder: Their folder.
        ending: What follows the stem in their names.
    """

    folder: str
    ending: str

    @property
    def zero_is_void(self) -> bool:
        """Whether it is ADE20K's folder, where 0 is void and 1 the first class."""
        return self.folder.endswith('annotations/training')


class MaskClasses(NamedTuple):
    """Classes of masks.

    Attributes:
        kind: Of the masks, in words.
        names: Of the classes, in the order of their labels.
        palette: Their colours in pictures.
        settings: Of :class:`.ImageMaskPairs`: ``values``, ``void`` and ``reduce_zero_label``.
        notes: What a person should know.
    """

    kind: str
    names: tuple[str, ...]
    palette: tuple[Color, ...]
    settings: dict
    notes: list[str]

    def are_void(self, content: MaskContent) -> bool:
        """Whether all pixels of some masks are void, as in the test set of a challenge."""
        void = [VOID, *self.settings.get('void', [0] * self.settings['reduce_zero_label'])]
        found = content.colors if self.kind == 'colours' else content.ids
        return {*found} <= {tuple(value) if isinstance(value, list) else value for value in void}


class _Entry(NamedTuple):
    name: str
    value: Value  # in the masks
    color: Color | None  # in pictures
    is_void: bool = False


def find_mask_classes(
    content: MaskContent, named: Sequence[NamedClass], file: Path, folder: MaskFolder, faults: Faults
) -> MaskClasses:
    """Find the classes of masks: those of a file, of a public data set with such masks, or a number for each value.

    Args:
        content: What the masks hold.
        named: What a file says of the classes; empty without one.
        file: That file, or the place for one.
        folder: Of the masks.
        faults: Gets a value that the file does not name.

    Raises:
        UserError: The masks hold nothing but void; the text names a mask.
    """
    in_colors = _hold_colors(content, named)
    found: dict[Any, str] = {**content.colors} if in_colors else {**content.ids}
    known = None if named else _find_known(content, folder, in_colors)
    if known:
        entries = _list_known(known)
        notes = [f'the classes are those of {known.source}, which has such masks']
    elif named:
        entries, notes = _list_named(found, named, file, folder, faults)
    else:
        entries = _list_values(found, content, folder)
        notes = [f'no file names the classes: write them to {file}, a line for each in this order']
    white = _like(found, VOID)
    if in_colors and _grey_levels(found) and not known and not any(one.color for one in named):  # ids in three channels
        entries += [_Entry('void', white, None, True)] * (white not in [entry.value for entry in entries])
    classes = [entry for entry in entries if not entry.is_void]
    if not 0 < len(classes) < _MOST_CLASSES or found.keys() <= {entry.value for entry in entries if entry.is_void}:
        some = next(iter(found.values()), folder.folder)
        raise UserError(
            f'The masks, such as {printable(some)}, hold {len(classes)} classes, and no pixel of them: masks need 1 to '
            f'{_MOST_CLASSES - 1} classes, each with a value of its own.'
        )
    kind = 'colours' if in_colors else 'palette PNGs' if 'P' in content.modes else 'class ids'
    notes += _describe(classes, found, content)
    palette = _palette(classes, content)
    void = [entry.value for entry in entries if entry.is_void]
    settings = _settings(classes, void, any(is_void(one.name) for one in named))
    return MaskClasses(kind, tuple(entry.name for entry in classes), palette, settings, notes)


def _hold_colors(content: MaskContent, named: Sequence[NamedClass]) -> bool:
    """Whether the colours of masks tell the classes: there are no ids, or the ids of the colours differ."""
    colors = {one.color for one in named if one.color}
    fitting = {*content.colors} - {(0, 0, 0)}
    differ = None in content.palette.values()
    return not content.modes.isdisjoint({'RGB', 'RGBA'}) or differ or (bool(fitting) and fitting <= colors)


def _find_known(content: MaskContent, folder: MaskFolder, in_colors: bool) -> KnownClasses | None:
    if known := known_by_name(folder.ending):
        return known
    if in_colors:
        return known_by_colors(content.colors)
    ids = sorted({*content.ids} - {VOID})
    return known_by_palette([content.palette.get(i) for i in ids]) or known_by_ids(ids, folder.folder)


def _list_known(known: KnownClasses) -> list[_Entry]:
    values = known.values or range(len(known.names))
    rows = zip(known.names, values, known.palette, strict=True)
    return [*(_Entry(*row) for row in rows), *(_Entry('void', value, None, True) for value in known.void)]


def _list_named(
    found: Mapping[Value, str], named: Sequence[NamedClass], file: Path, folder: MaskFolder, faults: Faults
) -> tuple[list[_Entry], list[str]]:
    """The classes of a file, with a background before them where the masks have one value more, 0."""
    in_colors = any(isinstance(value, tuple) for value in found)
    zero: Value = (0, 0, 0) if in_colors else 0
    values: list[Value]
    by_color = in_colors and all(one.color for one in named)
    if by_color:
        values = [one.color for one in named if one.color]
    else:
        values = [_like(found, value) for value in _number_classes(found, named, folder, file)]
    entries = [
        _Entry(one.name, value, one.color, is_void(one.name) or (value == VOID and one.name.lower() == 'background'))
        for one, value in zip(named, values, strict=True)
    ]
    notes = [f'the classes are those of {file.name}']
    left = {*found} - {*values} - (set() if by_color else {_like(found, VOID)})
    if strange := left - {zero}:
        value = min(strange, key=str)
        error = UserError(
            f'The mask {printable(found[value])} has the {"colour" if in_colors else "id"} {value}, which no class of '
            f'{printable(file)} has ({shorten([one.name for one in named])}): add it there, or correct the mask.'
        )
        faults.put_off(error)
    if zero in left and folder.zero_is_void:
        entries.append(_Entry('void', zero, None, True))
    elif zero in left:
        entries.insert(0, _Entry('background', zero, (0, 0, 0)))
        notes.append(
            f'{zero} is no class of {file.name} and became the class background: if such pixels have no class, name it '
            f'void there'
        )
    return entries, notes


def _number_classes(
    found: Mapping[Value, str], named: Sequence[NamedClass], folder: MaskFolder, file: Path
) -> list[int]:
    """The ids of classes of which a file tells the order: from 0, from 1, or levels of grey."""
    levels = _grey_levels(found)
    if levels is None:
        value = max(found, key=lambda one: (len({*one}), str(one)) if isinstance(one, tuple) else (0, str(one)))
        raise UserError(
            f'The mask {printable(found[value])} has the colour {value}, and {printable(file)} names no colours: '
            f'write lines such as "{printable(named[0].name)} 128 64 0" there.'
        )
    ids = [one.value for one in named if one.value is not None]
    if ids:
        return ids
    number = len(named)
    if _are_spread(levels) and len(levels) - number in (0, 1):  # as 0 and 255
        return levels[-number:]
    first = number in levels
    return [*range(first, number + first)]


def _list_values(found: Mapping[Value, str], content: MaskContent, folder: MaskFolder) -> list[_Entry]:
    """A class for each value; two values are background and object."""
    levels = _grey_levels(found)
    values: Sequence[Value]
    if levels is None:
        values = sorted(found, key=lambda color: (color != (0, 0, 0), color))
        if len(values) > _MOST_UNNAMED:
            raise UserError(
                f'The masks, such as {printable(found[values[-1]])}, hold {len(values)} colours, and no file names '
                f'them: list the classes, as in "road 128 64 128"; edges must not be smoothed.'
            )
    elif _are_spread(levels):
        values = levels
    else:
        ids = [level for level in levels if level != VOID]
        values = ids if not ids or ids[-1] >= 2 * len(ids) else range(folder.zero_is_void, ids[-1] + 1)
    names = [f'class_{i}' for i in range(len(values))] if len(values) != 2 else ['background', 'object']
    void = [_Entry('void', 0, None, True)] if folder.zero_is_void and 0 not in values else []
    colors = [value if isinstance(value, tuple) else None for value in values]
    wrapped = [_like(found, value) for value in values]
    return [*map(_Entry, names, wrapped, colors), *void]


def _grey_levels(found: Iterable[Value]) -> list[int] | None:
    """Ids, or the levels of colours that are all grey; None for other colours."""
    if any(isinstance(value, tuple) and len({*value}) > 1 for value in found):
        return None
    return sorted(value[0] if isinstance(value, tuple) else value for value in found)


def _are_spread(levels: Sequence[int]) -> bool:
    """Whether levels of grey are spread evenly from black to white, as in masks that were made to be looked at."""
    last = len(levels) - 1
    return last > 0 and all(abs(level - VOID * i / last) <= 1 for i, level in enumerate(levels)) and levels[-1] == VOID


def _like(found: Iterable[Value], value: Value) -> Value:
    """A level as a colour, where the masks have colours."""
    in_colors = any(isinstance(one, tuple) for one in found)
    return (value, value, value) if in_colors and isinstance(value, int) else value


def _settings(classes: Sequence[_Entry], void: Sequence[Value], void_is_named: bool) -> dict:
    values, numbers = [entry.value for entry in classes], [*range(len(classes))]
    if {*void} <= {VOID} and values == numbers:
        return dict(reduce_zero_label=False)
    if {*void} <= {0, VOID} and 0 in void and values == [number + 1 for number in numbers]:
        return dict(reduce_zero_label=True, **(dict(void=[0]) if void_is_named else {}))
    plain = [[[*value] if isinstance(value, tuple) else value for value in part] for part in (values, void)]
    return dict(reduce_zero_label=False, values=plain[0], void=plain[1])


def _describe(classes: Sequence[_Entry], found: Mapping[Value, str], content: MaskContent) -> list[str]:
    unseen = [entry.name for entry in classes if entry.value not in found]
    where = (
        f'the {content.masks} masks'
        if content.sampled == content.masks
        else (f'{content.sampled} of {content.masks} masks, spread evenly')
    )
    return [f'{where} have no pixel of {shorten(unseen)}'] if unseen else []


def _palette(classes: Sequence[_Entry], content: MaskContent) -> tuple[Color, ...]:
    """The colours of classes in pictures: of the file or the masks, else hues that differ, by the golden ratio."""
    stored: Mapping = content.palette
    if all(color is None or len({*color}) == 1 for color in stored.values()):  # grey says nothing
        stored = {}
    colors = []
    for i, entry in enumerate(classes):
        hue = colorsys.hsv_to_rgb(0.618034 * i % 1, 0.6 + 0.4 * (i % 3 == 0), 0.95 - 0.3 * (i % 2))
        red, green, blue = (round(255 * part) for part in hue)
        colors.append(entry.color or stored.get(entry.value) or (red, green, blue))
    return tuple(colors)
