"""Settings that the engine takes as they are, or refuses by a traceback: each ends in one sentence that names it."""

import functools
import inspect
import os
from collections.abc import Iterator, Mapping, Sequence

from mmengine.config import Config
from mmengine.registry import DATASETS
from torch.nn.utils import clip_grad_norm_, clip_grad_value_

from ..utils.errors import ArgumentError, printable
from ..utils.validation import COUNT, FLAG, NOT_NEGATIVE, POSITIVE, SIZE, Kind, integers


def _listed(value: object) -> Sequence:
    """A list as it is, anything else as the one item of a list."""
    return value if isinstance(value, (list, tuple)) else [value]


def _clips(value: object) -> bool:
    """Whether a value is what the engine's ways to clip gradients take."""
    if not isinstance(value, dict) or not value:
        return value is None or value == {}
    how = dict(value)
    try:
        clip = dict(norm=clip_grad_norm_, value=clip_grad_value_)[how.pop('type', 'norm')]
        inspect.signature(clip).bind([], **how)
    except (KeyError, TypeError):
        return False
    return True


_SECTION = Kind(lambda value: value is None or isinstance(value, dict), 'a dict')
_WRAPPER = Kind(
    lambda value: value is None or (isinstance(value, dict) and {'optimizer', 'constructor'} & value.keys()),
    'a dict with an optimizer',
)
_SCOPE = Kind(lambda value: value is None or (isinstance(value, str) and value.isidentifier()), 'the name of a library')
_NAME = Kind(lambda value: value is None or isinstance(value, str), 'a text')
_SCORES = Kind(
    lambda value: value is None or (value and all(isinstance(one, str) and one for one in _listed(value))),
    'the name of a score, or a list of such',
)
_CLASSES = Kind(
    lambda value: (
        os.path.isfile(value)  # the engine takes any other text for a list of letters
        if isinstance(value, str)
        else isinstance(value, (list, tuple)) and all(isinstance(one, str) for one in value)
    ),
    'a list of names, or a file of such',
)
_TYPED = Kind(lambda value: isinstance(value, dict) and 'type' in value, 'a dict with a type')
_MAYBE_TYPED = Kind(lambda value: value is None or _TYPED.fits(value), _TYPED.words)
_SEEDED = Kind(lambda value: isinstance(value, dict) and 'seed' in value, 'a dict with a seed')
_LOADER = Kind(
    lambda value: value is None or (isinstance(value, dict) and {'dataset', 'sampler'} <= value.keys()),
    'a dict with a dataset and a sampler',
)
_SEVERAL = Kind(
    lambda value: value is None or all(isinstance(one, dict) for one in _listed(value)), 'a dict, or a list of dicts'
)
_EVALUATORS = Kind(lambda value: not isinstance(value, tuple) and _SEVERAL.fits(value), _SEVERAL.words)
_STEPS = Kind(lambda value: value == 'auto' or COUNT.fits(value), "an integer of at least 1, or 'auto'")
_SEED = Kind(lambda value: value is None or integers(0, 2**32 - 1).fits(value), 'an integer from 0 to 4294967295')
_RATE = Kind(lambda value: value is None or NOT_NEGATIVE.fits(value), NOT_NEGATIVE.words)
_SIDES = Kind(lambda value: all(map(SIZE.fits, _listed(value) or [value])), f'{SIZE.words}, or a list of such')
DATALOADERS = ('train_dataloader', 'val_dataloader', 'test_dataloader')
# What the engine does not look at, or not before the run is under way. Sections come before what is in them.
SETTINGS = {
    'optim_wrapper': _WRAPPER,
    **dict.fromkeys(DATALOADERS, _LOADER),
    **dict.fromkeys(('train_cfg', 'auto_scale_lr', 'env_cfg', 'custom_imports', 'default_hooks'), _SECTION),
    **dict.fromkeys(
        (
            *('model.backbone', 'default_hooks.checkpoint', 'default_hooks.param_scheduler'),
            *(f'{loader}.{part}' for loader in DATALOADERS for part in ('sampler', 'batch_sampler')),
        ),
        _MAYBE_TYPED,
    ),
    **dict.fromkeys(('model', 'optim_wrapper.optimizer', *(f'{loader}.dataset' for loader in DATALOADERS)), _TYPED),
    'optim_wrapper.clip_grad': Kind(_clips, 'a dict with max_norm, or with the type value and clip_value'),
    'env_cfg.dist_cfg': Kind(lambda value: isinstance(value, dict), 'a dict'),
    'randomness': _SEEDED,
    **dict.fromkeys(('custom_hooks', 'param_scheduler'), _SEVERAL),
    **dict.fromkeys(('val_evaluator', 'test_evaluator'), _EVALUATORS),
    **dict.fromkeys(('work_dir', 'load_from'), _NAME),
    'default_scope': _SCOPE,
    'default_hooks.checkpoint.save_best': _SCORES,
    **{f'{loader}.dataset.{part}': _NAME for loader in DATALOADERS for part in ('data_root', 'ann_file')},
    **{f'{loader}.dataset.metainfo.classes': _CLASSES for loader in DATALOADERS},
    **{f'{loader}.dataset.transform.input_size': _SIDES for loader in DATALOADERS},
    **{f'{loader}.batch_size': COUNT for loader in DATALOADERS},
    **{f'{loader}.num_workers': integers(0, 1024) for loader in DATALOADERS},
    'randomness.seed': _SEED,
    'train_cfg.max_epochs': integers(1, 10**6),  # more would never end
    'train_cfg.max_iters': integers(1, 10**9),
    'train_cfg.val_interval': COUNT,
    'train_cfg.val_begin': integers(0),
    'optim_wrapper.accumulative_counts': _STEPS,
    'optim_wrapper.optimizer.lr': _RATE,
    'optim_wrapper.optimizer.weight_decay': _RATE,
    'optim_wrapper.clip_grad.max_norm': POSITIVE,
    'optim_wrapper.clip_grad.clip_value': POSITIVE,
    'auto_scale_lr.base_batch_size': COUNT,
    'default_hooks.checkpoint.interval': integers(-1),
    'default_hooks.checkpoint.max_keep_ckpts': integers(-1),
    **dict.fromkeys(('resume', 'auto_scale_lr.enable', 'default_hooks.checkpoint.by_epoch'), FLAG),
}
_OF_SCHEDULES = dict.fromkeys(('begin', 'end', 'eta_min', 'eta_min_ratio', 'gamma', 'power', 'factor'), NOT_NEGATIVE)
_OF_SCHEDULES |= dict(T_max=COUNT)
_HEADS = ('roi_head', 'bbox_head', 'mask_head', 'decode_head', 'auxiliary_head')


