"""What the values of the pixels of segmentation masks mean, where they are no labels: colours, or ids with gaps."""

import io
from collections.abc import Callable, Sequence

import numpy as np
from mmengine import fileio

from ..utils.errors import ArgumentError, UserError, printable
from ..utils.image_io import FORMATS
from .masks import VOID, read_ids

Value = int | tuple[int, int, int]

_WITH_COLORS = {'1', 'L', 'P', 'RGB', 'RGBA'}  # modes of Pillow


class MaskValues:
    """A table from the values in masks to labels.

    Args:
        classes: The value of each class: ids of 0 to 255, or colours (R, G, B).
        void: Values of pixels without a class; of ids also 255, unless it is that of a class.

    Raises:
        ArgumentError: The values are no such ids or colours, or one is there twice.
    """

    def __init__(self, classes: Sequence[Value | Sequence[int]], void: Sequence[Value | Sequence[int]] = ()) -> None:
        values = [*classes, *void]
        self.has_colors = not all(isinstance(value, int) for value in values)
        if not self.has_colors and VOID not in values:
            values.append(VOID)
        try:
            codes = encode(np.array(values, np.int64).reshape(len(values), -1)) if self.has_colors else np.array(values)
        except ValueError:
            codes = np.array([-1])
        if (
            codes.min() < 0
            or codes.max() >= (1 << 24 if self.has_colors else 256)
            or len({*codes.tolist()}) < len(values)
        ):
            raise ArgumentError(
                f'values={printable(classes)} and void={printable(void)} must be different ids of 0 to '
                f'255, or different colours [R, G, B], one for each class.'
            )
        labels = np.full(len(values), VOID, np.uint8)
        labels[: len(classes)] = np.arange(len(classes))
        order = np.argsort(codes)
        self._codes, self._labels = codes[order].astype(np.int32), labels[order]

    def read(self, path: str, image: str, backend_args: dict | None = None) -> np.ndarray:
        """Read the labels of a mask.

        Args:
            path: The file of the mask.
            image: That of its image, for errors.
            backend_args: Of ``mmengine.fileio``, for remote storage.

        Returns:
            (H, W), bytes; 255 is void.

        Raises:
            UserError: It cannot be read, or has a value that is none of the table; the text names the file, the value
                and its share.
        """
        read = _read_colors if self.has_colors else read_ids
        codes = read(path, image, backend_args)
        places = np.searchsorted(self._codes, codes).clip(max=len(self._codes) - 1)
        if (unknown := self._codes[places] != codes).any():
            code = int(np.bincount(codes[unknown]).argmax())
            value = f'colour {decode(code)}' if self.has_colors else f'id {code}'
            raise UserError(
                f'The mask {printable(path)} of the image {printable(image)} has the {value}, which no class has, and '
                f"{_percent(unknown.mean())} of its pixels are of such: name it with a class or as void in the data's "
                f'list of classes, or correct the mask; edges must not be smoothed.'
            )
        return self._labels[places]


def get_reader(values: MaskValues | None) -> Callable[..., np.ndarray]:
    """What reads the masks of a data set: a table of values, or :func:`.read_ids` without one."""
    return values.read if values else read_ids


def encode(colors: np.ndarray) -> np.ndarray:
    """Turn colours, (..., 3), into numbers, (...); what is no colour becomes -1."""
    if colors.shape[-1] != 3:
        raise ValueError(f'{colors.shape[-1]} numbers are no colour')
    wide = colors.astype(np.int32)
    codes = wide[..., 0] << 16 | wide[..., 1] << 8 | wide[..., 2]
    return codes if colors.dtype == np.uint8 else np.where(((wide >= 0) & (wide <= 255)).all(-1), codes, -1)


def decode(code: int) -> tuple[int, int, int]:
    """Turn a number of :func:`encode` into its colour."""
    return code >> 16, code >> 8 & 255, code & 255


def _read_colors(path: str, image: str, backend_args: dict | None) -> np.ndarray:
    from PIL import Image

    try:
        with Image.open(io.BytesIO(fileio.get(path, backend_args=backend_args)), formats=FORMATS) as mask:
            kind, mode = mask.format, mask.mode
            colors = np.asarray(mask.convert('RGB')) if mode in _WITH_COLORS else None
    except Exception as error:  # decoders raise anything
        raise UserError(
            f'The mask {printable(path)} of the image {printable(image)} cannot be read ({type(error).__name__}: '
            f'{printable(error)}): write it again or leave the image out.'
        ) from error
    if colors is None or kind in ('JPEG', 'MPO'):
        problem = f'has pixels of mode {mode}' if colors is None else 'is a JPEG, whose compression changes colours'
        raise UserError(f'The mask {printable(path)} {problem}: write masks in colours as RGB or palette PNG.')
    return encode(colors)


def _percent(share: float) -> str:
    return f'{100 * share:.2g} %' if share >= 1e-4 else 'less than 0.01 %'
