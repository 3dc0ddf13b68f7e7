"""Settings that would silently do something else than they say: each is refused in one sentence that names it."""

import re
from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from mmengine.config import Config

from ..utils.errors import ArgumentError
from ..utils.validation import COUNT, FLAG, NOT_NEGATIVE, POSITIVE, Kind, integers

DATALOADERS = ('train_dataloader', 'val_dataloader', 'test_dataloader')


def as_list(value: Any) -> Sequence:
    """Return a list or a tuple as it is, anything else as the one item of a list."""
    return value if isinstance(value, (list, tuple)) else [value]


def walk(node: Any, name: str = '') -> Iterator[tuple[str, Any]]:
    """Iterate over a node of a config and all values below it, with their dotted names."""
    yield name, node
    if isinstance(node, (dict, list, tuple)):
        for key, value in node.items() if isinstance(node, dict) else enumerate(node):
            yield from walk(value, f'{name}.{key}' if name else str(key))


def _optional(kind: Kind) -> Kind:
    return Kind(lambda value: value is None or kind.fits(value), kind.words)


def _are_names(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and all(isinstance(name, str) and name for name in value)


_CLASSES = Kind(  # the engine would take any other text for a list of letters
    lambda value: Path(value).is_file() if isinstance(value, str) else _are_names(value), 'a list of names, or a file'
)
_SCORES = Kind(lambda value: bool(value) and _are_names(as_list(value)), 'the name of a score, or a list of names')
_STEPS = Kind(lambda value: value == 'auto' or COUNT.fits(value), f"{COUNT.words}, or 'auto'")
_CLIPPING = Kind(
    lambda value: isinstance(value, dict) and ('clip_value' if value.get('type') == 'value' else 'max_norm') in value,
    'a dict with max_norm, or with the type value and clip_value',
)
# By pattern of the dotted name.
SETTINGS = {
    '*_dataloader.batch_size': COUNT,
    '*_dataloader.*metainfo.classes': _CLASSES,
    'train_cfg.max_epochs': COUNT,
    'train_cfg.max_iters': COUNT,
    'train_cfg.val_interval': COUNT,
    'auto_scale_lr.base_batch_size': COUNT,
    'randomness.seed': _optional(integers(0, 2**32 - 1)),
    'resume': FLAG,  # a path would be ignored
    'optim_wrapper.accumulative_counts': _STEPS,
    'optim_wrapper.clip_grad': _optional(_CLIPPING),
    'optim_wrapper.clip_grad.max_norm': POSITIVE,
    'optim_wrapper.clip_grad.clip_value': POSITIVE,
    'optim_wrapper.optimizer.lr': NOT_NEGATIVE,
    'optim_wrapper.optimizer.weight_decay': _optional(NOT_NEGATIVE),
    'optim_wrapper.paramwise_cfg.*_mult': NOT_NEGATIVE,
    'param_scheduler*.eta_min': NOT_NEGATIVE,
    'param_scheduler*.eta_min_ratio': _optional(NOT_NEGATIVE),
    'param_scheduler*.gamma': NOT_NEGATIVE,
    'default_hooks.checkpoint.save_best': _optional(_SCORES),
}


def check_settings(cfg: Config) -> None:
    """Check the settings that the engine takes as they are, whatever they are.

    Raises:
        ArgumentError: A setting is out of range or not a number; the text names it, its value and what is allowed.
    """
    settings = cfg.to_dict()
    for name, value in walk(settings):
        if isinstance(value, float) and value != value:
            raise ArgumentError(f'{name}={value!r} is not a number.')
        if old := re.search(r'metainfo\.(?!classes|palette)((?i:classes|palette))$', name):
            raise ArgumentError(f'{name} has no effect, in the spelling of earlier versions: write {old[1].lower()}.')
        for pattern, kind in SETTINGS.items():
            if fnmatchcase(name, pattern):
                kind.check(name, value)
    _check_samplers(settings)
    _check_class_weights(settings.get('model'))


def _check_samplers(settings: dict) -> None:
    loop = settings.get('train_cfg') or {}
    by_epochs = loop.get('type') == 'EpochBasedTrainLoop' or loop.get('by_epoch') is True
    for loader in DATALOADERS if by_epochs else DATALOADERS[1:]:
        sampler = (settings.get(loader) or {}).get('sampler') or {}
        if sampler.get('type') == 'InfiniteSampler':
            raise ArgumentError(
                f'{loader}.sampler.type={sampler["type"]!r} never ends, and so would the first epoch: use '
                f'DefaultSampler, or in training a train_cfg of the type IterBasedTrainLoop.'
            )


def _check_class_weights(model: Any) -> None:
    for name, head in walk(model, 'model'):
        classes: Any = head.get('num_classes') if isinstance(head, dict) else None
        for key in ('loss_decode', 'loss_cls') if COUNT.fits(classes) else ():
            for loss in as_list(head.get(key) or []):
                weights = loss.get('class_weight') if isinstance(loss, dict) else None
                background = key == 'loss_cls' and not loss.get('use_sigmoid')
                expected = head['out_channels'] if head.get('out_channels') == 1 else classes + background
                if isinstance(weights, (list, tuple)) and len(weights) != expected:
                    raise ArgumentError(
                        f'{name}.{key}.class_weight={weights!r} has {len(weights)} values, but {name}.num_classes='
                        f'{classes!r}: give {expected}{", the last for the background" if background else ""}.'
                    )
