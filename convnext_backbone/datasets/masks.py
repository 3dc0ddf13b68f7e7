"""Class ids of segmentation masks: read from files, and turned into labels as mmsegmentation does."""

import io
from collections.abc import Mapping

import numpy as np
from mmengine import fileio

from ..utils.errors import UserError, printable
from ..utils.image_io import FORMATS

VOID = 255  # what mmsegmentation ignores and pads with
_MODES = {'1', 'L', 'P', 'I', 'I;16', 'I;16B', 'I;16L', 'I;16N'}  # of Pillow: one number a pixel


def read_ids(path: str, image: str, backend_args: dict | None = None) -> np.ndarray:
    """Read the class ids of a mask: those of a grey, palette or 1-bit image, never its colours.

    Args:
        path: The file of the mask.
        image: That of its image, for errors.
        backend_args: Of ``mmengine.fileio``, for remote storage.

    Returns:
        (H, W), bytes.

    Raises:
        UserError: It cannot be decoded, or its pixels are not such ids.
    """
    from PIL import Image

    try:
        with Image.open(io.BytesIO(fileio.get(path, backend_args=backend_args)), formats=FORMATS) as mask:
            kind, mode = mask.format, mask.mode
            ids = np.array(mask) if mode in _MODES else None
    except Exception as error:  # decoders raise anything
        raise UserError(
            f'The mask {printable(path)} of the image {printable(image)} cannot be read ({type(error).__name__}: '
            f'{printable(str(error))}): write it again or leave the image out.'
        ) from error
    if ids is None:
        problem = f'holds {mode} colours and not class ids: write the id of each pixel to a grey or palette PNG'
    elif kind in ('JPEG', 'MPO'):
        problem = 'is a JPEG, whose compression changes class ids: write masks as PNG'
    elif ids.dtype != bool and (ids.max(initial=0) > VOID or ids.min(initial=0) < 0):
        extreme = int(ids.max() if ids.max() > VOID else ids.min())
        problem = (
            f'holds the id {extreme}, which mmsegmentation would take for {extreme % 256}, as it keeps 8 bits: number '
            f'the classes from 0, up to 254, and write {VOID} for void'
        )
    else:
        return ids.astype(np.uint8)
    raise UserError(f'The mask {printable(path)} {problem}.')


def to_labels(ids: np.ndarray, reduce_zero_label: bool, label_map: Mapping[int, int] | None) -> np.ndarray:
    """Turn the ids of a mask into labels.

    Args:
        ids: Bytes, of any shape.
        reduce_zero_label: Whether 0 is void and 1 the first class.
        label_map: From the labels of the files to those of a selection of classes.
    """
    numbers = np.arange(256)
    if reduce_zero_label:
        numbers = np.where(numbers % VOID == 0, VOID, numbers - 1)
    labels = numbers.copy()
    for old, new in (label_map or {}).items():
        labels[numbers == old] = new
    return labels.astype(np.uint8)[ids]  # -1 becomes 255
