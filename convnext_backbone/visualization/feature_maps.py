"""Pictures of a backbone's feature maps, stage by stage."""

from collections.abc import Sequence

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from .bands import percentiles, scale
from .legend import add_legend, paste_grid, thumbnail_scale

_WIDTH, _GAP = 320, 8  # pixels of a panel, and between panels


def draw_stages(image: np.ndarray, maps: Sequence[Tensor], strides: Sequence[int]) -> np.ndarray:
    """Draw a model's input, and next to it for each stage its principal components above the norms of its features.

    Args:
        image: The input, (H, W, 3), RGB.
        maps: Of the stages, (C_i, H // stride_i, W // stride_i).
        strides: Of the stages.
    """
    zoom = thumbnail_scale(image, _WIDTH)

    def panel(shown: np.ndarray, stride: int, interpolation: int, caption: str) -> np.ndarray:
        # A map ends before the image where a side is no multiple of the stride.
        height, width = (max(1, round(side * stride * zoom)) for side in shown.shape[:2])
        resized = cv2.resize(shown, (width, height), interpolation=interpolation)
        return np.pad(add_legend(resized, [], caption), ((0, 0), (0, _GAP), (0, 0)), constant_values=255)

    photo = panel(image, 1, cv2.INTER_AREA, f'input: {image.shape[1]} x {image.shape[0]} pixels\n')
    above, below = [photo], [np.full_like(photo, 255)]
    for number, (features, stride) in enumerate(zip(maps, strides, strict=True), start=1):
        channels, height, width = features.shape
        caption = f'stage {number}, stride {stride}: {channels} channels, {width} x {height}\n'
        nearest = cv2.INTER_NEAREST
        above.append(panel(principal_components(features), stride, nearest, f'{caption}three principal components'))
        below.append(panel(feature_norms(features), stride, nearest, f'{caption}norm of each feature'))
    return paste_grid([*above, *below], columns=len(above))


def principal_components(features: Tensor) -> np.ndarray:
    """Project a feature map (C, H, W) to its first three principal components, shown as RGB bytes (H, W, 3).

    Each pixel is layer-normalized before, as by the norm that follows a stage wherever its map is used.
    """
    channels = len(features)
    pixels = F.layer_norm(features.flatten(1).T.double(), (channels,))  # (H * W, C)
    pixels = pixels - pixels.mean(dim=0)
    _, directions = torch.linalg.eigh(pixels.T @ pixels)  # in ascending order of the eigenvalues
    directions = directions[:, -3:].flip(1)
    # The sign of an eigenvector is arbitrary: make its largest component positive.
    largest = directions.gather(0, directions.abs().argmax(dim=0, keepdim=True))
    components = (pixels @ (directions * largest.sign())).cpu().numpy()
    return scale(components, *percentiles(components)).reshape(*features.shape[1:], 3)


def feature_norms(features: Tensor) -> np.ndarray:
    """Show the norm of each pixel's feature (C, H, W), from dark blue to yellow, as RGB bytes (H, W, 3)."""
    norms = features.norm(dim=0).cpu().numpy()
    shown = scale(norms, *percentiles(norms.reshape(-1, 1)))
    return cv2.cvtColor(cv2.applyColorMap(shown, cv2.COLORMAP_VIRIDIS), cv2.COLOR_BGR2RGB)
