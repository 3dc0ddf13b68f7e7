"""Images of any number of channels and any data type as RGB pictures."""

import numpy as np

_BRIGHTEST = 511  # of floats that count as bytes: normalized and back, noise included


def show_bands(image: np.ndarray, bgr: bool = False) -> np.ndarray:
    """Show the first three channels of an image, or the first of fewer in grey, as RGB bytes (H, W, 3).

    Values of another range than bytes have are scaled channel by channel, from their 1st to their 99th percentile.

    Args:
        image: (H, W) or (H, W, C), of any data type.
        bgr: Whether the first channels are blue, green and red.
    """
    image = image.reshape(*image.shape[:2], -1)
    shown = image[..., :3] if image.shape[2] >= 3 else image[..., :1].repeat(3, axis=2)
    shown = shown[..., ::-1] if bgr else shown
    if shown.dtype == np.uint8:
        return np.ascontiguousarray(shown)
    low, high = percentiles(shown.reshape(-1, 3))
    brightest = high.max() if shown.dtype.kind == 'f' else shown.max()
    if 1 < brightest <= (_BRIGHTEST if shown.dtype.kind == 'f' else 255):
        low, high = np.zeros(3), np.full(3, 255.0)
    return np.stack([scale(row, low, high) for row in shown])  # row by row: floats take eight times the memory


def percentiles(pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The 1st and the 99th percentile of each column; of about a million rows at most."""
    low, high = np.nanpercentile(pixels[:: 1 + len(pixels) // 2**20], (1, 99), axis=0)
    return low, high


def scale(values: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Scale each column to bytes, 0 for its low end and below; what is no number is 0."""
    scaled = np.rint((values - low) / np.maximum(high - low, 1e-12) * 255)
    return np.nan_to_num(scaled).clip(0, 255).astype(np.uint8)
