"""Which operators mmcv uses, and how fast the most used ones are on each device."""

import importlib
import time
from collections.abc import Callable
from importlib.machinery import EXTENSION_SUFFIXES
from types import ModuleType

import torch

from .installation import NAME, OperatorsError, compiled_operators, mmcv_folder, provide
from .workloads import MOST_USED, Workload

REPEATS = 5


def status() -> dict:
    """The operators in use.

    Returns:
        ``kind`` ('compiled' or 'torchvision'), ``file``, and ``milliseconds`` by device and operator.

    Raises:
        OperatorsError: mmcv is not installed, or its operators cannot be loaded.
    """
    folder = mmcv_folder()
    provide()
    try:
        module = importlib.import_module(NAME)
    except ImportError as error:
        if compiled_operators(folder):
            raise OperatorsError(
                f"mmcv's compiled operators in {folder} do not load ({error}): they were built for another torch; "
                'build them again, or `pip uninstall mmcv` and `pip install mmcv-lite==2.1.0`.'
            ) from error
        raise OperatorsError(
            f'mmcv has no operators ({error}): install the torchvision that was made for torch {torch.__version__}.'
        ) from error
    devices = ['cpu'] + ['cuda'] * torch.cuda.is_available()
    return dict(
        kind='compiled' if is_compiled(module) else 'torchvision',
        file=module.__file__,
        milliseconds={device: {each.__name__: _time(each, device) for each in MOST_USED} for device in devices},
    )


def is_compiled(module: ModuleType) -> bool:
    """Whether ``mmcv._ext`` is a compiled module."""
    return str(module.__file__).endswith(tuple(EXTENSION_SUFFIXES))


def _time(workload: Callable[[str], Workload], device: str) -> float:
    """The least of a few forward passes, in milliseconds."""
    (function, inputs), best = workload(device), float('inf')
    for _ in range(REPEATS):
        start = time.perf_counter()
        function(*inputs)
        if device == 'cuda':
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - start)
    return round(best * 1e3, 3)
