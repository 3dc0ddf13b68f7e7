"""The layers of a step from ResNet to ConvNeXt in words, side by side with another step."""

from collections.abc import Iterator
from difflib import SequenceMatcher
from itertools import zip_longest

import torch
from torch import nn

from convnext_backbone import ModernizedResNet
from convnext_backbone.models.layers import LayerNorm2d
from convnext_backbone.models.modernized_resnet import ModernizedBlock, Pointwise

NAMES = {
    nn.BatchNorm2d: 'batch norm',
    LayerNorm2d: 'LayerNorm',
    nn.ReLU: 'ReLU',
    nn.GELU: 'GELU',
    nn.MaxPool2d: '3x3 max pooling, stride 2',
}


def _name(layer: nn.Module) -> str:
    if isinstance(layer, Pointwise):
        return f'1x1 conv, {layer.in_features} -> {layer.out_features}'
    if isinstance(layer, nn.Conv2d):
        side = layer.kernel_size[0]
        kind = 'depthwise conv' if layer.groups > 1 else 'conv'
        stride = f', stride {layer.stride[0]}' if layer.stride[0] > 1 else ''
        return f'{side}x{side} {kind}, {layer.in_channels} -> {layer.out_channels}{stride}'
    return NAMES[type(layer)]


def _describe_block(block: ModernizedBlock) -> Iterator[str]:
    for layer in block.layers:
        yield _name(block.get_submodule(layer))
    if block.gamma is not None:
        yield 'layer scale'
    projection = ', '.join(map(_name, block.shortcut.children()))
    yield f'+ shortcut: {projection}' if projection else '+ shortcut'
    if block.act_after_sum:
        yield _name(block.act)


def _describe(regime: str, step: str) -> list[str]:
    """Lines on the stem, the downsampling before the second stage, and the blocks of that stage."""
    with torch.device('meta'):
        model = ModernizedResNet(regime, step, out_norm=False)
    stem, downsampling = model.downsample_layers[:2]
    lines = [f'stages of {", ".join(map(str, model.depths))} blocks']
    lines += ['stem:', *(f'  {_name(layer)}' for layer in stem)]
    lines += ['second stage:', *(f'  {_name(layer)}' for layer in downsampling.children())]
    for title, block in zip(('first block', 'other blocks'), model.stages[1], strict=False):
        lines += [f'  {title}:', *(f'    {line}' for line in _describe_block(block))]
    return lines


def print_side_by_side(regime: str, left: str, right: str) -> None:
    """Print two steps in two columns; ``|`` marks lines that differ, ``<`` and ``>`` those of one of them."""
    columns = _describe(regime, left), _describe(regime, right)
    width = max(map(len, [left, *columns[0]]))
    print(f'{left:{width}}   {right}')
    for tag, i1, i2, j1, j2 in SequenceMatcher(None, *columns, autojunk=False).get_opcodes():
        for one, other in zip_longest(columns[0][i1:i2], columns[1][j1:j2]):
            mark = ' ' if tag == 'equal' else '>' if one is None else '<' if other is None else '|'
            print(f'{one or "":{width}} {mark} {other or ""}'.rstrip())
