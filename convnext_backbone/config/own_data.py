"""``--data-root``: a user's folder in the place of the data that a config is for."""

import argparse
import copy
import math
import os
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from mmengine.config import Config

from ..datasets.classification_layouts import find_classification
from ..datasets.coco_format import CocoProblem, read_coco
from ..datasets.detection_layouts import find_detection
from ..datasets.image_mask_pairs import list_stems, read_stems
from ..datasets.layouts import Layout
from ..datasets.segmentation_layouts import find_segmentation
from ..datasets.unlabelled_layouts import find_unlabelled
from ..utils.cli import tell
from ..utils.errors import UserError, printable
from .check import DATALOADERS, walk
from .dataset_types import SPLITS, all_datasets, name_datasets, reads_coco
from .heads import leave_masks_out, set_number_of_classes
from .known_data import is_data_of_config
from .recipes import task_of

FINDERS: Mapping[str, Callable[..., Layout]] = dict(
    detection=find_detection,
    segmentation=find_segmentation,
    classification=find_classification,
    pretraining=find_unlabelled,
)


class Annotations(NamedTuple):
    """Which annotations of a folder are used, where its files do not say so.

    Attributes:
        train_ann: The file or folder to train on, relative to the folder.
        val_ann: That to validate on.
        val_split: The part of the images to validate on, where no others are for it.
    """

    train_ann: str | None = None
    val_ann: str | None = None
    val_split: float | None = None


def add_annotation_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags of :class:`Annotations`."""
    group = parser.add_argument_group('data of your own', 'where its files do not say it')
    group.add_argument('--train-ann', metavar='PATH', help='the annotations to train on, below the folder of the data')
    group.add_argument('--val-ann', metavar='PATH', help='the annotations to validate on')
    part = 'the part of the images to validate on, where no others are for it (default 0.2; without labels 0.05)'
    group.add_argument('--val-split', type=float, metavar='X', help=part)


def replace_data_root(cfg: Config, data_root: str | os.PathLike) -> None:
    """Let data sets and evaluators read the files of another folder, in place."""
    new = str(data_root).rstrip('/') + '/'
    roots = {str(dataset['data_root']).rstrip('/') for dataset in all_datasets(cfg) if dataset.get('data_root')}
    old = '/'.join(os.path.commonprefix([root.split('/') for root in roots]))
    if len(roots) > 1 and not old:
        raise UserError(
            f'--data-root takes the place of one folder, but {cfg.filename} has several without a common one: '
            f'{printable(", ".join(sorted(roots)))}; set data_root of each data set instead.'
        )

    def moved(node: Any) -> Any:
        if isinstance(node, dict):
            node.update({key: moved(value) for key, value in node.items()})
        elif isinstance(node, (list, tuple)):
            return type(node)(moved(item) for item in node)
        elif isinstance(node, str):
            return new + node[len(old) :].lstrip('/') if roots and f'{node}/'.startswith(f'{old}/') else node
        return node

    for part in (*DATALOADERS, 'val_evaluator', 'test_evaluator', 'data_root'):
        if part in cfg:
            cfg[part] = moved(cfg[part])


def use_own_data(cfg: Config, root: str, annotations: Annotations, trains: bool = True) -> Layout | None:
    """Recognise the layout of a folder, and put its splits and classes into data sets, evaluators and heads.

    A folder with the files and the classes that the config is for, such as COCO's, is left to it: the config is not
    changed. So is one that does not exist, of which the check of the data tells.

    Args:
        cfg: With ``root`` as its data folder; changed in place.
        root: The folder. Nothing is written into it: the lists of a split and the like go to the config's work_dir.
        annotations: What the user chose.
        trains: Whether the model learns from it; else it has a checkpoint.

    Returns:
        What the folder holds, if it was recognised.

    Raises:
        UserError: No layout fits the folder, or its classes do not fit the model.
    """
    if not Path(root).is_dir() or (annotations == Annotations() and is_data_of_config(cfg)):
        return None
    # A folder for each choice: a run that is refused later must not overwrite the lists of an earlier one.
    chosen = zlib.crc32(repr((os.path.abspath(root), annotations)).encode(errors='replace'))
    out_dir = Path(cfg.work_dir, 'data', f'{Path(root).resolve().name}-{chosen:08x}')
    whole = os.path.abspath(root)  # so that the config of the run serves from any folder
    layout = FINDERS[task_of(cfg)](Path(whole), out_dir, *annotations)
    notes = [*layout.notes, *_apply(cfg, layout, whole, trains)]
    tell(f'{printable(root)}: {layout}', *notes)
    return layout


def _apply(cfg: Config, layout: Layout, root: str, trains: bool) -> list[str]:
    """Put a layout into a config; returns what a person should know."""
    for split in SPLITS:
        settings = {'data_root': root, **(layout.splits.get(split) or layout.splits['val'])}
        _set_datasets(cfg, split, settings, layout)
        _set_evaluators(cfg, split, settings)
    set_number_of_classes(cfg, len(layout.classes))
    return leave_masks_out(cfg, layout.without_mask, trains) if layout.without_mask else []


def _set_datasets(cfg: Config, split: str, settings: dict, layout: Layout) -> None:
    found = [*name_datasets(cfg, split)]
    if len(found) > 1:
        names = ', '.join(name for name, _ in found)
        raise UserError(
            f'{cfg.filename} has several data sets ({names}), and --data-root {printable(settings["data_root"])} is '
            f'none of them: set data_root, ann_file and metainfo.classes of each in a config of your own.'
        )
    for _, dataset in found:
        for key in ('indices', 'reader', 'class_map', 'ann_file', 'metainfo'):
            dataset.pop(key, None)
        if task_of(cfg) == 'detection' and not reads_coco(dataset, cfg.get('default_scope')):
            dataset['type'] = 'CocoDataset'
        if task_of(cfg) in ('detection', 'segmentation'):  # the data sets of others name the classes by themselves
            dataset['metainfo'] = dict(classes=layout.classes)
            if layout.palette:
                dataset['metainfo']['palette'] = [[*colour] for colour in layout.palette]
        dataset.update(copy.deepcopy(settings))


def _set_evaluators(cfg: Config, split: str, settings: Mapping[str, Any]) -> None:
    """Let metrics that read an annotation file read that of the data."""
    for _, metric in walk(cfg.get(f'{split}_evaluator')):
        if isinstance(metric, dict) and metric.get('ann_file'):
            metric['ann_file'] = str(Path(settings['data_root'], settings['ann_file']))


def count_images(cfg: Config) -> int | None:
    """Count the images that the config's training data has; None where that takes more than to list its files."""
    numbers = []
    for _, dataset in name_datasets(cfg, 'train'):
        root, prefix = Path(dataset.get('data_root') or '.'), dataset.get('data_prefix') or {}
        ann_file = root / (dataset.get('ann_file') or '')
        try:
            if ann_file.suffix == '.json':
                numbers.append(len(read_coco(ann_file).images))
            elif ann_file.is_file():
                numbers.append(len(read_stems(str(ann_file))))
            else:
                numbers.append(len(list_stems(str(root / prefix['img_path']))))
        except (OSError, CocoProblem, LookupError, TypeError):
            return None
    return sum(numbers) or None


def count_repeats(cfg: Config) -> int:
    """Count how often an epoch of the training data has each image."""
    repeated = (node for _, node in walk(cfg.train_dataloader) if isinstance(node, dict))
    return math.prod(node['times'] for node in repeated if node.get('type') == 'RepeatDataset')
