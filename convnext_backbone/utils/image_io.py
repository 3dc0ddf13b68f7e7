"""Image decoding and encoding shared by all tasks: 8-bit RGB, EXIF orientation applied, truncated files raise."""

import contextlib
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

IMAGE_SUFFIXES = {'.jpg', '.jpeg', '.png', '.bmp', '.tif', '.tiff', '.webp'}


def decode_image(file: str | Path | BinaryIO) -> 'Image':
    """Decode an image of any mode to 8-bit RGB, with its EXIF orientation applied.

    The upper 8 of 16 bits stay, where Pillow clips grey values to white; transparent pixels keep their colour, as in
    OpenCV and timm; CMYK and palettes become RGB.

    Args:
        file: Its path, or itself.

    Returns:
        In mode RGB.

    Raises:
        Exception: Of any type: it is no image, it is truncated (OpenCV would fill the rest with grey), or its pixels
            are 32-bit numbers of unknown range.
    """
    from PIL import Image, ImageOps

    with Image.open(file) as image:
        if image.mode in ('I', 'F'):
            raise ValueError('its pixels are numbers of 32 bits, whose range is not known')
        image.load()
        with contextlib.suppress(Exception):  # of any type: unreadable EXIF data is ignored
            ImageOps.exif_transpose(image, in_place=True)
        if image.mode.startswith('I;16'):
            return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8)).convert('RGB')
        return image.convert('RGB')


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
        reason = '' if isinstance(error, UnidentifiedImageError) else f' ({printable(str(error))})'
        raise UserError(
            f'The image {printable(str(path))} cannot be decoded{reason}: replace it or leave it out.'
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
