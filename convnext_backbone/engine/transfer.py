"""Start of a run from the weights of another: its heads begin anew where the classes are others, or it had none."""

import re
from collections import Counter
from collections.abc import Collection, Mapping
from typing import Any

from mmengine.config import ConfigDict
from mmengine.registry import MODELS
from torch import nn

from ..utils.errors import printable
from ..weights.dataset_meta import dataset_classes
from ..weights.load_model import load_all_but, own_tensors

_HEAD = re.compile(r'.*_head(?:\.\d+)?(?=\.)|[^.]+')
_ADDED = re.compile(r'.*\b(?:mask|auxiliary)_head\.')  # to a model that predicts without it


def start_from(
    model: nn.Module, settings: Mapping | None, checkpoint: dict, source: str, dataset: Any, revise_keys: list
) -> list[str]:
    """Fill a model with the weights of another, all but what predicts its classes if those of the data are others.

    Classes are others if their names or the order of these differ. Where the checkpoint names none they are
    taken to be those of the data if their number is the same. A mask head or an auxiliary head starts anew, too, if the
    checkpoint has none.

    Args:
        model: Detector or segmentor.
        settings: Its config; None if it is not known, and then what predicts classes must fit.
        checkpoint: What :func:`.read_state` returned.
        source: Path or address, for errors.
        dataset: Of the training, with ``metainfo``.
        revise_keys: As of :func:`.load_model`.

    Returns:
        What a person should know, in sentences.

    Raises:
        CheckpointMismatch: A tensor of the model would not be filled that does not depend on its classes.
    """
    theirs = [*(dataset_classes(checkpoint, source) or ())]
    ours = [printable(str(name)) for name in (getattr(dataset, 'metainfo', None) or {}).get('classes') or ()]
    fresh: dict[str, Any] = {}
    own, stored = own_tensors(model), checkpoint.get('state_dict', checkpoint)
    there = {match[0] for name in stored if (match := _ADDED.match(name))}
    added = {name for name in own if (match := _ADDED.match(name)) and not any(one.endswith(match[0]) for one in there)}
    if theirs != ours and settings is not None:
        more = own_tensors(MODELS.build(ConfigDict(_with_another_class(settings))))
        other = (name for name in own if name in more and more[name].shape != own[name].shape)
        fresh = {name: own[name] for name in other if name not in added}
        if not (theirs and ours) and all(getattr(stored.get(name), 'shape', 0) == fresh[name].shape for name in fresh):
            fresh = {}
    left = load_all_but(model, checkpoint, source, {*fresh, *added}, revise_keys)
    told = [f'The checkpoint has no weights for {_count(added)}: they start anew.'] if added else []
    if fresh:
        told.append(f'{_describe(theirs, ours)} What predicts them starts anew: {_count(fresh)}.')
    elif ours and not theirs:
        told.append('The checkpoint names no classes: they are taken to be those of the data.')
    if unknown := [name for name in left if name not in fresh]:
        told.append(f'The model has no place for {_count(unknown)} of the checkpoint.')
    return told


def _with_another_class(node: Any) -> Any:
    """Settings with a class more: of such a model, what predicts classes has another shape."""
    if isinstance(node, Mapping):
        new = {key: _with_another_class(value) for key, value in node.items()}
        numbers = {key: node[key] + 1 for key in ('num_classes', 'num_things_classes') if node.get(key)}
        # As mmseg demands of its heads.
        if 'num_classes' in node and node.get('out_channels') in (1, node['num_classes']):
            numbers['out_channels'] = node['num_classes'] + 1
        return new | numbers
    return type(node)(map(_with_another_class, node)) if isinstance(node, (list, tuple)) else node


def _describe(theirs: list[str], ours: list[str]) -> str:
    if not (theirs and ours):
        return f'The {"data" if theirs else "checkpoint"} names no classes, and what predicts them does not fit.'
    if sorted(theirs) == sorted(ours):
        return 'The classes of the checkpoint are in another order than those of the data.'
    return f'The {len(theirs)} classes of the checkpoint are others than the {len(ours)} of the data.'


def _count(names: Collection[str]) -> str:
    """Tensors by head: ``6 tensors (roi_head.bbox_head: 4, roi_head.mask_head: 2)``."""
    heads = Counter(match[0] for name in names if (match := _HEAD.match(name)))
    return f'{len(names)} tensors ({", ".join(f"{printable(head)}: {number}" for head, number in heads.items())})'
