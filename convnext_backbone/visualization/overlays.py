"""Segmentation overlays with a legend of colour, class name and share."""

from collections.abc import Sequence

import numpy as np

from .legend import Entry, add_legend

_OPACITY = 0.5


def class_shares(ids: np.ndarray, names: Sequence[str]) -> list[dict]:
    """List the classes of a segmentation, the largest first: ``label``, ``class`` and ``share`` of the pixels.

    Ids without a name, such as that of unlabelled pixels, are ``'void'``.
    """
    labels, counts = np.unique(ids, return_counts=True)
    order = np.argsort(-counts, kind='stable')
    return [
        {'label': label, 'class': names[label] if label < len(names) else 'void', 'share': count / ids.size}
        for label, count in zip(labels[order].tolist(), counts[order].tolist(), strict=True)
    ]


def draw_classes(
    image: np.ndarray, ids: np.ndarray, names: Sequence[str], palette: Sequence[Sequence[int]], title: str = ''
) -> np.ndarray:
    """Blend the colours of the classes over an image and add a legend: colour, name and share of each.

    Args:
        image: (H, W, 3), RGB.
        ids: Class ids, (H, W); those without a name are not painted.
        names: Of the classes.
        palette: RGB colours of the classes.
        title: Lines above the legend.
    """
    painted, colours = image.copy(), np.asarray(palette, np.float32)
    for row, labels in zip(painted, ids, strict=True):  # row by row: floats take four times the memory
        known = labels < len(names)
        row[known] = np.rint(row[known] * (1 - _OPACITY) + colours[labels[known]] * _OPACITY)
    entries = []
    for found in class_shares(ids, names):
        share = f'{100 * found["share"]:.1f} %' if found['share'] >= 0.001 else '< 0.1 %'
        colour = palette[found['label']] if found['label'] < len(names) else None
        entries.append(Entry(f'{found["class"]} {share}', colour))
    return add_legend(painted, entries, title)
