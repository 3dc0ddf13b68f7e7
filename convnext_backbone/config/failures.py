"""Failures that the data or the config explain, each in one sentence."""

import contextlib
import re
import traceback
from collections.abc import Iterator
from typing import Any
from unittest.mock import patch

import torch
from mmengine.config import Config
from mmengine.model import weight_init
from mmengine.registry import MODELS, Registry

from ..utils.errors import UserError, printable
from ..utils.files import explain_disk_errors
from ..utils.image_io import IMAGE_SUFFIXES
from .check import DATALOADERS, as_list, walk

# What a run is short of, by what torch, numpy and Python say of it, and the remedy.
_LACKS = {
    '.*(?:Too many open files|items of ancdata).*': ('open files', 'raise their limit with `ulimit -n 65536`'),
    r'unable to .*(?:shared memory|</torch_\d).*': ('shared memory', 'enlarge /dev/shm (docker run --shm-size=8g)'),
    ".*(?:temporarily unavailable|can't start new thread).*": ('processes', 'raise their limit with `ulimit -u 65536`'),
    '.*(?:annot allocate memory|Unable to allocate|out of memory|bad_alloc).*': ('memory', 'lower the batch size'),
}
# Sentences by what an error says.
_SENTENCES = {
    pattern: f'The run is short of {lack} ({{}}): {remedy}, or lower num_workers of the data loaders.'
    for pattern, (lack, remedy) in _LACKS.items()
}
_SENTENCES['^Expected more than 1 value per channel when training.*'] = (
    'A batch norm cannot normalize a single value per channel, as with train_dataloader.batch_size=1 where maps are '
    'pooled to 1x1 ({}): use at least two images in a batch.'
)
_SUFFIXES = '|'.join(map(re.escape, sorted(IMAGE_SUFFIXES)))
_SENTENCES[rf"(?:failed to load image: |No such file or directory: ')([^'\n]+(?i:{_SUFFIXES}))\s*(?:['\n]|$)"] = (
    'The image {} cannot be decoded or is missing: replace it, remove it from the data, or correct data_root and '
    'data_prefix.'
)


@contextlib.contextmanager
def explain_failures(cfg: Config) -> Iterator[None]:
    """Turn a failure that disk, data or config explain into a :class:`UserError`; others keep their traceback."""
    # Twice: torch's handler of SIGCHLD raises anywhere, also while the sentence on that worker is made.
    with _explained(cfg), _explained(cfg), explain_disk_errors(cfg.get('work_dir') or 'The work_dir'):
        with _mark_failed_builds():
            yield


@contextlib.contextmanager
def _explained(cfg: Config) -> Iterator[None]:
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        sentence = _find_explanation(error, cfg)
        if sentence is None:
            raise
        raise UserError(sentence) from error


@contextlib.contextmanager
def _mark_failed_builds() -> Iterator[None]:
    """Attach the innermost config that was being built to an exception that leaves a registry."""
    build = Registry.build

    def marked(registry: Registry, cfg: Any, *args: Any, **kwargs: Any) -> Any:
        try:
            return build(registry, cfg, *args, **kwargs)
        except Exception as error:
            vars(error).setdefault('failed_config', cfg)
            raise

    def build_initializer(cfg: Any, registry: Registry) -> Any:  # which the engine builds past its registry
        return registry.build(cfg)

    with patch.object(Registry, 'build', marked), patch.object(weight_init, 'build_from_cfg', build_initializer):
        yield


def _find_explanation(error: Exception, cfg: Config) -> str | None:
    """Return one sentence on a failure that data or config explain, None for any other."""
    for pattern, sentence in _SENTENCES.items():
        if found := re.findall(pattern, str(error)):  # the last one: a worker's message quotes its source first
            return sentence.format(printable(found[-1].strip()))
    return (
        _worker_problem(error, cfg)
        or _empty_problem(error, cfg)
        or _channels_problem(cfg)
        or _build_problem(error, cfg)
    )


def _worker_problem(error: Exception, cfg: Config) -> str | None:
    """A worker was killed: torch says so, or what it was handing over by a socket (without a file name) is lost."""
    lost = isinstance(error, (ConnectionError, EOFError, FileNotFoundError)) and not getattr(error, 'filename', None)
    workers = any((cfg.get(loader) or {}).get('num_workers') for loader in DATALOADERS)
    killed = str(error).startswith('DataLoader worker (pid') and not isinstance(error.__context__, UserError)
    if not killed and not (lost and workers):
        return None
    first = (str(error).strip() or type(error).__name__).splitlines()[0]
    return (
        f'A process that loads data was killed, usually because memory ran out ({first}): give the run more memory and '
        f'more of /dev/shm, or lower num_workers and prefetch_factor of the data loaders, and continue with --resume.'
    )


def _empty_problem(error: Exception, cfg: Config) -> str | None:
    """The engine fails with numpy's words on a data set that is empty."""
    if str(error) != 'need at least one array to concatenate' or not hasattr(error, 'failed_config'):
        return None
    return (
        f'{_describe_part(error.failed_config, cfg)} has no image left: correct data_root, ann_file, data_prefix and '
        f'img_suffix, or what filter_cfg and indices leave of it.'
    )


def _channels_problem(cfg: Config) -> str | None:
    """A neck or a head takes other maps than the backbone returns."""
    model = cfg.get('model') or {}
    try:
        with torch.device('meta'):
            channels = MODELS.build({**model['backbone'], 'init_cfg': None}).out_channels
    except Exception:  # then it is not this that has failed
        return None
    for part in ('neck',) if model.get('neck') else ('decode_head', 'auxiliary_head'):
        for node in as_list(model.get(part) or []):
            if not isinstance(node, dict) or 'in_channels' not in node:
                continue
            indices = range(len(channels)) if part == 'neck' else as_list(node.get('in_index', -1))
            with contextlib.suppress(IndexError, TypeError):  # an index that is none
                if list(as_list(node['in_channels'])) == [channels[i] for i in indices]:
                    continue
            reads = '' if part == 'neck' else f' and in_index={node.get("in_index", -1)!r}'
            return (
                f'model.{part} has in_channels={node["in_channels"]!r}{reads}, but the backbone returns '
                f'{len(channels)} maps of {", ".join(map(str, channels))} channels: change these, or arch and '
                f'out_indices of the backbone.'
            )
    return None


def _build_problem(error: Exception, cfg: Config) -> str | None:
    failed = getattr(error, 'failed_config', None)
    if failed is None:
        return None
    text = ' '.join(f'{type(error).__name__}: {error}'.split())
    if ' registry' in text:
        text = f'with default_scope={cfg.get("default_scope")!r}, {text}'
    place = traceback.extract_tb(error.__traceback__)[-1]
    part = 'The config' if failed is cfg else _describe_part(failed, cfg)
    return f'{part} cannot be built: {printable(text)} ({place.filename}:{place.lineno}).'


def _describe_part(failed: Any, cfg: Config) -> str:
    """Name a part of the config by its place and its value; libraries add arguments to what they take from there."""
    for name, node in walk(cfg.to_dict()) if isinstance(failed, dict) else ():
        if isinstance(node, dict) and 'type' in node and node.items() <= dict(failed).items():
            return f'{name}={printable(node)} of the config'
    return f'{printable(repr(failed))} of the config'
