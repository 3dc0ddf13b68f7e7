"""Time and memory of a step of masked pre-training, compared with dense masked convolutions and supervised training."""

import argparse
import statistics
from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from convnext_backbone import ARCHS, ConvNeXtBlock, ImageClassifier, MaskedAutoencoder
from convnext_backbone.models.masked_autoencoder import Grid, take

from .measuring import conditions, device, measure_alone, parse_shape
from .models import DTYPES, autocast, make_images, measure_peaks, time_models
from .report import Benchmark

OURS, DENSE, SUPERVISED = 'ours', 'dense masked', 'supervised'


class DenseMasked(MaskedAutoencoder):
    """The usual form without sparse convolutions: whole maps, zeroed where they are masked, layer by layer."""

    def encode_patches(self, pixels: Tensor, visible: Tensor, grid: Grid) -> Tensor:
        """Features of the visible patches."""
        seen = torch.zeros(pixels.shape[:2], device=pixels.device).scatter(1, visible, 1.0).view(-1, 1, *grid)
        x = self._join(pixels, grid)
        for downsample, blocks in self.backbone.stage_modules():
            x = downsample(x)
            mask = F.interpolate(seen, scale_factor=x.shape[2] // grid[0]).contiguous(memory_format=torch.channels_last)
            x = x * mask
            for block in blocks:
                x = _run_masked(block, x, mask)
        return take(x.flatten(2).mT, visible)


def _run_masked(block: ConvNeXtBlock, x: Tensor, mask: Tensor) -> Tensor:
    """A block without stochastic depth; masked only where it matters, before GRN and at the end."""
    hidden = F.gelu(block.pwconv1(block.norm(block.dwconv(x).permute(0, 2, 3, 1))))
    if block.grn is not None:
        hidden = block.grn(hidden * mask.permute(0, 2, 3, 1))
    branch = block.pwconv2(hidden)
    branch = branch if block.gamma is None else block.gamma * branch
    return x + branch.permute(0, 3, 1, 2) * mask


def build(contender: str, arch: str) -> nn.Module:
    """A contender's model with random weights."""
    torch.manual_seed(0)
    backbone = dict(type='ConvNeXt', arch=arch, use_grn=True)
    kinds = {OURS: MaskedAutoencoder, DENSE: DenseMasked, SUPERVISED: ImageClassifier}
    return kinds[contender](backbone).to(device(), memory_format=torch.channels_last).train()


def run(model: nn.Module, images: Tensor, dtype: str = 'fp32') -> None:
    """A training step without that of the optimizer."""
    labels = torch.zeros(len(images), dtype=torch.long, device=images.device)
    with autocast(dtype):
        loss = model(images, labels=labels, mode='loss')['loss']
    loss.backward()


def _measure(args: argparse.Namespace) -> dict:
    shape = parse_shape(args.shape)
    results = []
    for arch in args.arch:
        makers: dict[str, Callable] = {name: partial(build, name, arch) for name in (OURS, DENSE, SUPERVISED)}
        step = partial(run, dtype=args.dtype)
        times = measure_alone(time_models, arch, makers, partial(make_images, shape), step, args.repeat)
        peaks = measure_peaks(makers, make_images, step, shape)
        rows = []
        for name in makers:
            # Ratios within a round: what else the machine does slows both.
            speedup = statistics.median(other / own for other, own in zip(times[name], times[OURS], strict=True))
            row = dict(contender=name, seconds=statistics.median(times[name]), fastest=min(times[name]))
            rows.append(row | dict(speedup=speedup, peak_mib=peaks[name], memory=peaks[OURS] / peaks[name]))
        results.append(dict(arch=arch, rows=rows))
    return dict(images=args.shape, dtype=args.dtype, **conditions(args.repeat), results=results)


PRETRAINING = Benchmark(
    'a step of masked pre-training, compared with dense masked convolutions and with supervised training',
    {
        '--arch': dict(nargs='+', choices=ARCHS, default=['atto', 'tiny']),
        '--shape': dict(default='32x224x224', metavar='NxHxW'),
        '--dtype': dict(choices=DTYPES, default='fp32', help='by autocast'),
    },
    _measure,
)
