"""The most used operators at the sizes of a detector on COCO, and the change from one implementation to another."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

Workload = tuple[Callable[..., object], list[Tensor]]  # a function, and its inputs that may want a gradient


@contextmanager
def using(module: ModuleType) -> Iterator[None]:
    """Lets all of ``mmcv.ops`` call the functions of a module such as ``mmcv._ext``, to compare it with another."""
    import mmcv.ops  # noqa: F401  all of its modules

    callers: list[Any] = [
        each for name, each in sys.modules.items() if name.startswith('mmcv.ops.') and hasattr(each, 'ext_module')
    ]
    before = [caller.ext_module for caller in callers]
    try:
        for caller in callers:
            caller.ext_module = module
        yield
    finally:
        for caller, old in zip(callers, before, strict=True):
            caller.ext_module = old


def _noise(*shape: int, device: str) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0)).to(device)


def _boxes(count: int, device: str) -> Tensor:
    """Boxes of up to 200 pixels in an image of 800x1216."""
    places = torch.rand(count, 4, generator=torch.Generator().manual_seed(0)) * torch.tensor([1016, 600, 200, 200])
    places[:, 2:] += places[:, :2]
    return places.to(device)


def nms(device: str) -> Workload:
    """2000 boxes, of which about half are kept."""
    from mmcv.ops import nms

    boxes, scores = _boxes(2000, device), torch.linspace(1, 0, 2000, device=device)
    return lambda: nms(boxes, scores, 0.7), []


def soft_nms(device: str) -> Workload:
    """1000 boxes."""
    from mmcv.ops import soft_nms

    boxes, scores = _boxes(1000, device), torch.linspace(1, 0, 1000, device=device)
    return lambda: soft_nms(boxes, scores), []


def roi_align(device: str) -> Workload:
    """512 boxes, 7x7, of the largest map of a pyramid."""
    from mmcv.ops import roi_align

    boxes = _boxes(512, device)
    rois = torch.cat([boxes.new_zeros(512, 1), boxes], 1)
    features = _noise(1, 256, 200, 304, device=device)
    return lambda features: roi_align(features, rois, 7, 0.25, 0, 'avg', True), [features]


def deform_conv2d(device: str) -> Workload:
    """3x3, 256 channels, 50x76 positions."""
    from mmcv.ops import deform_conv2d

    inputs = [_noise(*shape, device=device) for shape in ((1, 256, 50, 76), (1, 18, 50, 76), (256, 256, 3, 3))]
    return lambda features, offset, weight: deform_conv2d(features, offset, weight, 1, 1), inputs


def modulated_deform_conv2d(device: str) -> Workload:
    """3x3, 256 channels, 50x76 positions."""
    from mmcv.ops import modulated_deform_conv2d

    shapes = (1, 256, 50, 76), (1, 18, 50, 76), (1, 9, 50, 76), (256, 256, 3, 3), (256,)
    inputs = [_noise(*shape, device=device) for shape in shapes]
    return lambda *inputs: modulated_deform_conv2d(*inputs, 1, 1), inputs


def ms_deform_attn(device: str) -> Workload:
    """900 queries, 8 heads of 32, four levels of an image of 800x1216, four points on each."""
    from mmcv.ops.multi_scale_deform_attn import MultiScaleDeformableAttnFunction

    shapes = torch.tensor([(100, 152), (50, 76), (25, 38), (13, 19)], device=device)
    sizes = shapes.prod(1)
    starts = sizes.cumsum(0) - sizes
    value = _noise(1, int(sizes.sum()), 8, 32, device=device)
    places, weights = _noise(1, 900, 8, 4, 4, 2, device=device).sigmoid(), _noise(1, 900, 8, 4, 4, device=device)
    apply = MultiScaleDeformableAttnFunction.apply
    return lambda value, *rest: apply(value, shapes, starts, *rest, 64), [value, places, weights]


def sigmoid_focal_loss(device: str) -> Workload:
    """20,000 anchors, 80 classes."""
    from mmcv.ops import sigmoid_focal_loss

    target = torch.arange(20000, device=device) % 81
    return lambda logits: sigmoid_focal_loss(logits, target, 2.0, 0.25, None, 'none'), [
        _noise(20000, 80, device=device)
    ]


MOST_USED = nms, roi_align, deform_conv2d
WORKLOADS = nms, soft_nms, roi_align, deform_conv2d, modulated_deform_conv2d, ms_deform_attn, sigmoid_focal_loss
