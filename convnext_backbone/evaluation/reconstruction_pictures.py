"""Pictures of what a masked autoencoder makes of images: original, masked and reconstructed, side by side."""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from torch import Tensor

from ..utils.image_io import write_picture

GREY, WHITE, GAP = 128, 255, 8  # of what is removed, of the gaps, and their width in pixels


def to_pixels(image: Tensor, mean: Tensor | float = 0.0, std: Tensor | float = 1.0) -> np.ndarray:
    """The RGB bytes (H, W, 3) of an image (C, H, W) that was normalized: its first three channels, or its first."""
    values = (image * std + mean).float()
    shown = values[:3] if len(values) >= 3 else values[:1].expand(3, -1, -1)
    return shown.clamp(0, 255).round().byte().permute(1, 2, 0).cpu().numpy()


def draw_reconstruction(image: np.ndarray, mask: np.ndarray, reconstruction: np.ndarray) -> np.ndarray:
    """Draw an image, what is visible of it, and its reconstruction next to each other.

    Args:
        image: RGB bytes, (H, W, 3).
        mask: The patches that were removed, True in (L,), row by row.
        reconstruction: As the image.
    """
    height, width = image.shape[:2]
    side = math.isqrt(height * width // len(mask))
    removed = mask.reshape(height // side, width // side).repeat(side, 0).repeat(side, 1)
    visible = np.where(removed[..., None], np.uint8(GREY), image)
    gap = np.full((height, GAP, 3), WHITE, np.uint8)
    return np.concatenate([image, gap, visible, gap, reconstruction], axis=1)


def write_reconstructions(rows: Sequence[np.ndarray], path: Path) -> None:
    """Write pictures of :func:`draw_reconstruction` below each other."""
    width = max(row.shape[1] for row in rows)
    padded = [np.pad(row, ((0, GAP), (0, width - row.shape[1]), (0, 0)), constant_values=WHITE) for row in rows]
    write_picture(np.concatenate(padded)[:-GAP], path)
