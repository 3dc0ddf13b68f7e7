"""From a config file and command-line flags to the config that runs."""

import argparse
import os
from collections.abc import Iterator
from pathlib import Path

from mmengine.config import Config

from ..utils.errors import UserError
from .check import DATALOADERS, check_settings
from .machine import adapt_to_machine

_EVALUATORS = ('val_evaluator', 'test_evaluator')


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


def prepare_config(flags: argparse.Namespace) -> Config:
    """The config that runs: the file, the flags, and what this machine lacks.

    A run dumps it to its work_dir as it is; given that file, the tools run the same again.

    Args:
        flags: Of :func:`.common_parser`, and those of ``launcher``, ``local_rank``, ``amp``, ``auto_scale_lr``,
            ``checkpoint`` and ``tta`` that the tool has.

    Raises:
        UserError: As of :func:`load_config`, or the config lacks what a flag needs.
    """
    given = vars(flags)
    cfg = load_config(flags.config, flags.work_dir, flags.data_root, flags.cfg_options)
    if 'launcher' in given:
        cfg.launcher = flags.launcher
        os.environ.setdefault('LOCAL_RANK', str(flags.local_rank))
    if given.get('amp'):
        cfg.optim_wrapper.type = 'AmpOptimWrapper'
    if given.get('auto_scale_lr'):
        if 'base_batch_size' not in (cfg.get('auto_scale_lr') or {}):
            raise UserError(
                f'{flags.config} has no auto_scale_lr.base_batch_size: set it, or leave --auto-scale-lr out.'
            )
        cfg.auto_scale_lr.enable = True
    adapt_to_machine(cfg)
    cfg.setdefault('runner_type', 'ResumableRunner')
    if 'checkpoint' in given:
        cfg.load_from = flags.checkpoint
        for part in (cfg.model, cfg.model.get('backbone')):  # what the checkpoint fills need not be there
            if part is not None:
                part['init_cfg'] = None
    if given.get('tta'):
        _set_tta(cfg)
    return cfg


def _set_tta(cfg: Config) -> None:
    """Put the config's ``tta_model`` around its model, and its ``tta_pipeline`` in the place of that of the test data.

    The settings in ``tta_model.module`` win over those of the model.
    """
    lacking = [key for key in ('tta_model', 'tta_pipeline') if key not in cfg]
    if lacking:
        raise UserError(
            f'{cfg.filename} has no {" and no ".join(lacking)}, which say what --tta averages: add them as in '
            f'configs/_base_/ade20k.py, or leave --tta out.'
        )
    cfg.merge_from_dict(dict(model=cfg.tta_model.get('module', {})))
    cfg.model = {**cfg.tta_model, 'module': cfg.model}
    cfg.test_dataloader.dataset.pipeline = cfg.tta_pipeline


def replace_data_root(cfg: Config, data_root: str | os.PathLike) -> None:
    """Points all data sets and evaluators of a config at another folder, in place."""
    new = str(data_root).rstrip('/') + '/'
    old = {ds['data_root'] for loader in DATALOADERS for ds in find_datasets(cfg.get(loader)) if ds.get('data_root')}

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

    for part in (*DATALOADERS, *_EVALUATORS, 'data_root'):
        if part in cfg:
            cfg[part] = moved(cfg[part])


def find_datasets(node: object) -> Iterator[dict]:
    """All data set configs that name files, below wrappers such as RepeatDataset too."""
    if isinstance(node, dict):
        if 'data_root' in node or 'ann_file' in node:
            yield node
        for key in ('dataset', 'datasets'):
            yield from find_datasets(node.get(key))
    elif isinstance(node, (list, tuple)):
        for item in node:
            yield from find_datasets(item)
