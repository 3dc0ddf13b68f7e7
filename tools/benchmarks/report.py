"""Results as tables and as pictures."""

from argparse import Namespace
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from matplotlib.figure import Figure

from convnext_backbone.utils.errors import UserError
from convnext_backbone.utils.files import check_work_dir, replaced_atomically


class Benchmark(NamedTuple):
    """A command of `tools/benchmark.py`."""

    help: str
    flags: dict[str, dict[str, Any]]  # and how argparse reads them
    measure: Callable[[Namespace], dict]


def print_table(lines: Sequence[Sequence[str]]) -> None:
    """Print aligned columns below a head, text to the left and numbers to the right."""
    columns = [*zip(*lines, strict=True)]
    widths = [max(map(len, column)) for column in columns]
    sides = ['<' if any(cell[:1].isalpha() for cell in column[1:]) else '>' for column in columns]
    for line in lines:
        print('  '.join(f'{cell:{side}{w}}' for cell, side, w in zip(line, sides, widths, strict=True)).rstrip())


def _cells(row: dict) -> dict[str, str]:
    """The figures of a row as text by heading, those of a dict in it too."""
    cells = {}
    for name, value in row.items():
        if isinstance(value, dict):
            cells |= {f'{key}, {name}': text for key, text in _cells(value).items()}
        elif isinstance(value, float):
            cells[name] = f'{value:.3f}' if value < 100 else f'{value:.0f}'
        elif isinstance(value, int) and value >= 1e6:
            cells[name] = f'{value / 1e6:.2f}M' if value < 1e9 else f'{value / 1e9:.2f}G'
        elif isinstance(value, str | int | tuple):
            cells[name] = str(value)
    return cells


def print_result(result: dict) -> None:
    """Print what --json prints as a table."""
    print(', '.join(f'{name} {value}' for name, value in _cells(result).items()))
    cases = result.get('results', [dict(rows=result.get('rows'))])
    rows = [{**case, **row} for case in cases for row in case['rows']]
    cells = [_cells(row) for row in rows]
    head = list(dict.fromkeys(name for row in cells for name in row))
    print_table([head, *([row.get(name, '-') for name in head] for row in cells)])
    for row in rows:
        for reason, count in row.get('reasons', ()):
            print(f'{count:6} x {reason} ({row["operators"]} operators)')


class Bars(NamedTuple):
    """A panel of horizontal bars."""

    title: str
    names: list[str]
    values: list[float]
    form: str = '%.1f'
    start: float = 0  # of the axis
    errors: list[float] | None = None


def check_picture(path: Path) -> None:
    """Raise UserError if no picture can be written to a path, before what it shows is measured for minutes."""
    kinds = Figure().canvas.get_supported_filetypes()
    if path.suffix[1:] not in kinds:
        raise UserError(f'--out {path} names no kind of picture: its suffix is one of {", ".join(kinds)}.')
    check_work_dir(path.parent, '--out')


def draw_bars(grid: list[list[Bars]], colors: list[str], title: str, path: Path) -> None:
    """Draw rows of panels; a color for each name."""
    size = 3 + 2.7 * len(grid[0]), 1 + sum(0.4 * len(row[0].names) + 0.3 for row in grid)
    figure = Figure(figsize=size, layout='constrained')
    for axes, row in zip(figure.subplots(len(grid), len(grid[0]), sharey='row', squeeze=False), grid, strict=True):
        for axis, bars in zip(axes, row, strict=True):
            drawn = axis.barh(bars.names, bars.values, xerr=bars.errors, color=colors)
            axis.bar_label(drawn, fmt=bars.form, padding=3, fontsize='small')
            axis.set_xlim(bars.start, max(bars.values) + 0.2 * (max(bars.values) - bars.start))
            axis.set_title(bars.title, fontsize='medium')
            axis.spines[['top', 'right']].set_visible(False)
        axes[0].invert_yaxis()  # of the whole row, which shares it
    figure.suptitle(title)
    with replaced_atomically(path) as temporary:
        figure.savefig(temporary, format=path.suffix[1:], dpi=120)
