"""Image decoding and encoding shared by all tasks: 8-bit RGB, EXIF orientation applied, truncated files raise."""

import contextlib
import importlib.util
import io
import itertools
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
FORMATS: tuple[str, ...] = ('JPEG', 'PNG', 'BMP', 'TIFF', 'WEBP', 'GIF', 'PPM', 'JPEG2000')
FORMATS += ('AVIF',) if importlib.util.find_spec('PIL.AvifImagePlugin') else ()  # from Pillow 11.3 on
IMAGE_SUFFIXES = {'.jpg', '.jpeg', '.jpe', '.jfif', '.png', '.bmp', '.tif', '.tiff', '.webp', '.gif', '.jp2'}
IMAGE_SUFFIXES |= {'.ppm', '.pgm', '.pbm', '.pnm', *['.avif'] * ('AVIF' in FORMATS)}
_AS_STORED = dict(LA=2, RGBA=4, RGBX=4, CMYK=4)  # channels of modes that are not converted where they are asked for


def decode_image(file: str | Path | BinaryIO, channels: int = 3) -> 'Image':
    """Decode an image of any mode to 8-bit RGB, or of so many 8-bit channels, with its EXIF orientation applied.

    The upper 8 of 12 or 16 bits stay, where Pillow clips grey values to white; transparent pixels keep their colour, as
    in OpenCV and timm; CMYK and palettes become RGB; of an animation or several pages the first is taken.

    Args:
        file: Its path, or itself.
        channels: 3 for RGB, 1 for grey; 2 or 4 for images that have as many, whose values stay as they are stored.

    Returns:
        In mode RGB or L, or in that of the file.

    Raises:
        Exception: Of any type: it is no image of :data:`FORMATS`, it is truncated (OpenCV would fill the rest with
            grey), its pixels are numbers of unknown range, or it has another number of channels.
    """
    from PIL import Image, ImageOps

    _know_deep_tiffs()
    with Image.open(file, formats=FORMATS) as image:
        deep = image.mode.startswith('I;16') or (image.mode, image.format) == ('I', 'PPM')
        if image.mode in ('I', 'F') and not deep:
            raise ValueError('its pixels are numbers of 32 bits, or with a sign, whose range is not known')
        tags = getattr(image, 'tag_v2', {})  # of a TIFF; Pillow applies these two only up to 8 bits
        bits, white_is_zero = tags.get(258, (16,))[0], tags.get(262) == 0
        image.load()
        with contextlib.suppress(Exception):  # of any type: unreadable EXIF data is ignored
            ImageOps.exif_transpose(image, in_place=True)
        if channels not in (1, 3):
            if _AS_STORED.get(image.mode) != channels:
                raise ValueError(f'it has {len(image.getbands())} channels ({image.mode}) and not {channels}')
            return image
        if deep:
            grey = (np.asarray(image) >> (bits - 8)).astype(np.uint8)
            image = Image.fromarray(255 - grey if white_is_zero else grey)
        colours = image.convert('RGB')
        return colours if channels == 3 else colours.convert('L')


def _know_deep_tiffs() -> None:
    """Let Pillow open the grey TIFFs of 12 and 16 bits that it lacks: of the other byte order, and where 0 is white."""
    from PIL.TiffImagePlugin import II, MM, OPEN_INFO

    for order, zero in itertools.product((II, MM), (0, 1)):
        OPEN_INFO.setdefault((order, zero, (1,), 1, (12,), ()), ('I;16', 'I;12'))
    OPEN_INFO.setdefault((MM, 0, (1,), 1, (16,), ()), ('I;16B', 'I;16B'))


def read_image(path: str | Path, backend_args: dict | None = None, channels: int = 3) -> np.ndarray:
    """Read and decode an image by :func:`decode_image`.

    Args:
        path: Its file.
        backend_args: Of ``mmengine.fileio``, for remote storage.
        channels: As of :func:`decode_image`.

    Returns:
        (H, W, 3), RGB; (H, W) of one channel.

    Raises:
        UserError: It is missing or cannot be decoded.
    """
    from PIL import UnidentifiedImageError

    try:
        return np.array(decode_image(io.BytesIO(fileio.get(path, backend_args=backend_args)), channels))
    except FileNotFoundError as error:
        raise UserError(
            f'The image {printable(path)} is missing: put it there, correct data_root and data_prefix, or take '
            f'it out of the data.'
        ) from error
    except Exception as error:  # decoders raise anything
        unknown = f'no {", ".join(FORMATS)} that can be read'
        reason = unknown if isinstance(error, UnidentifiedImageError) else printable(error)
        raise UserError(
            f'The image {printable(path)} cannot be decoded ({reason}): replace it or leave it out.'
        ) from error


def write_picture(image: np.ndarray, path: Path) -> None:
    """Write an RGB image, (H, W, 3), or single-channel one, (H, W), atomically."""
    import cv2

    stored = cv2.cvtColor(image, cv2.COLOR_RGB2BGR) if image.ndim == 3 else image
    write_atomically(cv2.imencode(path.suffix, stored)[1].tobytes(), path)
