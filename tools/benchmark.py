#!/usr/bin/env python
"""Measures speed and memory here, the contenders in turn.

tools/benchmark.py backbone --shapes 1x800x1216         # beside timm, torchvision and others that are installed
tools/benchmark.py detector --peers timm                # a training step of Cascade Mask R-CNN
tools/benchmark.py operators                            # mmcv's, ours beside compiled ones
tools/benchmark.py compile                              # whole models by torch.compile, in inference
tools/benchmark.py load --arch xlarge                   # a checkpoint into a backbone: time and peak memory
tools/benchmark.py data --data-root data/imagenet       # images a second, augmented and normalised
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import timm.data
import torch
from benchmark_compile import add_compile_arguments, benchmark_compile, print_compile
from benchmark_load import benchmark_load, print_load
from benchmark_models import add_arguments, benchmark_backbone, benchmark_detector
from benchmark_operators import add_operator_arguments, benchmark_operators, print_operators
from benchmark_pictures import draw_models, print_models
from mmengine.config import Config
from mmengine.device import get_device
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from convnext_backbone import ARCHS, ImagePreprocessor, ResumableRunner
from convnext_backbone.datasets.seeded_loader import SeededLoader
from convnext_backbone.datasets.timm_dataset import fix_posterize
from convnext_backbone.utils.cli import user_errors


def draw_photographs(folder: Path, number: int = 512) -> None:
    """Writes JPEG files of the size of ImageNet's (500x375, 110 KB): noise on a coarse pattern."""
    rng = np.random.default_rng(0)
    (folder / 'train/drawn').mkdir(parents=True)
    for i in range(number):
        coarse = Image.fromarray(rng.integers(0, 256, (12, 16, 3), np.uint8)).resize(
            (500, 375), Image.Resampling.BICUBIC
        )
        noisy = np.asarray(coarse).astype(np.int16) + rng.integers(-24, 25, (375, 500, 3))
        Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(folder / f'train/drawn/{i:04}.JPEG', quality=85)


def our_loader(args: argparse.Namespace, folder: Path) -> Callable[[], Iterator[Tensor]]:
    """Passes over normalised batches, as `tools/train.py` makes them with the recipe of ImageNet."""
    cfg = Config.fromfile(Path(__file__).parents[1] / 'configs/_base_/imagenet_classifier.py')
    settings = dict(batch_size=args.batch_size, num_workers=args.workers, persistent_workers=args.workers > 0)
    cfg.train_dataloader.update(settings, pin_memory=torch.cuda.is_available())
    cfg.train_dataloader.dataset.update(data_root=str(folder))
    cfg.train_dataloader.dataset.transform.input_size = args.size
    loader = SeededLoader.wrap(ResumableRunner.build_dataloader(cfg.train_dataloader, seed=0), seed=0)
    preprocess = ImagePreprocessor(random_erasing=0.25).to(get_device())
    return lambda: (preprocess(batch, True)['inputs'] for batch in loader)


def timm_loader(args: argparse.Namespace, folder: Path) -> Callable[[], Iterator[Tensor]]:
    """The same by timm's own loader."""
    dataset = timm.data.ImageDataset(str(folder / 'train'))
    loader = timm.data.create_loader(
        dataset,
        input_size=(3, args.size, args.size),
        batch_size=args.batch_size,
        is_training=True,
        auto_augment='rand-m9-mstd0.5-inc1',
        interpolation='bicubic',
        re_prob=0.25,
        re_mode='pixel',
        num_workers=args.workers,
        persistent_workers=args.workers > 0,
        pin_memory=torch.cuda.is_available(),
        device=torch.device(get_device()),
    )
    fix_posterize(dataset.transform)  # or it stops at some image, with Pillow 13
    return lambda: (images for images, _ in loader)


def benchmark_data(args: argparse.Namespace) -> dict:
    """Images a second of whole passes over the data, after one to warm up."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(args.data_root or name)
        if not args.data_root:
            draw_photographs(folder)
        passes = {'timm': timm_loader(args, folder), 'ours': our_loader(args, folder)}
        rates: dict[str, list[float]] = {contender: [] for contender in passes}
        for turn in tqdm(range(args.repeat + 1), desc='Rounds'):
            for contender, batches in passes.items():
                start = time.perf_counter()
                images = sum(len(batch) for batch in batches())
                if turn:
                    rates[contender].append(images / (time.perf_counter() - start))
    rows = [dict(contender=contender, images_per_second=statistics.median(found)) for contender, found in rates.items()]
    return dict(workers=args.workers, batch_size=args.batch_size, size=args.size, repeat=args.repeat, rows=rows)


def print_data(result: dict) -> None:
    """As a table."""
    print(f'{result["workers"]} workers, {result["size"]} pixels; medians of {result["repeat"]}')
    print(f'{"":12}{"images/s":>10}{"ratio":>8}')
    for row in result['rows']:
        ratio = row['images_per_second'] / result['rows'][0]['images_per_second']
        print(f'{row["contender"]:12}{row["images_per_second"]:10.1f}{ratio:8.2f}')


@user_errors
def main() -> None:
    """Measures."""
    parser = argparse.ArgumentParser(description='Measure speed and memory on this machine (Linux).')
    commands = parser.add_subparsers(required=True, metavar='WHAT')
    backbone = commands.add_parser('backbone', help='the backbone, beside those of other packages')
    backbone.set_defaults(measure=benchmark_backbone, show=print_models)
    detector = commands.add_parser('detector', help="a detector's training step, beside those with other backbones")
    detector.set_defaults(measure=benchmark_detector, show=print_models)
    add_arguments(backbone, detector)
    operators = commands.add_parser('operators', help="mmcv's operators, ours beside the compiled ones")
    add_operator_arguments(operators)
    operators.set_defaults(measure=benchmark_operators, show=print_operators)
    compiled = commands.add_parser('compile', help='what torch.compile makes of whole models in inference')
    add_compile_arguments(compiled)
    compiled.set_defaults(measure=benchmark_compile, show=print_compile)
    load = commands.add_parser('load', help='a checkpoint into a backbone')
    load.add_argument('--arch', choices=ARCHS, default='xlarge', help='(default: %(default)s)')
    load.add_argument('--dir', help='a folder for the files; default is that of temporary files')
    load.set_defaults(measure=benchmark_load, show=print_load)
    data = commands.add_parser('data', help="augmented images from disk, beside timm's own loader")
    data.add_argument('--data-root', metavar='DIR', help='a folder with train/; by default images are drawn')
    data.add_argument('--workers', type=int, default=2, help='(default: %(default)s)')
    data.add_argument('--batch-size', type=int, default=64, help='(default: %(default)s)')
    data.add_argument('--size', type=int, default=224, help='pixels (default: %(default)s)')
    data.set_defaults(measure=benchmark_data, show=print_data)
    for command in (backbone, detector, operators, compiled, load, data):
        command.add_argument('--repeat', type=int, default=5, help='runs of each contender (default: %(default)s)')
        command.add_argument('--json', action='store_true', help='print the figures as json')
    args = parser.parse_args()
    result = args.measure(args)
    if args.json:
        print(json.dumps(result, indent=2))
    else:
        args.show(result)
    if getattr(args, 'out', None):
        draw_models(result, args.out)


if __name__ == '__main__':
    sys.exit(main())
