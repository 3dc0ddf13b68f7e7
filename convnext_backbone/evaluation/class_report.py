"""Scores of each class as json, and the confusion matrix as a picture."""

import json
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from ..utils.files import replaced_atomically, write_atomically

_MOST_NAMED = 40  # more class names do not fit the axes


def write_class_report(confusion: Tensor, names: Sequence[str], folder: Path) -> None:
    """Write ``per_class.json``, the accuracy of each class, and ``confusion.png`` into an existing folder."""
    rows = []
    for label, (name, row) in enumerate(zip(names, confusion.tolist(), strict=True)):
        images = sum(row)
        top1 = row[label] / images if images else None
        rows.append({'class': name, 'images': images, 'top1': top1, 'taken_for': find_confused(row, label, names)})
    write_per_class(rows, folder)
    accuracy = float(confusion.diagonal().sum() / confusion.sum().clamp(min=1))
    draw_confusion(confusion, names, folder / 'confusion.png', f'top-1 {accuracy:.3f}')


def find_confused(row: Sequence[int], label: int, names: Sequence[str]) -> str | None:
    """The class that another is most often taken for, by its row of the confusion matrix; None if it never is."""
    count, mistaken = max(((row[other], -other) for other in range(len(names)) if other != label), default=(0, 0))
    return names[-mistaken] if count else None


def write_per_class(rows: list[dict], folder: Path) -> None:
    """Write ``per_class.json``: an object for each class."""
    write_atomically((json.dumps(rows, indent=1, allow_nan=False) + '\n').encode(), folder / 'per_class.json')


def draw_confusion(confusion: Tensor, names: Sequence[str], path: Path, title: str, unit: str = 'images') -> None:
    """Draw a confusion matrix, each row as shares of what is of its class."""
    from matplotlib.figure import Figure  # slow to import

    shares = confusion / confusion.sum(dim=1, keepdim=True).clamp(min=1)
    few = len(names) <= _MOST_NAMED
    figure = Figure(figsize=(3 + 0.3 * len(names), 2.4 + 0.3 * len(names)) if few else (9, 8), layout='constrained')
    axes = figure.subplots()
    image = axes.imshow(shares, cmap='Blues', vmin=0, vmax=1, interpolation='nearest')
    figure.colorbar(image, ax=axes, label=f'share of the {unit} of a class')
    axes.set(title=f'confusion matrix, {title}', xlabel='predicted class', ylabel='true class')
    if few:
        axes.set_xticks(range(len(names)), names, rotation=90)
        axes.set_yticks(range(len(names)), names)
        for row, column in torch.nonzero(shares >= 0.005).tolist():
            share = float(shares[row, column])
            colour = 'white' if share > 0.5 else 'black'
            axes.text(column, row, f'{100 * share:.0f}', ha='center', va='center', fontsize=7, color=colour)
    with replaced_atomically(path) as temporary:
        figure.savefig(temporary, format='png', dpi=110)
