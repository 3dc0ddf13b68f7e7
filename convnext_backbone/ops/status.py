"""Which operators mmcv uses, and how fast the most used ones are on each device."""

import importlib
import time
from collections.abc import Callable
from importlib.machinery import EXTENSION_SUFFIXES

import torch

from .installation import NAME, OperatorsError, mmcv_folder, provide

REPEATS = 5


def status() -> dict:
    """The operators in use.

    Returns:
        ``kind`` ('compiled' or 'torchvision'), ``file``, and ``milliseconds`` by device and operator.

    Raises:
        OperatorsError: mmcv is not installed, or what is compiled cannot be loaded.
    """
    folder = mmcv_folder()
    provide()
    try:
        module = importlib.import_module(NAME)
    except ImportError as error:
        raise OperatorsError(
            f"mmcv's compiled operators in {folder} do not load ({error}): they were built for another torch; "
            'build them again, or `pip uninstall mmcv` and `pip install mmcv-lite==2.1.0`.'
        ) from error
    devices = ['cpu'] + ['cuda'] * torch.cuda.is_available()
    return dict(
        kind='compiled' if module.__file__.endswith(tuple(EXTENSION_SUFFIXES)) else 'torchvision',
        file=module.__file__,
        milliseconds={device: {name: _time(call, device) for name, call in CALLS.items()} for device in devices},
    )


def _time(prepare: Callable[[str], Callable[[], object]], device: str) -> float:
    """The least of a few runs, in milliseconds."""
    call, best = prepare(device), float('inf')
    for _ in range(REPEATS):
        start = time.perf_counter()
        call()
        if device == 'cuda':
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - start)
    return round(best * 1e3, 3)


def _boxes(count: int, device: str) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    corners = torch.rand(count, 4, generator=generator) * 800
    corners[:, 2:] = corners[:, :2] + corners[:, 2:] / 4
    return corners.to(device)


def _nms(device: str) -> Callable[[], object]:
    from mmcv.ops import nms

    boxes = _boxes(2000, device)
    scores = torch.linspace(1, 0, len(boxes), device=device)
    return lambda: nms(boxes, scores, 0.7)


def _roi_align(device: str) -> Callable[[], object]:
    from mmcv.ops import roi_align

    boxes = _boxes(512, device)
    rois, features = torch.cat([boxes.new_zeros(len(boxes), 1), boxes], 1), torch.ones(1, 256, 200, 304, device=device)
    return lambda: roi_align(features, rois, 7, 0.25, 0, 'avg', True)


def _deform_conv(device: str) -> Callable[[], object]:
    from mmcv.ops import deform_conv2d

    features, weight = torch.ones(1, 256, 50, 76, device=device), torch.ones(256, 256, 3, 3, device=device)
    offset = torch.full((1, 18, 50, 76), 0.5, device=device)
    return lambda: deform_conv2d(features, offset, weight, 1, 1)


CALLS = {
    'nms of 2000 boxes': _nms,
    'roi_align of 512 boxes, 256 channels': _roi_align,
    'deform_conv 3x3 of 256 channels, 50x76': _deform_conv,
}
