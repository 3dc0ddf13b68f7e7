"""Whether the COCO annotation files of a run are valid, leave something to learn from, and are those evaluated."""

import os
from pathlib import PurePath

from mmengine.config import Config

from ..datasets.coco_check import CocoContent, check_coco
from ..datasets.coco_format import read_utf8
from ..utils.cli import is_first_process, tell
from ..utils.errors import UserError, printable
from .check import walk
from .dataset_types import find_classes, name_datasets, reads_coco


def check_annotations(cfg: Config, split: str) -> None:
    """Check the annotation files of a split in the first process; make pycocotools read UTF-8 in all.

    What a data set leaves out of the images and objects to train on is said.

    Raises:
        UserError: A file is invalid, no image or no annotation of it is left, or others are evaluated.
    """
    scope = cfg.get('default_scope')
    datasets = dict(name_datasets(cfg, split))
    coco = {name: one for name, one in datasets.items() if one.get('ann_file') and reads_coco(one, scope)}
    if not coco:
        return
    read_utf8()
    if cfg.get('launcher', 'none') != 'none' and not is_first_process():  # COCO's training file takes seconds
        return
    contents = {name: check_coco(dataset, find_classes(dataset, scope)) for name, dataset in coco.items()}
    for name, content in contents.items():
        if content.dropped.total() == len(content.images):
            raise UserError(f'{name} has no image left: {content.describe_loss()}; correct the file or filter_cfg.')
    if split != 'train':
        _check_evaluators(cfg, split, coco, contents)
        return
    if len(coco) == len(datasets):
        _require_annotation(contents, 'to train on', 'name other classes')
    lost = [one.describe_loss() for one in contents.values() if one.dropped or one.left_out]
    if lost:
        tell('Not trained on:', *lost)


def _require_annotation(contents: dict[str, CocoContent], purpose: str, remedy: str) -> None:
    name, content = next(iter(contents.items()))
    if not any(one.used for one in contents.values()):
        raise UserError(
            f'{name} has no annotation {purpose}: {content.describe_loss()}; correct the file, or {remedy}.'
        )


def _check_evaluators(cfg: Config, split: str, datasets: dict[str, dict], contents: dict[str, CocoContent]) -> None:
    listed = [_listed_images(datasets[name], content) for name, content in contents.items()]
    together = {key: name for images in listed for key, name in images.items()}
    known = {os.path.realpath(content.path): content for content in contents.values()}
    first = next(iter(datasets.values()))
    for name, metric in walk(cfg.get(f'{split}_evaluator'), f'{split}_evaluator'):
        kind = metric.get('type') if isinstance(metric, dict) else None
        if not str(getattr(kind, '__name__', kind)).endswith('CocoMetric') or metric.get('format_only'):
            continue  # test data of challenges has no annotations
        evaluated, path = contents, metric.get('ann_file')
        if path:
            content = known.get(os.path.realpath(path)) or check_coco(
                {**first, 'data_root': '', 'ann_file': path, 'test_mode': True},
                find_classes(first, cfg.get('default_scope')),
            )
            evaluated = {name: content}
            images = _listed_images({}, content)
            if images not in (*listed, together):
                raise UserError(
                    f'{name}.ann_file={printable(repr(path))} lists other images than {", ".join(datasets)}, so that '
                    f'scores would be wrong: {_difference(images, together)}; name the annotation file of the data, or '
                    f'leave {name}.ann_file out.'
                )
        _require_annotation(evaluated, 'to evaluate', 'only write results by format_only and outfile_prefix')


def _listed_images(dataset: dict, content: CocoContent) -> dict[float | str, str]:
    """Names of the images that a data set takes from its file, without folders, by id."""
    images = [(key, PurePath(name).name) for key, name in content.images.items()]
    chosen = dataset.get('indices')
    if isinstance(chosen, int):
        images = images[:chosen] if chosen >= 0 else images[chosen:]
    elif chosen is not None:
        images = [images[index] for index in chosen]
    return dict(images)


def _difference(one: dict[float | str, str], other: dict[float | str, str]) -> str:
    key = next(key for key in {**one, **other} if one.get(key) != other.get(key))
    there, here = (printable(images[key]) if key in images else 'missing' for images in (one, other))
    return f'image {printable(repr(key))} is {there} there and {here} in the data'
