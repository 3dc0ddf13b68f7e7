"""Pictures of the maps that the stages of a backbone make of an image."""

from collections.abc import Sequence

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from .legend import add_legend, paste_grid

_WIDTH, _GAP = 320, 8  # pixels of a panel, and between panels


def principal_components(features: Tensor) -> np.ndarray:
    """The three directions in which the channels vary most over an image, as red, green and blue.

    Each pixel's channels are normalised before, as by the norm that follows a stage wherever its map is used.

    Args:
        features: (C, H, W), C at least 3.

    Returns:
        Bytes, (H, W, 3).
    """
    channels = len(features)
    pixels = F.layer_norm(features.flatten(1).T.double(), (channels,))  # (H * W, C)
    pixels = pixels - pixels.mean(dim=0)
    _, directions = torch.linalg.eigh(pixels.T @ pixels)  # the eigenvalues rise
    directions = directions[:, -3:].flip(1)
    # The sign of an eigenvector is arbitrary: the largest of its numbers is made positive.
    largest = directions.gather(0, directions.abs().argmax(dim=0, keepdim=True))
    shown = stretch((pixels @ (directions * largest.sign())).cpu().numpy())
    return shown.reshape(*features.shape[1:], 3)


def strength(features: Tensor) -> np.ndarray:
    """How long the feature of each pixel is, from dark blue to yellow.

    Args:
        features: (C, H, W).

    Returns:
        Bytes, (H, W, 3).
    """
    length = features.norm(dim=0).cpu().numpy()
    shown = stretch(length.reshape(-1, 1)).reshape(length.shape)
    return cv2.cvtColor(cv2.applyColorMap(shown, cv2.COLORMAP_VIRIDIS), cv2.COLOR_BGR2RGB)


def stretch(values: np.ndarray) -> np.ndarray:
    """Scales each column to 0 to 255; what is beyond the outer hundredths of it is cut off."""
    low, high = np.percentile(values, (1, 99), axis=0)
    return np.rint((values - low) / np.maximum(high - low, 1e-12) * 255).clip(0, 255).astype(np.uint8)


def draw_stages(image: np.ndarray, maps: Sequence[Tensor], strides: Sequence[int]) -> np.ndarray:
    """Draws an image as the model is fed it, and beside it two panels for each stage, one above the other.

    Args:
        image: (H, W, 3), RGB.
        maps: Of the stages, (C_i, H // stride_i, W // stride_i).
        strides: Of the stages.

    Returns:
        The picture: principal components above, the strength of the features below.
    """
    scale = _WIDTH / image.shape[1]

    def panel(shown: np.ndarray, stride: int, interpolation: int, caption: str) -> np.ndarray:
        # A map ends before the image where a side is no multiple of the stride.
        height, width = (max(1, round(side * stride * scale)) for side in shown.shape[:2])
        resized = cv2.resize(shown, (width, height), interpolation=interpolation)
        return np.pad(add_legend(resized, [], caption), ((0, 0), (0, _GAP), (0, 0)), constant_values=255)

    photo = panel(image, 1, cv2.INTER_AREA, f'input: {image.shape[1]} x {image.shape[0]} pixels\n')
    above, below = [photo], [np.full_like(photo, 255)]
    for number, (features, stride) in enumerate(zip(maps, strides, strict=True), start=1):
        channels, height, width = features.shape
        caption = f'stage {number}, stride {stride}: {channels} channels, {width} x {height}\n'
        nearest = cv2.INTER_NEAREST
        above.append(panel(principal_components(features), stride, nearest, f'{caption}three principal components'))
        below.append(panel(strength(features), stride, nearest, f'{caption}length of each feature'))
    return paste_grid([*above, *below], columns=len(above))
