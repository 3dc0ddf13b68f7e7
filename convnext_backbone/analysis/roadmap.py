"""The roadmap from ResNet to ConvNeXt in numbers: scores and costs as published, and costs as counted here."""

from pathlib import Path
from typing import NamedTuple

import torch

from ..config.metafile import METAFILE, read_metafile
from ..models.classifier import ImageClassifier
from ..models.modernized_resnet import REGIMES
from .complexity import Cost, count_multiply_adds, count_parameters

IMAGE = (224, 224)  # the paper's
CHANGES = {
    'original': 'ResNet, by the recipe of all steps',
    'stage_ratio': 'stages of {swin_depths} blocks, {swin_depths_width} channels',
    'patchify_stem': 'one 4x4 convolution of stride 4',
    'depthwise': 'the 3x3 convolutions become depthwise',
    'width': '{swin_width} channels',
    'inverted': 'four times the channels inside, not at the ends',
    'move_up': 'the depthwise convolution comes first',
    'kernel_5': 'kernels of 5x5',
    'kernel_7': 'kernels of 7x7',
    'kernel_9': 'kernels of 9x9',
    'kernel_11': 'kernels of 11x11',
    'gelu': 'ReLU becomes GELU, kernels of 7x7',
    'fewer_activations': 'one activation a block',
    'fewer_norms': 'one norm a block',
    'layer_norm': 'batch norm becomes LayerNorm',
    'separate_downsampling': '2x2 convolutions and norms between stages',
}


class Published(NamedTuple):
    """A step in the paper: top-1 on ImageNet-1K in percent, and GFLOPs."""

    top1: float
    gflops: float | None


def read_published(configs: Path) -> dict[str, dict[str, Published]]:
    """Read the published steps of each regime, in their order, from the folder of the configs."""
    published: dict[str, dict[str, Published]] = {regime: {} for regime in REGIMES}
    for model in read_metafile(configs / 'roadmap' / METAFILE):
        _, regime, step = model.name.split('_', maxsplit=2)
        published[regime][step] = Published(float(model.scores['Top 1 Accuracy']), model.gflops)
    return published


def describe_change(regime: str, step: str) -> str:
    """Say in a few words what a step changes."""
    return CHANGES[step].format(**REGIMES[regime]._asdict())


def count_step(regime: str, step: str) -> Cost:
    """Count a step's classifier of 1000 classes, without allocating its weights."""
    with torch.device('meta'):
        model = ImageClassifier(dict(type='ModernizedResNet', regime=regime, step=step)).eval()
        return Cost(count_parameters(model), sum(count_multiply_adds(model, IMAGE).values()))
