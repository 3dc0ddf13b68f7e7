"""Whether a folder holds the data that a config is for."""

import contextlib
import os
from pathlib import Path

from mmengine.config import Config

from ..datasets.class_files import find_class_files
from ..datasets.coco_format import CocoProblem, read_coco
from .dataset_types import all_datasets, find_classes
from .recipes import task_of

_CLASSES = 1000  # of ImageNet-1K


def is_data_of_config(cfg: Config) -> bool:
    """Whether the files that a config names are there, with the classes that it is for.

    Also if some of the files are missing, of which the check of the data tells.
    """
    datasets = all_datasets(cfg)
    if not datasets or any(dataset.get('reader') or 'shards' in dataset for dataset in datasets):
        return True
    task = task_of(cfg)
    if task == 'classification':
        return _has_class_folders(datasets[0], cfg.model.get('num_classes'))
    if task == 'pretraining':  # whose recipes are for ImageNet-1K, or lists that an earlier run has written
        return bool(datasets[0].get('ann_file')) or _has_class_folders(datasets[0], _CLASSES)
    there = [path for dataset in datasets if os.path.exists(path := _annotations(dataset))]
    if len(there) < len(datasets) or any('classes' in (dataset.get('metainfo') or {}) for dataset in datasets):
        return bool(there)
    classes = {*(find_classes(datasets[0], cfg.get('default_scope')) or ())}
    if task == 'segmentation':
        # ADE20K's own list, which has other words for its classes, is none of other classes.
        lists = find_class_files([Path(datasets[0].get('data_root') or '.')])
        return all(path.stem == 'objectInfo150' for path in lists)
    with contextlib.suppress(OSError, CocoProblem):  # of which the check tells
        smallest = min(there, key=os.path.getsize)
        return classes <= {category.name for category in read_coco(Path(smallest)).entries('categories')}
    return True


def _annotations(dataset: dict) -> str:
    """The path of a data set's annotation file, or of its folder of masks."""
    place = dataset.get('ann_file') or (dataset.get('data_prefix') or {}).get('seg_map_path', '')
    return os.path.join(dataset.get('data_root') or '.', place)


def _has_class_folders(dataset: dict, number: int | None) -> bool:
    folder = Path(dataset.get('data_root') or '.', dataset.get('data_prefix') or '')
    if dataset.get('class_map') or not folder.exists():
        return bool(dataset.get('class_map'))
    inside = [path for path in folder.iterdir() if not path.name.startswith('.') and path.name != '__MACOSX']
    return any(path.suffix == '.tar' for path in [folder, *inside]) or sum(map(Path.is_dir, inside)) == number
