"""Failures that the data or the config explain, each in one sentence."""

import contextlib
import re
import traceback
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

import torch
from mmengine.config import Config
from mmengine.registry import MODELS, build_from_cfg
from mmengine.runner import BaseLoop

from ..datasets.coco_check import find_coco_problem
from ..utils.errors import UserError, printable
from ..utils.image_io import IMAGE_SUFFIXES
from .check import DATALOADERS, _listed, _walk, find_classes, reads_coco
from .load import find_datasets

# What is built by methods of the engine's runner, for failures outside of the classes that they build.
_BUILT_BY = dict(
    build_runner_from_cfg='runner_type',
    set_randomness='randomness',
    setup_env='env_cfg',
    build_log_processor='log_processor',
    build_logger='log_level',
    build_visualizer='visualizer',
    build_model='model',
    register_default_hooks='default_hooks',
    register_custom_hooks='custom_hooks',
    build_train_loop='train_cfg',
    build_dataloader='train_dataloader',
    build_optim_wrapper='optim_wrapper',
    scale_lr='auto_scale_lr',
    _check_scheduler_cfg='param_scheduler',
    build_param_scheduler='param_scheduler',
    _init_model_weights='model',
    build_val_loop='val_cfg',
    build_evaluator='val_evaluator',
    load_or_resume='load_from',
    from_cfg='',
)


@contextlib.contextmanager
def explain_failures(cfg: Config) -> Iterator[None]:
    """Turns a failure that a run's data or config explains into a :class:`UserError`; any other one passes as it is."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        sentence = find_explanation(error, cfg)
        if sentence is None:
            raise
        raise UserError(sentence) from error


def _lost_a_worker(error: BaseException) -> bool:
    """Whether a process that loads data is gone: torch says so, or what it was about to hand over cannot be read."""
    if str(error).startswith('DataLoader worker (pid'):
        return True
    waits = any(frame.f_code.co_name == '_try_get_data' for frame, _ in traceback.walk_tb(error.__traceback__))
    return waits and isinstance(error, (OSError, EOFError))


def find_explanation(error: BaseException, cfg: Config) -> str | None:
    """One sentence on a failure that data or the config explain; None for any other failure.

    All of the data is judged only after a failure, as a whole COCO annotation file takes seconds to parse.
    """
    text = str(error)
    if _lost_a_worker(error):
        first = (text.strip() or type(error).__name__).splitlines()[0]
        return (
            f'A process that loads data was killed, as a rule because memory ran out ({first}): '
            f'give the run more memory, and of /dev/shm, or lower num_workers and prefetch_factor of the data loaders, '
            f'and go on with --resume.'
        )
    if text.startswith('Expected more than 1 value per channel when training'):
        return (
            f'A batch norm has one value in a batch to normalise, as with train_dataloader.batch_size=1 where maps are '
            f'pooled to one place ({text}): take at least two images in a batch.'
        )
    # The last match: a worker's message quotes the line of source that raised it first.
    named = re.findall(r"(?:failed to load image: |No such file or directory: ')([^'\n]+)", text)
    if named and Path(named[-1].strip()).suffix.lower() in IMAGE_SUFFIXES:
        return (
            f'The image {named[-1].strip()} cannot be decoded or is missing: replace it, take it out of the data, or '
            f'mend data_root and data_prefix.'
        )
    scope = cfg.get('default_scope')
    for loader in DATALOADERS:
        for dataset in find_datasets(cfg.get(loader)):
            path = Path(dataset.get('data_root') or '.') / (dataset.get('ann_file') or '')
            if path.is_file() and reads_coco(dataset, scope):
                problem = find_coco_problem(dataset, find_classes(dataset, scope), failed=True)
                if problem:
                    return problem
    return channels_problem(cfg) or building_problem(error, cfg)


def building_problem(error: BaseException, cfg: Config) -> str | None:
    """One sentence on a failure to build what the config says; None for any other, as that of a run under way."""
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    if any(frame.f_code.co_name == 'run' and isinstance(frame.f_locals.get('self'), BaseLoop) for frame in frames):
        return None
    part = next((part for frame in reversed(frames) for part in _built_by(frame, cfg)), None)
    if part is None:
        return None
    text = ' '.join(f'{type(error).__name__}: {error}'.split())
    if ' registry' in text:
        text = f'with default_scope={cfg.get("default_scope")!r}, {text}'
    return f'{part} cannot be built: {printable(text)} ({frames[-1].f_code.co_filename}:{frames[-1].f_lineno}).'


def _built_by(frame: FrameType, cfg: Config) -> Iterator[str]:
    """The part of a config that a frame of a traceback builds: its dotted name and its value."""
    made = frame.f_locals.get('cfg') if frame.f_code is build_from_cfg.__code__ else None
    part = _BUILT_BY.get(frame.f_code.co_name)
    for name, node in _walk(cfg.to_dict()):
        # Libraries add arguments to what they take from the config, and the runner has hooks of its own for some.
        same = isinstance(made, dict) and isinstance(node, dict) and 'type' in node
        same = same and {key: made.get(key) for key in node} == {**node, 'type': made.get('type')}
        if name and name == part or (same and str(made.get('type')).endswith(str(node['type']))):
            yield f'{name}={printable(repr(node))} of the config'
    if part == '':
        yield 'The config'


def channels_problem(cfg: Config) -> str | None:
    """One sentence on a neck or a head that takes other maps than the backbone gives; None if they fit."""
    model = cfg.get('model') or {}
    try:
        with torch.device('meta'):
            given = MODELS.build({**model['backbone'], 'init_cfg': None}).out_channels
    except Exception:  # then it is not this that has failed
        return None
    for part in ['neck'] if model.get('neck') else ['decode_head', 'auxiliary_head']:
        nodes = model.get(part) or []
        for node in _listed(nodes):
            if not isinstance(node, dict) or 'in_channels' not in node:
                continue
            taken, index = node['in_channels'], range(len(given)) if part == 'neck' else node.get('in_index', -1)
            places = index if isinstance(index, (list, tuple, range)) else [index]
            there = all(isinstance(place, int) and -len(given) <= place < len(given) for place in places)
            if not there or list(_listed(taken)) != [given[i] for i in places]:
                reads = '' if part == 'neck' else f' and in_index={index!r}'
                return (
                    f'model.{part} has in_channels={taken!r}{reads}, but the backbone gives {len(given)} maps of '
                    f'{", ".join(map(str, given))} channels: change these, or arch and out_indices of the backbone.'
                )
    return None
