"""The road from ResNet to ConvNeXt in numbers: what the paper says (tables 10 and 11), and what the steps cost."""

from typing import NamedTuple

import torch

from ..models.classifier import ImageClassifier
from ..models.modernized_resnet import REGIMES
from .complexity import Cost, count_multiply_adds, count_parameters

IMAGE = (224, 224)  # what the paper counts and scores at
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
    gflops: float


# ResNets by the recipe of all other steps; by that of 2015 they reach 76.13 and 78.20.
PUBLISHED = {
    'r50': {
        'original': Published(78.82, 4.09),
        'stage_ratio': Published(79.36, 4.53),
        'patchify_stem': Published(79.51, 4.42),
        'depthwise': Published(78.28, 2.35),
        'width': Published(80.50, 5.27),
        'inverted': Published(80.64, 4.64),
        'move_up': Published(79.92, 4.07),
        'kernel_5': Published(80.35, 4.10),
        'kernel_7': Published(80.57, 4.15),
        'kernel_9': Published(80.57, 4.21),
        'kernel_11': Published(80.47, 4.29),
        'gelu': Published(80.62, 4.15),
        'fewer_activations': Published(81.27, 4.15),
        'fewer_norms': Published(81.41, 4.15),
        'layer_norm': Published(81.47, 4.46),
        'separate_downsampling': Published(81.97, 4.49),
    },
    'r200': {
        'original': Published(81.14, 15.01),
        'stage_ratio': Published(81.33, 14.52),
        'patchify_stem': Published(81.59, 14.38),
        'depthwise': Published(80.54, 7.23),
        'width': Published(81.85, 16.76),
        'inverted': Published(82.64, 15.68),
        'move_up': Published(82.04, 14.63),
        'kernel_5': Published(82.32, 14.70),
        'kernel_7': Published(82.30, 14.81),
        'kernel_9': Published(82.27, 14.95),
        'kernel_11': Published(82.18, 15.13),
        'gelu': Published(82.19, 14.81),
        'fewer_activations': Published(82.71, 14.81),
        'fewer_norms': Published(83.17, 14.81),
        'layer_norm': Published(83.35, 14.81),
        'separate_downsampling': Published(83.60, 15.35),
    },
}


def describe_change(regime: str, step: str) -> str:
    """What a step changes, in a few words."""
    return CHANGES[step].format(**REGIMES[regime]._asdict())


def count_step(regime: str, step: str) -> Cost:
    """Parameters and multiply-adds of a step's classifier of 1000 classes, without memory for its weights."""
    with torch.device('meta'):
        model = ImageClassifier(dict(type='ModernizedResNet', regime=regime, step=step)).eval()
        return Cost(count_parameters(model), sum(count_multiply_adds(model, IMAGE).values()))
