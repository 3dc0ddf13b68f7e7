"""What the masks of a user's data hold: their kind, and the values that occur in them."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from ..utils.errors import UserError, printable
from ..utils.image_io import FORMATS
from .class_files import Color
from .faults import Faults
from .masks import read_ids

_MOST_COLORS = 1000  # of a mask; more are smoothed edges, or a photograph
_SAMPLE, _MOST = 64, 20_000  # masks that are looked at: where a file names the classes, and where none does


@dataclass
class MaskContent:
    """What a number of masks hold.

    Attributes:
        masks: The number of masks.
        sampled: How many of them were looked at.
        ids: The first mask with each id; empty if any mask holds colours.
        colors: The first mask with each colour; of grey masks the grey values are colours, too.
        palette: The colour of each id by the palettes of the masks, None for one that differs between masks.
        modes: Pillow's modes of the masks.
    """

    masks: int
    sampled: int
    ids: dict[int, str] = field(default_factory=dict)
    colors: dict[Color, str] = field(default_factory=dict)
    palette: dict[int, Color | None] = field(default_factory=dict)
    modes: set[str] = field(default_factory=set)


def read_content(paths: Sequence[str], named: bool, faults: Faults) -> MaskContent:
    """Look at masks, spread evenly over all.

    Args:
        paths: All masks.
        named: Whether a file names the classes: then a sample tells the kind, else all values matter.
        faults: Gets a mask that cannot be read, is a JPEG, or is no mask.

    Raises:
        UserError: None of them can be used.
    """
    number = min(len(paths), _SAMPLE if named else _MOST)
    content = MaskContent(len(paths), number)
    refused = None
    for place in np.linspace(0, len(paths) - 1, number).round().astype(int):
        try:
            _add(content, paths[place])
        except UserError as error:
            refused = refused or error
            faults.put_off(error)
    if refused and not (content.ids or content.colors):
        raise refused
    return content


def _add(content: MaskContent, path: str) -> None:
    from PIL import Image

    try:
        with Image.open(path, formats=FORMATS) as mask:
            mode, kind = mask.mode, mask.format
            simple = mode in ('1', 'L', 'P', 'RGB', 'RGBA')
            counts = mask.convert('RGB' if mode == 'RGBA' else mode).getcolors(_MOST_COLORS) if simple else []
            palette = np.array(mask.getpalette('RGB') or []).reshape(-1, 3).tolist() if mode == 'P' else []
    except Exception as error:  # decoders raise anything
        raise UserError(
            f'The mask {printable(path)} cannot be read ({type(error).__name__}: {printable(error)}): write it '
            f'again, or leave its image out.'
        ) from error
    if kind in ('JPEG', 'MPO') or counts is None:
        problem = 'has more than 1000 colours' if counts is None else 'is a JPEG, whose compression changes values'
        raise UserError(
            f'The mask {printable(path)} {problem}: write masks as PNG, with one value for each class and edges that '
            f'are not smoothed.'
        )
    content.modes.add(mode)
    if mode in ('RGB', 'RGBA'):
        for _, color in counts:
            content.colors.setdefault(color, path)
        return
    values = [int(bool(value)) if mode == '1' else value for _, value in counts] or np.unique(
        read_ids(path, path)
    ).tolist()
    for value in values:
        content.ids.setdefault(value, path)
        color = tuple(palette[value]) if value < len(palette) else (255 * value if mode == '1' else value,) * 3
        content.colors.setdefault(color, path)
        if palette:
            content.palette[value] = color if content.palette.get(value, color) == color else None
