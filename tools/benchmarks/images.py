"""Photographs a second through the image part of a detector's pipeline, with our decoder and with mmcv's own."""

import argparse
import statistics
import tempfile
from pathlib import Path
from types import SimpleNamespace

import cv2
import mmdet.datasets.transforms  # noqa: F401  # registers
from mmengine.dataset import Compose
from mmengine.registry import init_default_scope
from PIL import Image

from convnext_backbone.datasets.folders import find_images
from convnext_backbone.datasets.image_loading import guard_image_loading
from convnext_backbone.utils.errors import UserError

from .measuring import time_in_turns
from .report import Benchmark

_PIPELINE = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=(1333, 800), keep_ratio=True),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackDetInputs'),
]
_STEPS = dict(decoded=1, pipeline=len(_PIPELINE))  # how many of them


def _draw_images(folder: Path) -> None:
    """JPEG files of the size of COCO's: noise, blurred as photographs are."""
    for i in range(32):
        bands = [Image.effect_noise((640, 480), sigma=60).resize((320, 240)).resize((640, 480)) for _ in range(3)]
        Image.merge('RGB', bands).save(folder / f'{i:02}.jpg', quality=90)


def _make_pipeline(steps: int, ours: bool) -> Compose:
    dataset = SimpleNamespace(pipeline=Compose(_PIPELINE[:steps]))
    if ours:
        guard_image_loading(dataset)
    return dataset.pipeline


def _measure(args: argparse.Namespace) -> dict:
    """Time one core.

    Raises:
        UserError: The folder has no images.
    """
    cv2.setNumThreads(0)
    init_default_scope('mmdet')
    with tempfile.TemporaryDirectory() as name:
        folder = Path(args.data_root or name)
        if not args.data_root:
            _draw_images(folder)
        paths = [str(path) for path in sorted(folder.iterdir()) if find_images([path.name])]
        if not paths:
            raise UserError(f'--data-root {folder} has no images: name a folder of photographs.')
        rows = []
        for what, steps in _STEPS.items():
            pipelines = {'mmcv': _make_pipeline(steps, ours=False), 'ours': _make_pipeline(steps, ours=True)}

            def run(contender: str, pipelines: dict = pipelines) -> None:
                for i, path in enumerate(paths):
                    pipelines[contender](dict(img_path=path, img_id=i))

            runs = {contender: lambda contender=contender: run(contender) for contender in pipelines}
            times = time_in_turns(what, runs, args.repeat)
            rates = {contender: len(paths) / statistics.median(found) for contender, found in times.items()}
            rows += [
                dict(what=what, contender=contender, images_per_second=rate, ratio=rate / rates['mmcv'])
                for contender, rate in rates.items()
            ]
    return dict(images=len(paths), repeat=args.repeat, rows=rows)


IMAGES = Benchmark(
    "a detector's images from disk on one core, with our decoder and with mmcv's",
    {'--data-root': dict(metavar='DIR', help='a folder of images; by default some are drawn')},
    _measure,
)
