"""The steps from ResNet to ConvNeXt as a picture."""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from matplotlib.figure import Figure


class _Column(NamedTuple):
    title: str
    values: list[float]
    errors: list[float] | None = None
    start: float = 0  # of the axis
    form: str = '%.1f'


def _columns(result: dict) -> Iterator[_Column]:
    rows = result['rows']
    if result['regime'] == 'small':
        yield _Column('top-1 of the small runs, %', [r['mean'] for r in rows], [r['std'] for r in rows])
        return
    scores = [row['published']['top1'] for row in rows]
    yield _Column('published top-1, %', scores, start=min(scores) - 1)  # from 0 on all bars would look the same
    yield _Column('GFLOPs', [row['multiply_adds'] / 1e9 for row in rows], form='%.2f')
    if 'measured' in rows[0]:
        yield _Column('images/s in training, here', [row['measured']['train'] for row in rows])


def draw_roadmap(result: dict, path: Path) -> None:
    """Draw a row of bars for each step, as in the paper's figure 2."""
    steps, columns = [row['step'] for row in result['rows']], [*_columns(result)]
    figure = Figure(figsize=(3 + 2.7 * len(columns), 6.5), layout='constrained')
    colors = ['tab:gray', *['tab:blue'] * (len(steps) - 2), 'tab:orange']
    for axis, column in zip(figure.subplots(1, len(columns), sharey=True, squeeze=False)[0], columns, strict=True):
        bars = axis.barh(steps, column.values, xerr=column.errors, color=colors)
        axis.bar_label(bars, fmt=column.form, padding=3, fontsize='small')
        axis.set_xlim(column.start, max(column.values) + 0.2 * (max(column.values) - column.start))
        axis.set_title(column.title, fontsize='medium')
        axis.spines[['top', 'right']].set_visible(False)
    axis.invert_yaxis()  # of all: they share it
    figure.savefig(path, dpi=120)
