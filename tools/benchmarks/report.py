"""Benchmark results as tables and as a picture."""

from argparse import Namespace
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from matplotlib.figure import Figure

from .contenders import OURS


class Benchmark(NamedTuple):
    """A command of `tools/benchmark.py`."""

    help: str
    flags: dict[str, dict[str, Any]]  # and how argparse reads them
    measure: Callable[[Namespace], dict]


def print_table(lines: Sequence[Sequence[str]], left: int = 1) -> None:
    """Print aligned columns, the first `left` of them to the left and the others to the right."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        cells = (f'{text:{"<" if i < left else ">"}{widths[i]}}' for i, text in enumerate(line))
        print('  '.join(cells).rstrip())


def _cells(row: dict) -> dict[str, str]:
    """The figures of a row as text by heading, those of a dict in it too."""
    cells = {}
    for name, value in row.items():
        if isinstance(value, dict):
            cells |= {f'{key}, {name}': text for key, text in _cells(value).items()}
        elif isinstance(value, float):
            cells[name] = f'{value:.3f}' if value < 100 else f'{value:.0f}'
        elif not isinstance(value, list | None):
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


def draw_models(result: dict, path: Path) -> None:
    """Draw bars of time and memory for each case."""
    cases = result['results']
    figure = Figure(figsize=(10, 1.0 + 2.4 * len(cases)), layout='constrained')
    panels = ('seconds', 'seconds', '%.2f'), ('peak_mib', 'peak memory, MiB', '%.0f')
    for case, axes in zip(cases, figure.subplots(len(cases), 2, squeeze=False), strict=True):
        names = [row['contender'] for row in case['rows']]
        colors = ['tab:orange' if name.startswith(OURS) else 'tab:blue' for name in names]
        for axis, (key, label, form) in zip(axes, panels, strict=True):
            bars = axis.barh(names, [row[key] for row in case['rows']], color=colors)
            axis.bar_label(bars, fmt=form, padding=3)
            axis.margins(x=0.15)
            axis.invert_yaxis()
            axis.set_xlabel(label)
        axes[0].set_title('{images}x{height}x{width}, {mode}, {dtype}'.format(**case))
        axes[1].set_yticklabels([])
    figure.suptitle(f'{result["model"]}; {result["device"]}')
    figure.savefig(path, dpi=120)
