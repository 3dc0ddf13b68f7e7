"""From a config file and command-line flags to the config that runs."""

import argparse
import difflib
import inspect
import os
from pathlib import Path

from mmengine.config import Config
from mmengine.runner import Runner

from ..datasets.layouts import Layout
from ..utils.cli import tell
from ..utils.errors import UserError, printable
from .check import check_settings
from .dataset_types import name_datasets
from .machine import adapt_to_machine
from .own_data import Annotations, count_images, count_repeats, replace_data_root, use_own_data
from .schedule import Schedule, set_schedule


def load_config(
    path: str | os.PathLike,
    work_dir: str | None = None,
    data_root: str | None = None,
    cfg_options: dict | None = None,
) -> Config:
    """Read a config and apply the flags that all tools share.

    Args:
        path: The config file.
        work_dir: Where the run is written; by default the config's, or ``work_dirs/<name of the config>``.
        data_root: Takes the place of the config's data, as of :func:`.use_own_data`.
        cfg_options: Settings by dotted name; they win over all others.

    Raises:
        UserError: The file is missing, it is not a config of a model, a setting is misspelt or out of range, or no
            layout of data is known that ``data_root`` has.
    """
    return _load(path, work_dir, data_root, cfg_options or {}, Annotations())[0]


def _load(
    path: str | os.PathLike,
    work_dir: str | None,
    data_root: str | None,
    cfg_options: dict,
    annotations: Annotations,
    trains: bool = True,
) -> tuple[Config, Layout | None]:
    """The config, and what ``data_root`` holds where that is other data than the config is for."""
    if not Path(path).is_file():
        raise UserError(f'The config {path} does not exist: check the path; `ls configs` shows what there is.')
    try:
        cfg = Config.fromfile(path)
    except Exception as error:  # a config is Python: anything can be raised
        reason = printable(' '.join(f'{type(error).__name__}: {error}'.split()))
        raise UserError(f'The config {path} cannot be read: {reason}') from error
    if data_root is not None:
        replace_data_root(cfg, data_root)
    _check_names(cfg, cfg_options)
    _merge(cfg, cfg_options)
    _check_parts(cfg, 'model')
    check_settings(cfg)
    cfg.work_dir = work_dir or cfg.get('work_dir') or str(Path('work_dirs') / Path(path).stem)
    layout = use_own_data(cfg, data_root, annotations, trains) if data_root is not None else None
    if layout:
        _merge(cfg, cfg_options)  # again: they win
    # Everything that the package registers must be there, whatever the config imports.
    imports = cfg.get('custom_imports') or dict(imports=[], allow_failed_imports=False)
    if 'convnext_backbone' not in imports['imports']:
        imports['imports'] = [*imports['imports'], 'convnext_backbone']
    cfg.custom_imports = imports
    return cfg, layout


def _merge(cfg: Config, cfg_options: dict) -> None:
    try:
        cfg.merge_from_dict(cfg_options)
    except (KeyError, TypeError, AssertionError) as error:
        raise UserError(f'--cfg-options {cfg_options} does not fit {cfg.filename}: {printable(str(error))}') from error


def _set_schedule(cfg: Config, schedule: Schedule, layout: Layout | None) -> bool:
    """Whether the schedule is changed, which is said."""
    images = layout.numbers['train'] if layout else count_images(cfg) if schedule.epochs else None
    changes = set_schedule(cfg, schedule, images and images * count_repeats(cfg), layout is not None)
    if changes:
        tell('The schedule of the recipe is changed:', *changes)
    return bool(changes)


def _check_names(cfg: Config, cfg_options: dict) -> None:
    """Refuse a slip in the first part of a name: it would become a new setting, which nobody reads."""
    known = {*cfg, *inspect.signature(Runner.__init__).parameters}
    for name in cfg_options:
        first = name.partition('.')[0]
        meant = [] if first in known else difflib.get_close_matches(first, known, n=1, cutoff=0.8)
        if meant:
            raise UserError(f'--cfg-options {printable(name)}: there is no {printable(first)}; is it {meant[0]}?')


def _check_parts(cfg: Config, *names: str) -> None:
    for name in names:
        if not isinstance(cfg.get(name), dict):
            raise UserError(
                f'The config {cfg.filename} has no {name}: add one, or name a config of configs/ and not of its _base_.'
            )


def prepare_config(flags: argparse.Namespace) -> Config:
    """Make the config that runs out of the file, the flags, and what this machine can do.

    This is the one place that rewrites a config: what a run dumps to its work_dir is what it runs.

    Args:
        flags: Of :func:`.common_parser`, and those of ``launcher``, ``local_rank``, ``amp``, ``auto_scale_lr``,
            ``checkpoint``, ``load_from``, ``split`` and ``tta`` that the tool has, and those of the same names as the
            fields of :class:`.Annotations` and :class:`.Schedule`.

    Raises:
        UserError: As of :func:`load_config`, or the config lacks what a flag needs.
    """
    given = vars(flags)
    annotations = Annotations(*map(given.get, Annotations._fields))
    trains = 'checkpoint' not in given
    cfg, layout = _load(flags.config, flags.work_dir, flags.data_root, flags.cfg_options or {}, annotations, trains)
    split = given.get('split', 'test' if 'checkpoint' in given else 'train')
    _check_parts(cfg, f'{split}_dataloader', *['optim_wrapper'] * bool(given.get('amp')))
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
    if 'epochs' in given and _set_schedule(cfg, Schedule(*map(given.get, Schedule._fields)), layout):
        _merge(cfg, flags.cfg_options or {})  # again: they win
    adapt_to_machine(cfg)
    cfg.setdefault('runner_type', 'ResumableRunner')
    weights = given.get('checkpoint', given.get('load_from'))
    if weights is not None:
        cfg.load_from = weights
        for part in (cfg.model, cfg.model.get('backbone')):  # the checkpoint has these weights
            if part is not None:
                part['init_cfg'] = None
    if given.get('tta'):
        _set_tta(cfg)
    return cfg


def _set_tta(cfg: Config) -> None:
    """Wrap the model in the config's ``tta_model``, whose ``module`` settings win, and test by ``tta_pipeline``."""
    lacking = [key for key in ('tta_model', 'tta_pipeline') if key not in cfg]
    if lacking:
        raise UserError(
            f'{cfg.filename} has no {" and no ".join(lacking)}, which define what --tta averages: add them as in '
            f'configs/_base_/ade20k.py, or leave --tta out.'
        )
    cfg.merge_from_dict(dict(model=cfg.tta_model.get('module', {})))
    cfg.model = {**cfg.tta_model, 'module': cfg.model}
    for _, dataset in name_datasets(cfg, 'test'):
        dataset['pipeline'] = cfg.tta_pipeline
