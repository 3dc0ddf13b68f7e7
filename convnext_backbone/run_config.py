"""From a config file and command-line flags to a config that runs here: data found, machine considered."""

import contextlib
import os
import re
import tempfile
import traceback
from collections.abc import Iterator
from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.logging import print_log

from .annotations import coco_problem
from .config_checks import building_problem, channels_problem, check_heads, check_settings, find_classes, reads_coco
from .errors import UserError, printable, shorten
from .image_io import IMAGE_SUFFIXES

_DATALOADERS = ('train_dataloader', 'val_dataloader', 'test_dataloader')
_EVALUATORS = ('val_evaluator', 'test_evaluator')
_QUICKLY_READ = 32 * 2**20  # bytes of json, a second or two


def load_config(
    path: str | os.PathLike,
    work_dir: str | None = None,
    data_root: str | None = None,
    cfg_options: dict | None = None,
) -> Config:
    """Reads a config and applies the flags that all tools share.

    Args:
        path: The config file.
        work_dir: Where the run is written; by default what the config says, or ``work_dirs/<name of the config>``.
        data_root: Takes the place of the config's data folder, in its data sets and evaluators.
        cfg_options: Further settings by dotted name; they win over all else.

    Raises:
        UserError: The file is missing, it is not a config, or a setting is out of range.
    """
    if not Path(path).is_file():
        raise UserError(f'The config {path} does not exist: check the path; `ls configs` shows what there is.')
    try:
        cfg = Config.fromfile(path)
    except Exception as error:  # a config is Python: anything can be raised
        raise UserError(f'The config {path} cannot be read: {type(error).__name__}: {error}') from error
    if data_root is not None:
        replace_data_root(cfg, data_root)
    try:
        cfg.merge_from_dict(cfg_options or {})
    except (KeyError, TypeError, AssertionError) as error:
        raise UserError(f'--cfg-options {cfg_options} does not fit {path}: {error}') from error
    check_settings(cfg)
    cfg.work_dir = work_dir or cfg.get('work_dir') or str(Path('work_dirs') / Path(path).stem)
    # Everything that the package registers must be there, whatever the config imports.
    imports = cfg.get('custom_imports') or dict(imports=[], allow_failed_imports=False)
    if 'convnext_backbone' not in imports['imports']:
        imports['imports'] = [*imports['imports'], 'convnext_backbone']
    cfg.custom_imports = imports
    return cfg


def _datasets(node: object) -> Iterator[dict]:
    """All data set configs that name files, below wrappers such as RepeatDataset too."""
    if isinstance(node, dict):
        if 'data_root' in node or 'ann_file' in node:
            yield node
        for key in ('dataset', 'datasets'):
            yield from _datasets(node.get(key))
    elif isinstance(node, (list, tuple)):
        for item in node:
            yield from _datasets(item)


def replace_data_root(cfg: Config, data_root: str | os.PathLike) -> None:
    """Points all data sets and evaluators of a config at another folder, in place."""
    new = str(data_root).rstrip('/') + '/'
    old = {ds['data_root'] for loader in _DATALOADERS for ds in _datasets(cfg.get(loader)) if ds.get('data_root')}

    def moved(node: object) -> object:
        if isinstance(node, dict):
            for key in list(node):
                node[key] = moved(node[key])
        elif isinstance(node, (list, tuple)):
            return type(node)(moved(item) for item in node)
        elif isinstance(node, str):
            root = next((root for root in old if node.rstrip('/') == root.rstrip('/') or node.startswith(root)), None)
            return new + node[len(root) :].lstrip('/') if root is not None else node
        return node

    for part in (*_DATALOADERS, *_EVALUATORS, 'data_root'):
        if part in cfg:
            cfg[part] = moved(cfg[part])


