"""What tools/benchmark.py found about models, as tables and as a picture."""

from pathlib import Path

from contenders import OURS
from matplotlib.figure import Figure


def print_models(result: dict) -> None:
    """As a table for each case."""
    print(f'{result["model"]}; {result["device"]}, torch {result["torch"]}')
    for case in result['results']:
        print(
            f'\n{case["images"]}x{case["height"]}x{case["width"]}, {case["mode"]}, {case["dtype"]}; medians of '
            f'{result["repeat"]}, fastest in brackets'
        )
        print(f'{"":20}{"time, s":>18}{"ours faster":>13}{"peak, MiB":>11}{"ours takes":>12}{"of matrix rate":>16}')
        for row in case['rows']:
            times = f'{row["seconds"]:.3f} ({row["fastest"]:.3f})'
            share = f'{row["share_of_matrix_rate"]:16.0%}' if 'share_of_matrix_rate' in row else ''
            memory = f'{row["peak_mib"]:11.0f}{row["memory"]:12.2f}'
            print(f'{row["contender"]:20}{times:>18}{row["speedup"]:13.2f}{memory}{share}')


def draw_models(result: dict, path: Path) -> None:
    """Bars of time and memory for each case."""
    cases = result['results']
    figure = Figure(figsize=(10, 1.0 + 2.4 * len(cases)), layout='constrained')
    axes = figure.subplots(len(cases), 2, squeeze=False)
    for case, (left, right) in zip(cases, axes, strict=True):
        names = [row['contender'] for row in case['rows']]
        colors = ['tab:orange' if name.startswith(OURS) else 'tab:blue' for name in names]
        for axis, key, label in ((left, 'seconds', 'seconds'), (right, 'peak_mib', 'peak memory, MiB')):
            bars = axis.barh(names, [row[key] for row in case['rows']], color=colors)
            axis.bar_label(bars, fmt='%.2f' if key == 'seconds' else '%.0f', padding=3)
            axis.margins(x=0.15)
            axis.invert_yaxis()
            axis.set_xlabel(label)
        left.set_title(f'{case["images"]}x{case["height"]}x{case["width"]}, {case["mode"]}, {case["dtype"]}')
        right.set_yticklabels([])
    figure.suptitle(f'{result["model"]}; {result["device"]}')
    figure.savefig(path, dpi=120)
