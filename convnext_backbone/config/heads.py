"""The heads of a model that predict the classes of its data."""

import re
from collections.abc import Iterator
from typing import Any

from mmengine.config import Config

from ..utils.errors import UserError
from .check import walk

_HEAD = re.compile(r'\.(roi|bbox|mask|decode|auxiliary|query|panoptic|panoptic_fusion)_head(\.|$)')
_A_FEW = 0.1  # of the objects: masks that were forgotten, and no data of boxes
_WITHOUT_MASKS = ('StandardRoIHead', 'CascadeRoIHead')  # can do without a mask head


def find_heads(cfg: Config) -> Iterator[tuple[str, Any]]:
    """Iterate over the numbers of classes that heads predict, with their dotted names; in nested models, too."""
    for name, head, key in _walk_heads(cfg):
        if not head.get('num_stuff_classes'):
            yield f'{name}.{key}', head[key]


def _walk_heads(cfg: Config) -> Iterator[tuple[str, dict, str]]:
    for name, node in walk(cfg.get('model') or {}, 'model'):
        if isinstance(node, dict) and (name == 'model' or (_HEAD.search(name) and 'semantic_head' not in name)):
            yield from ((name, node, key) for key in ('num_classes', 'num_things_classes') if key in node)


def set_number_of_classes(cfg: Config, number: int) -> None:
    """Let all heads of a model predict so many classes, in place.

    Raises:
        UserError: It segments things and stuff at once, or a loss has a weight for each of other classes.
    """
    for name, head, key in [*_walk_heads(cfg)]:
        if head.get('num_stuff_classes'):
            raise UserError(
                f'{name} predicts stuff besides things (num_stuff_classes={head["num_stuff_classes"]}), which needs '
                f'panoptic annotations: use a config for instances or for semantic segmentation.'
            )
        losses = {part: value for part, value in head.items() if str(part).startswith('loss')}  # not of inner heads
        for place, loss in walk(losses, name):
            if isinstance(loss, dict) and isinstance(loss.get('class_weight'), (list, tuple)):
                loss['class_weight'] = _resize(loss['class_weight'], head[key], number, f'{place}.class_weight')
        head[key] = number


def _resize(weights: list[float], old: int, number: int, name: str) -> list[float]:
    """Weights of so many classes, where those of others were equal; what follows them is for the background."""
    if old == number:
        return weights
    if len({*weights[:old]}) > 1:
        raise UserError(
            f'{name} has a weight for each of {old} classes, but the data has {number} classes: leave it out, or set '
            f'one for each of them.'
        )
    return [*weights[:1] * number, *weights[old:]]


def leave_masks_out(cfg: Config, share: float, trains: bool) -> list[str]:
    """Let a detector of boxes and masks learn, or be tested on, boxes alone, in place.

    Args:
        cfg: Of the detector.
        share: Of the objects without a mask.
        trains: Whether it learns: then its mask head goes, which a checkpoint that is tested has.

    Returns:
        What a person should know.

    Raises:
        UserError: Without masks the model cannot learn, or only a few objects have none.
    """
    steps = [node for key in cfg for _, node in walk(cfg[key]) if isinstance(node, dict) and node.get('with_mask')]
    if not steps:
        return []
    head = cfg.model.get('roi_head') or {}
    if trains and head.get('type') not in _WITHOUT_MASKS:
        raise UserError(
            f'{cfg.filename} learns masks, but not all objects of the data have one: add them to the annotations, or '
            f'use a detector of boxes alone.'
        )
    if trains and share < _A_FEW and head.get('mask_head'):
        raise UserError(
            f'{100 * share:.2g} % of the objects have a box and no mask, which the mask head of {cfg.filename} cannot '
            f'learn from: add their masks, or learn boxes alone with --cfg-options model.roi_head.mask_head=None.'
        )
    for step in steps:
        step['with_mask'] = False
    for key in ('mask_head', 'mask_roi_extractor') if trains else ():
        head.pop(key, None)
    for split in ('val', 'test'):
        for _, metric in walk(cfg.get(f'{split}_evaluator')):
            if isinstance(metric, dict) and isinstance(metric.get('metric'), (list, tuple)):
                metric['metric'] = [name for name in metric['metric'] if name != 'segm']
    what = 'the mask head is left out, and boxes alone are learnt' if trains else 'boxes alone are evaluated'
    return [f'Not all objects have a mask: {what}.']
