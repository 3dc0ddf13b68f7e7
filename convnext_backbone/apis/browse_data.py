"""Pictures of the data a model is trained on: images after augmentation, with their annotations."""

import itertools
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from mmengine.config import Config
from mmengine.model import BaseDataPreprocessor
from mmengine.registry import init_default_scope
from mmengine.structures import BaseDataElement
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from ..config.recipes import task_of
from ..datasets.class_names import describe_class, imagenet_classes
from ..datasets.seeded_loader import SeededLoader
from ..engine.runner import ResumableRunner
from ..engine.seed import IterationSeedHook
from ..utils.errors import UserError
from ..visualization.legend import Entry, add_bars, add_legend
from ..visualization.overlays import draw_classes
from .builders import build_visualizer
from .model_inputs import build_preprocessor, dataset_with_pipeline, denormalize, loads_annotations


def browse(cfg: Config, split: str, number: int) -> Iterator[np.ndarray]:
    """Draw the first samples of a run, as its model gets them.

    Those of training equal the samples of a run in one process with the config's ``randomness.seed``, or 0, in order,
    augmentation and mixing; those of shards equal the samples of a run without workers.

    Args:
        cfg: The config of the run.
        split: ``'train'``, with augmentation, or ``'val'``.
        number: The most samples.

    Yields:
        A picture of each sample, (H, W, 3): boxes, masks and classes of objects; a segmentation overlay; a bar chart of
        the class labels; or the image alone, where it has no labels.

    Raises:
        UserError: The config has no such data, or is for another task.
    """
    init_default_scope(cfg.get('default_scope', 'mmdet'))
    draw = _DRAW[task_of(cfg)]
    preprocessor = build_preprocessor(cfg)
    seed = (cfg.get('randomness') or {}).get('seed') or 0
    loader = build_loader(cfg, split, seed)
    dataset: Any = loader.dataset
    pictures = (
        picture
        for batch in feed(loader, preprocessor, seed, training=split == 'train')
        for picture in draw(denormalize(batch['inputs'], preprocessor), batch, dataset.metainfo, cfg)
    )
    yield from itertools.islice(pictures, number)


def build_loader(cfg: Config, split: str, seed: int) -> DataLoader:
    """Build the data loader of a run, without workers.

    For validation the annotations are loaded before the image is resized instead of after, to fit the model input.

    Raises:
        UserError: The config has no such data.
    """
    settings = cfg.get(f'{split}_dataloader')
    if not settings:
        raise UserError(f'The config has no {split}_dataloader: choose another --split.')
    settings = {**settings, 'num_workers': 0, 'persistent_workers': False}
    settings.pop('prefetch_factor', None)
    if split == 'val' and task_of(cfg) in ('detection', 'segmentation'):
        dataset = dataset_with_pipeline(settings['dataset'])
        load, *steps = dataset['pipeline']
        dataset['pipeline'] = [load, *sorted(steps, key=lambda step: not loads_annotations(step))]
    loader = ResumableRunner.build_dataloader(settings, seed=seed)
    wrapped = split == 'train' and not isinstance(loader.dataset, IterableDataset)
    return SeededLoader.wrap(loader, seed) if wrapped else loader


def feed(loader: DataLoader, preprocessor: BaseDataPreprocessor, seed: int, training: bool) -> Iterator[dict]:
    """Preprocess the batches of a loader as a run with that seed does; other keys of the batches are kept."""
    run: Any = SimpleNamespace(train_dataloader=loader, seed=seed, epoch=0, iter=0)
    seeds = IterationSeedHook()
    if training:
        seeds.before_train_epoch(run)
    for run.iter, batch in enumerate(loader):
        if training:
            seeds.before_train_iter(run, run.iter)
        yield {**batch, **preprocessor(batch, training)}


def _draw_objects(images: np.ndarray, batch: dict, meta: dict, cfg: Config) -> Iterator[np.ndarray]:
    from mmdet.visualization.palette import get_palette

    colours = get_palette(meta.get('palette'), len(meta['classes']))
    visualizer = build_visualizer(cfg, meta)
    for image, sample in zip(images, batch['data_samples'], strict=True):
        objects = sample.gt_instances
        if 'masks' in objects:
            objects.masks = objects.masks.pad(image.shape[:2])
        visualizer.add_datasample('', image, sample, draw_pred=False)
        found = Counter(objects.get('labels', np.zeros(0)).tolist())
        entries = [Entry(f'{count} {meta["classes"][label]}', colours[label]) for label, count in sorted(found.items())]
        yield add_legend(visualizer.get_image(), entries, _describe(image, sample))


def _draw_masks(images: np.ndarray, batch: dict, meta: dict, cfg: Config) -> Iterator[np.ndarray]:
    for image, sample in zip(images, batch['data_samples'], strict=True):
        ids = sample.gt_sem_seg.data[0].cpu().numpy()
        yield draw_classes(image, ids, meta['classes'], meta['palette'], _describe(image, sample))


def _describe(image: np.ndarray, sample: BaseDataElement) -> str:
    ignored = len(sample.get('ignored_instances', ()))
    size = f'{image.shape[1]} x {image.shape[0]} pixels'
    return f'{Path(sample.get("img_path", "")).name}\n{size}' + (f', ignored objects: {ignored}' if ignored else '')


def _draw_labels(images: np.ndarray, batch: dict, meta: dict, cfg: Config) -> Iterator[np.ndarray]:
    names = meta['classes'] or imagenet_classes(cfg.model.num_classes)
    for image, label in zip(images, batch['labels'], strict=True):
        yield add_bars(image, label_parts(label, names, cfg.model.get('label_smoothing', 0.0)))


def _draw_nothing(images: np.ndarray, batch: dict, meta: dict, cfg: Config) -> Iterator[np.ndarray]:
    yield from images


_DRAW = dict(detection=_draw_objects, segmentation=_draw_masks, classification=_draw_labels, pretraining=_draw_nothing)


def label_parts(label: Tensor, names: Sequence[str], smoothing: float = 0.0) -> list[tuple[str, float]]:
    """List the classes of a label with their shares, which sum to 1, the largest first.

    Args:
        label: A class id, (), or soft targets, (num_classes,).
        names: Of the classes.
        smoothing: Label smoothing of the soft targets; listed as one share of all classes.
    """
    if label.ndim == 0:
        return [(describe_class(names[int(label)]) if label >= 0 else 'unreadable', 1.0)]
    own = (label - smoothing / len(label)).clamp(min=0)
    shown = [i for i in own.argsort(descending=True).tolist() if own[i] > 1e-4]
    parts = [(describe_class(names[i]), float(own[i])) for i in shown]
    return parts + ([('spread over all classes', smoothing)] if smoothing else [])
