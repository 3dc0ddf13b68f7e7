"""The table of docs/operators.md: how far our operators are from what mmcv's compiled ones were recorded to give.

python tests/golden/compare_ops.py
"""

import sys
from collections import defaultdict
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))
import convnext_backbone.ops

convnext_backbone.ops.provide()
from ops_cases import CASES, evaluate, load  # noqa: E402

from convnext_backbone.ops import ext  # noqa: E402
from convnext_backbone.ops.workloads import using  # noqa: E402


def distance(got: np.ndarray, want: np.ndarray) -> float:
    """The largest difference, relative to the largest number or to 1; of whole numbers, whether there is one."""
    if want.dtype.kind != 'f':
        return float(not np.array_equal(got, want))
    finite = np.isfinite(want)
    if not finite.any():
        return 0.0
    got, want = got[finite].astype(np.float64), want[finite].astype(np.float64)
    return float(np.abs(got - want).max() / max(1, np.abs(want).max()))


def main() -> None:
    """Prints the table."""
    rows = defaultdict(lambda: dict(cases=0))
    for device in ('cpu', 'cuda'):
        for name, arrays in load(Path(__file__).parent / f'ops_{device}.npz').items():
            name, dtype = name.split()
            case = CASES[name]
            with using(ext):
                found = evaluate(case, 'cpu', getattr(torch, dtype))
            furthest = max(distance(found[key], want) for key, want in arrays.items() if key in found)
            column, row = ('half' if dtype == 'float16' else device), rows[case.family]
            row['cases'] += 1
            row[column] = max(row.get(column, 0), furthest)
    print('| operator | results | fp32, CPU | fp32, CUDA | fp16 |\n| --- | --- | --- | --- | --- |')
    for family, row in rows.items():
        figures = [f'{row[key]:.0e}' if key in row else '-' for key in ('cpu', 'cuda', 'half')]
        print(f'| {family} | {row["cases"]} | {" | ".join(figures)} |')


if __name__ == '__main__':
    main()
