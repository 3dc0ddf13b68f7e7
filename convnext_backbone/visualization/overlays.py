"""Classes of pixels painted over an image, with a legend of colour, name and share."""

from collections.abc import Sequence

import numpy as np

from .legend import Entry, add_legend

_OPACITY = 0.5


def class_shares(ids: np.ndarray, names: Sequence[str]) -> list[dict]:
    """The classes in an image, the largest first: ``label``, ``class`` and ``share`` of the pixels of each.

    Args:
        ids: (H, W). Those without a name are ``'void'``.
        names: Of the classes.
    """
    labels, counts = np.unique(ids, return_counts=True)
    return [
        {'label': int(labels[i]), 'class': name_class(labels[i], names), 'share': float(counts[i] / ids.size)}
        for i in np.argsort(-counts, kind='stable')
    ]


def name_class(label: int, names: Sequence[str]) -> str:
    """The name of a class; ``'void'`` for the label of unlabelled pixels, which is that of no class."""
    return names[label] if label < len(names) else 'void'


def draw_classes(
    image: np.ndarray, ids: np.ndarray, names: Sequence[str], palette: Sequence[Sequence[int]], title: str = ''
) -> np.ndarray:
    """Paints the classes of pixels over an image and explains them below it: colour, name and share of each.

    Args:
        image: (H, W, 3), RGB.
        ids: (H, W). What is no class is not painted.
        names: Of the classes.
        palette: Their colours, RGB.
        title: Stands above the legend.
    """
    painted, known = image.copy(), ids < len(names)
    colours = np.asarray(palette, np.float32)[ids[known]]
    painted[known] = np.rint(image[known] * (1 - _OPACITY) + colours * _OPACITY)
    entries = []
    for found in class_shares(ids, names):
        share = f'{100 * found["share"]:.1f} %' if found['share'] >= 0.001 else '< 0.1 %'
        colour = palette[found['label']] if found['label'] < len(names) else None
        entries.append(Entry(f'{found["class"]} {share}', colour))
    return add_legend(painted, entries, title)
