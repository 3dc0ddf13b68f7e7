"""Records what the compiled operators of mmcv 2.1.0 give for the cases of tests/ops_cases.py.

    python tests/golden/make_ops.py                 # tests/golden/ops_cpu.npz
    python tests/golden/make_ops.py --device cuda   # tests/golden/ops_cuda.npz

It needs mmcv built with its operators (`MMCV_WITH_OPS=1`), for CUDA with them too. Last made with mmcv 2.1.0: for the
CPU with torch 2.13.0 and gcc 12.2, for CUDA with torch 2.11.0 and nvcc 13.0 on an H100.
"""

import argparse
import importlib.machinery
import importlib.util
import sys
from pathlib import Path

FOLDER = Path(__file__).resolve().parent
sys.path.insert(0, str(FOLDER.parent))


def refusal(device: str) -> str | None:
    """Why nothing can be recorded here, in one sentence."""
    if importlib.util.find_spec('mmcv') is None:
        return 'mmcv is not installed, and what its compiled operators give is to be recorded.'
    spec = importlib.util.find_spec('mmcv._ext')
    if spec is None or not isinstance(spec.loader, importlib.machinery.ExtensionFileLoader):
        return f'mmcv._ext is no compiled module here ({spec and spec.origin}), and only such a one is recorded.'
    import mmcv
    import torch

    if mmcv.__version__ != '2.1.0':
        return f'mmcv is {mmcv.__version__}, and the recorded operators are those of 2.1.0.'
    if device == 'cuda' and not torch.cuda.is_available():
        return 'torch sees no NVIDIA GPU, and --device cuda records what one gives.'


def record(device: str, skip: list[str]) -> tuple[dict, list[str]]:
    """The results by case and data type, and what went wrong."""
    import torch
    from ops_cases import CASES, evaluate

    results, failures = {}, []
    for case in CASES.values():
        for dtype in case.dtypes(device) if case.name not in skip else []:
            name = f'{case.name} {str(dtype)[6:]}'
            try:
                results[name] = evaluate(case, device, dtype)
                if device == 'cuda':
                    torch.cuda.synchronize()
            except Exception as error:  # whatever the original says to an input
                failures.append(f'{name}: {type(error).__name__}: {error}'.splitlines()[0])
    return results, failures


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--device', choices=['cpu', 'cuda'], default='cpu')
    parser.add_argument('--out', type=Path, help='the file to write (default: beside this script)')
    parser.add_argument('--skip', nargs='*', default=[], metavar='CASE', help='cases to leave out')
    arguments = parser.parse_args()
    reason = refusal(arguments.device)
    if reason:
        print(f'error: {reason}', file=sys.stderr)
        return 2

    from ops_cases import save

    results, failures = record(arguments.device, arguments.skip)
    path = arguments.out or FOLDER / f'ops_{arguments.device}.npz'
    save(path, results)
    print(f'{path}: {len(results)} results, {path.stat().st_size / 1000:.0f} kB')
    print(*(f'not recorded: {failure}' for failure in failures), sep='\n')
    return bool(failures)


if __name__ == '__main__':
    sys.exit(main())
