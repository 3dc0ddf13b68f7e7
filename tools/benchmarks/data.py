"""Images a second that are read, augmented and normalized, compared with timm's own loader."""

import argparse
import statistics
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import timm.data
import torch
from mmengine.config import Config
from PIL import Image
from torch import Tensor

from convnext_backbone import ImagePreprocessor, ResumableRunner
from convnext_backbone.datasets.seeded_loader import SeededLoader
from convnext_backbone.datasets.timm_dataset import fix_posterize

from .measuring import device, time_in_turns
from .report import Benchmark

CONFIG = Path(__file__).parents[2] / 'configs/_base_/imagenet_classifier.py'
Batches = Callable[[], Iterator[Tensor]]


def _draw_images(folder: Path) -> None:
    """JPEG files of the size of ImageNet's (500x375, 110 KB): noise."""
    (folder / 'train/drawn').mkdir(parents=True)
    for i in range(512):
        bands = [Image.effect_noise((500, 375), sigma=40) for _ in range(3)]
        Image.merge('RGB', bands).save(folder / f'train/drawn/{i:04}.JPEG', quality=85)


def _our_loader(args: argparse.Namespace, folder: Path) -> Batches:
    """Batches as `tools/train.py` makes them with the recipe of ImageNet."""
    cfg = Config.fromfile(CONFIG)
    settings = dict(batch_size=args.batch_size, num_workers=args.workers, persistent_workers=args.workers > 0)
    cfg.train_dataloader.update(settings, pin_memory=torch.cuda.is_available())
    cfg.train_dataloader.dataset.update(data_root=str(folder))
    cfg.train_dataloader.dataset.transform.input_size = args.size
    loader = SeededLoader.wrap(ResumableRunner.build_dataloader(cfg.train_dataloader, seed=0), seed=0)
    preprocess = ImagePreprocessor(random_erasing=0.25).to(device())
    return lambda: (preprocess(batch, True)['inputs'] for batch in loader)


def _timm_loader(args: argparse.Namespace, folder: Path) -> Batches:
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
        device=device(),
    )
    fix_posterize(dataset.transform)  # or it stops at some image, with Pillow 13
    return lambda: (images for images, _ in loader)


def _measure(args: argparse.Namespace) -> dict:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(args.data_root or name)
        if not args.data_root:
            _draw_images(folder)
        passes = {'timm': _timm_loader(args, folder), 'ours': _our_loader(args, folder)}
        counts = {}

        def run(contender: str) -> None:
            counts[contender] = sum(len(batch) for batch in passes[contender]())

        times = time_in_turns('Rounds', {contender: partial(run, contender) for contender in passes}, args.repeat)
    rates = {contender: counts[contender] / statistics.median(found) for contender, found in times.items()}
    rows = [
        dict(contender=contender, images_per_second=rate, ratio=rate / rates['timm'])
        for contender, rate in rates.items()
    ]
    return dict(workers=args.workers, batch_size=args.batch_size, size=args.size, repeat=args.repeat, rows=rows)


DATA = Benchmark(
    "augmented images from disk, compared with timm's own loader",
    {
        '--data-root': dict(metavar='DIR', help='a folder with train/; by default images are drawn'),
        '--workers': dict(type=int, default=2),
        '--batch-size': dict(type=int, default=64),
        '--size': dict(type=int, default=224, help='pixels'),
    },
    _measure,
)
