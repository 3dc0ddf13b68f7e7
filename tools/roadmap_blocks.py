"""What a step from ResNet to ConvNeXt is made of, in words, beside another one."""

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


def name_layer(layer: nn.Module) -> str:
    """A layer in words."""
    if isinstance(layer, Pointwise):
        return f'1x1 conv, {layer.in_features} -> {layer.out_features}'
    if isinstance(layer, nn.Conv2d):
        side = layer.kernel_size[0]
        kind = 'depthwise conv' if layer.groups > 1 else 'conv'
        stride = f', stride {layer.stride[0]}' if layer.stride[0] > 1 else ''
        return f'{side}x{side} {kind}, {layer.in_channels} -> {layer.out_channels}{stride}'
    return NAMES[type(layer)]


def describe_block(block: ModernizedBlock) -> Iterator[str]:
    """Its layers, a line each."""
    for layer in block.layers:
        yield name_layer(block.get_submodule(layer))
    if block.gamma is not None:
        yield 'layer scale'
    projection = ', '.join(map(name_layer, block.shortcut.children()))
    yield f'+ shortcut: {projection}' if projection else '+ shortcut'
    if block.act_after_sum:
        yield name_layer(block.act)


def describe(regime: str, step: str) -> list[str]:
    """The model of a step as a reader of the paper sees it: stem, how the second stage starts, and its blocks."""
    with torch.device('meta'):
        model = ModernizedResNet(regime, step, out_norm=False)
    first, second = model.stages[1][0], model.stages[1][1]
    lines = [f'stages of {", ".join(map(str, model.depths))} blocks', 'stem:']
    lines += [f'  {name_layer(layer)}' for layer in model.downsample_layers[0]]
    lines.append('second stage:')
    lines += [f'  {name_layer(layer)}' for layer in model.downsample_layers[1].children()]
    lines += ['  first block:', *(f'    {line}' for line in describe_block(first))]
    return [*lines, '  other blocks:', *(f'    {line}' for line in describe_block(second))]


def print_side_by_side(regime: str, left: str, right: str) -> None:
    """Two steps in two columns; ``|`` marks lines that differ, ``<`` and ``>`` those of one of them."""
    columns = describe(regime, left), describe(regime, right)
    width = max(map(len, [left, *columns[0]]))
    print(f'{left:{width}}   {right}')
    for tag, i1, i2, j1, j2 in SequenceMatcher(None, *columns, autojunk=False).get_opcodes():
        for one, other in zip_longest(columns[0][i1:i2], columns[1][j1:j2]):
            mark = ' ' if tag == 'equal' else '>' if one is None else '<' if other is None else '|'
            print(f'{one or "":{width}} {mark} {other or ""}'.rstrip())
