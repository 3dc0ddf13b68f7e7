"""Image decoding and encoding shared by all tasks: 8-bit RGB, EXIF orientation applied, truncated files raise."""

import contextlib
import importlib.util
import io
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np
from mmengine import fileio

from .errors import UserError, printable
from .files import write_atomically

if TYPE_CHECKING:
    from PIL.Image import Image

# The formats that OpenCV reads, too. Pillow goes by the content of a file, not by its name, and would hand PostScript
# to an interpreter.
FORMATS = ('JPEG', 'PNG', 'BMP', 'TIFF', 'WEBP', 'GIF', 'PPM', 'JPEG2000')
FORMATS += ('AVIF',) if importlib.util.find_spec('PIL.AvifImagePlugin') else ()  # from Pillow 11.3 on
IMAGE_SUFFIXES = {'.jpg', '.jpeg', '.png', '.bmp', '.tif', '.tiff', '.webp'}


def decode_image(file: str | Path | BinaryIO) -> 'Image':
    """Decode an image of any mode to 8-bit RGB, with its EXIF orientation applied.

    The upper 8 of 12 or 16 bits stay, where Pillow clips grey values to white; transparent pixels keep their colour, as
    in OpenCV and timm; CMYK and palettes become RGB; of an animation or several pages the first is taken.

    Args:
        file: Its path, or itself.

    Returns:
        In mode RGB.

    Raises:
        Exception: Of any type: it is no image of :data:`FORMATS`, it is truncated (OpenCV would fill the rest with
            grey), or its pixels are numbers of unknown range.
    """
    from PIL import Image, ImageOps

    with Image.open(file, formats=FORMATS) as image:
        deep = image.mode.startswith('I;16') or (image.mode, image.format) == ('I', 'PPM')
        if image.mode in ('I', 'F') and not deep:
            raise ValueError('its pixels are numbers of 32 bits, or with a sign, whose range is not known')
        bits, white_is_zero = _tiff_depth(image)
        image.load()
        with contextlib.suppress(Exception):  # of any type: unreadable EXIF data is ignored
            ImageOps.exif_transpose(image, in_place=True)
        if not deep:
            return image.convert('RGB')
        grey = (np.asarray(image) >> (bits - 8)).astype(np.uint8)
        return Image.fromarray(255 - grey if white_is_zero else grey).convert('RGB')


def _tiff_depth(image: 'Image') -> tuple[int, bool]:
    """The bits of a grey value, and whether 0 is white: Pillow applies the tags of TIFF only up to 8 bits."""
    tags = getattr(image, 'tag_v2', {})
    return tags.get(258, (16,))[0], tags.get(262) == 0


def read_image(path: str | Path, backend_args: dict | None = None) -> np.ndarray:
    """Read and decode an image by :func:`decode_image`.

    Args:
        path: Its file.
        backend_args: Of ``mmengine.fileio``, for remote storage.

    Returns:
        (H, W, 3), RGB.

    Raises:
        UserError: It is missing or cannot be decoded.
    """
    from PIL import UnidentifiedImageError

    try:
        return np.array(decode_image(io.BytesIO(fileio.get(path, backend_args=backend_args))))
    except FileNotFoundError as error:
        raise UserError(
            f'The image {printable(str(path))} is missing: put it there, correct data_root and data_prefix, or take '
            f'it out of the data.'
        ) from error
    except Exception as error:  # decoders raise anything
        unknown = f'none of {", ".join(FORMATS)}'
        reason = unknown if isinstance(error, UnidentifiedImageError) else printable(str(error))
        raise UserError(
            f'The image {printable(str(path))} cannot be decoded ({reason}): replace it or leave it out.'
        ) from error


def find_images(sources: Iterable[str]) -> list[Path]:
    """Image files by name, and those directly in the given folders.

    Raises:
        UserError: A source does not exist, or a folder holds no image.
    """
    images = []
    for source in map(Path, sources):
        if source.is_dir():
            found = sorted(path for path in source.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES)
            if not found:
                raise UserError(f'The folder {source} holds no image ({", ".join(sorted(IMAGE_SUFFIXES))}).')
            images += found
        elif source.is_file():
            images.append(source)
        else:
            raise UserError(f'The image {source} does not exist: name image files or folders of them.')
    return images


def swap_colours(image: np.ndarray) -> np.ndarray:
    """RGB to BGR, or BGR to RGB."""
    import cv2

    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def write_picture(image: np.ndarray, path: Path) -> None:
    """Write an RGB image, (H, W, 3), or single-channel one, (H, W), atomically."""
    import cv2

    stored = swap_colours(image) if image.ndim == 3 else image
    write_atomically(cv2.imencode(path.suffix, stored)[1].tobytes(), path)


def name_pictures(images: list[Path], out_dir: Path) -> list[Path]:
    """One output path per image; images of the same name in different folders get a number."""
    taken: set[str] = set()
    names = []
    for path in images:
        suffix = path.suffix.lower() if path.suffix.lower() in {'.jpg', '.jpeg', '.png'} else '.png'
        stem, number = path.stem, 2
        while stem + suffix in taken:
            stem, number = f'{path.stem}_{number}', number + 1
        taken.add(stem + suffix)
        names.append(out_dir / (stem + suffix))
    return names