def check_settings(cfg: Config) -> None:
    """Looks at the settings that the engine does not look at.

    Raises:
        ArgumentError: One is out of range or is not a number; the text names it, its value and what is allowed.
    """
    settings = cfg.to_dict()
    for name, kind in SETTINGS.items():
        *parents, last = name.split('.')
        node = functools.reduce(lambda node, key: node.get(key) if isinstance(node, dict) else None, parents, settings)
        if isinstance(node, dict) and last in node:
            kind.check(name, node[last])
    _check_samplers(settings)
    for name, value in _walk(settings):
        key = name.rpartition('.')[2]
        if isinstance(value, float) and value != value:
            raise ArgumentError(f'{name}={value!r} is not a number.')
        if key == 'init_cfg':
            for one in _listed(value):
                _MAYBE_TYPED.check(name, one)
        if key.endswith('_mult') and name.startswith('optim_wrapper.'):
            NOT_NEGATIVE.check(name, value)
        if key in _OF_SCHEDULES and name.startswith('param_scheduler.') and value is not None:
            _OF_SCHEDULES[key].check(name, value)


def _check_samplers(settings: dict) -> None:
    loop = settings.get('train_cfg') or {}
    by_epochs = loop.get('type') == 'EpochBasedTrainLoop' or loop.get('by_epoch') is True
    for loader in DATALOADERS[0 if by_epochs else 1 :]:
        sampler = (settings.get(loader) or {}).get('sampler') or {}
        if sampler.get('type') == 'InfiniteSampler':
            raise ArgumentError(
                f'{loader}.sampler.type={sampler["type"]!r} never ends, and so would the first epoch: take '
                f'DefaultSampler, or in training a train_cfg of the type IterBasedTrainLoop.'
            )


def _walk(node: object, name: str = '') -> Iterator[tuple[str, object]]:
    """All values below a node of a config, by dotted name."""
    yield name, node
    if isinstance(node, (dict, list, tuple)):
        for key, value in node.items() if isinstance(node, dict) else enumerate(node):
            yield from _walk(value, f'{name}.{key}' if name else str(key))


def find_type(dataset: Mapping, scope: str | None) -> type | None:
    """The class of a data set's config; None if there is none of that name."""
    kind = dataset.get('type')
    if not isinstance(kind, str):
        return kind
    with DATASETS.switch_scope_and_registry(scope) as registry:
        try:
            return registry.get(kind)
        except (ValueError, RuntimeError, ImportError):  # of a text that is no name
            return None


def find_classes(dataset: Mapping, scope: str | None) -> Sequence[str] | None:
    """The classes that a config gives a data set, or that its type has; None where neither names them."""
    for meta in (dataset.get('metainfo'), getattr(find_type(dataset, scope), 'METAINFO', None)):
        if isinstance(meta, Mapping) and 'classes' in meta:
            return meta['classes'] if isinstance(meta['classes'], (list, tuple)) else None
    return None


def reads_coco(dataset: Mapping, scope: str | None) -> bool:
    """Whether a data set is mmdet's CocoDataset, or one of its kind that reads its file no other way."""
    kind = find_type(dataset, scope)
    base = next((base for base in getattr(kind, '__mro__', ()) if base.__name__ == 'CocoDataset'), None)
    return base is not None and all(
        getattr(kind, name) is getattr(base, name) for name in ('load_data_list', 'parse_data_info')
    )


def check_heads(cfg: Config, classes: Sequence[str]) -> None:
    """Compares the heads of a model with the classes of its data.

    Raises:
        ArgumentError: A head has another number of classes; the text names it.
    """
    for part in _HEADS:
        for name, value in _walk((cfg.get('model') or {}).get(part), f'model.{part}'):
            if name.endswith('.num_classes') and 'semantic_head' not in name and value != len(classes):
                raise ArgumentError(
                    f'{name}={printable(repr(value))} does not fit the training data, which has {len(classes)} classes '
                    f'({printable(", ".join(map(str, classes)))}): set the one, or metainfo.classes of the data sets.'
                )