def check_data(cfg: Config, splits: tuple[str, ...] = ('train', 'val')) -> None:
    """Makes sure that the data of a run is there, and fits the model, before anything is built.

    Raises:
        UserError: Something is missing: the text names the folder, the files expected in it and the flag. Or something
            is wrong with it, or the model has other classes.
    """
    scope = cfg.get('default_scope')
    for split in splits:
        for dataset in _datasets(cfg.get(f'{split}_dataloader')):
            if dataset.get('reader'):  # which fetches or finds what it is told to
                continue
            root = Path(dataset.get('data_root') or '.')
            prefix = dataset.get('data_prefix') or {}
            folders = list(prefix.values()) if isinstance(prefix, dict) else [prefix]
            wanted = [part for part in (dataset.get('ann_file'), *folders) if part]
            try:
                missing = [str(part) for part in wanted if not (root / part).exists()]
            except (TypeError, ValueError, OSError) as error:
                raise UserError(
                    f'The {split} data is not named by paths: data_root={dataset.get("data_root")!r}, '
                    f'ann_file={dataset.get("ann_file")!r}, data_prefix={prefix!r} ({error}).'
                ) from error
            if missing:
                raise UserError(
                    f'The {split} data is missing: looked in {printable(str(root.absolute()))} for '
                    f'{shorten([*map(str, wanted)])}, and did not find {shorten(missing)}; put the data there or point '
                    f'elsewhere with --data-root.'
                )
            classes = find_classes(dataset, scope)
            if split == 'train' and classes is not None:
                check_heads(cfg, classes)
            # What is labelled must be so; a larger file is judged after a failure.
            if split != 'test' and reads_coco(dataset, scope):
                if not isinstance(prefix, dict):
                    raise UserError(f'The {split} data has data_prefix={prefix!r}: it takes a dict with img, a folder.')
                if not dataset.get('ann_file'):
                    raise UserError(f'The {split} data has ann_file={dataset.get("ann_file")!r}: name the annotations.')
                size = (root / dataset['ann_file']).stat().st_size
                problem = coco_problem(dataset, classes) if size <= _QUICKLY_READ else None
                if problem:
                    raise UserError(problem)


@contextlib.contextmanager
def explained_failures(cfg: Config) -> Iterator[None]:
    """Turns a failure that a run's data or config explains into a :class:`UserError`; any other one passes as it is."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        sentence = explain_failure(error, cfg)
        if sentence is None:
            raise
        raise UserError(sentence) from error


def _lost_a_worker(error: BaseException) -> bool:
    """Whether a process that loads data is gone: torch says so, or what it was about to hand over cannot be read."""
    if str(error).startswith('DataLoader worker (pid'):
        return True
    waits = any(frame.f_code.co_name == '_try_get_data' for frame, _ in traceback.walk_tb(error.__traceback__))
    return waits and isinstance(error, (OSError, EOFError))


def explain_failure(error: BaseException, cfg: Config) -> str | None:
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
    for loader in _DATALOADERS:
        for dataset in _datasets(cfg.get(loader)):
            path = Path(dataset.get('data_root') or '.') / (dataset.get('ann_file') or '')
            if path.is_file() and reads_coco(dataset, scope):
                problem = coco_problem(dataset, find_classes(dataset, scope), failed=True)
                if problem:
                    return problem
    return channels_problem(cfg) or building_problem(error, cfg)


def check_work_dir(work_dir: str | os.PathLike) -> None:
    """Makes the folder of a run and tries to write into it.

    Raises:
        UserError: It cannot be made or written.
    """
    try:
        Path(work_dir).mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=work_dir).close()
    except OSError as error:
        raise UserError(
            f'The work_dir {work_dir} cannot be written: {error.strerror}; choose another with --work-dir.'
        ) from error


def adapt_to_machine(cfg: Config) -> None:
    """On a machine with no GPU: fp16 becomes fp32 and SyncBN becomes BN, each with one warning, in place."""
    if torch.cuda.is_available() or get_device() != 'cpu':
        return
    wrapper = cfg.get('optim_wrapper') or {}
    if str(wrapper.get('type')).endswith('AmpOptimWrapper') and wrapper.get('dtype') != 'bfloat16':
        wrapper['type'] = 'OptimWrapper'
        for key in ('loss_scale', 'dtype', 'use_fsdp'):
            wrapper.pop(key, None)
        _warn('No GPU: the fp16 of the config falls back to fp32.')
    if _replace_type(cfg.get('model'), 'SyncBN', 'BN'):
        _warn('No GPU: the SyncBN of the config falls back to BN, with the statistics of each process alone.')
    for loader in _DATALOADERS:
        if (cfg.get(loader) or {}).get('pin_memory'):
            cfg[loader].pin_memory = False  # torch would warn at each pass over the data
    if (cfg.get('env_cfg') or {}).get('dist_cfg', {}).get('backend') == 'nccl':
        cfg.env_cfg.dist_cfg.backend = 'gloo'


def drop_pretrained(cfg: Config) -> None:
    """Takes ``init_cfg`` out of a model that a checkpoint fills anyway, so that what it names need not be there."""
    for part in (cfg.model, cfg.model.get('backbone')):
        if part is not None:
            part['init_cfg'] = None


def _warn(text: str) -> None:
    print_log(f'warning: {text}', logger=None)


def _replace_type(node: object, old: str, new: str) -> bool:
    """Replaces ``type=old`` everywhere below a config node; returns whether there was one."""
    if isinstance(node, (list, tuple)):
        return any([_replace_type(item, old, new) for item in node])
    if not isinstance(node, dict):
        return False
    found = node.get('type') == old
    if found:
        node['type'] = new
    return any([found, *(_replace_type(value, old, new) for value in node.values())])
