"""Which task a config is for, and which configs there are."""

import ast
import itertools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from mmengine.config import Config

from ..utils.errors import UserError
from .check import as_list
from .metafile import METAFILE, read_metafile

TASKS = {'mmdet': 'detection', 'mmseg': 'segmentation', 'mmengine': 'classification'}  # by default_scope


def task_of(cfg: Config) -> str:
    """Return the task of a config, a value of ``TASKS``.

    Raises:
        UserError: It is for none of them.
    """
    scope = 'mmengine' if cfg.model.type == 'ImageClassifier' else cfg.get('default_scope', 'mmdet')
    if scope not in TASKS:
        raise UserError(f'default_scope={scope!r} of the config is unknown here: there are {", ".join(TASKS)}.')
    return TASKS[scope]


class Recipe(NamedTuple):
    """A config: its path, its task (a value of ``TASKS``), and in a line its purpose and score."""

    path: Path
    task: str
    purpose: str


def list_recipes(folder: Path) -> list[Recipe]:
    """List the configs below a folder, without those that others only inherit from, by task and by path.

    Configs are read, not run: that would take a minute, as each of their bases in an MM library is looked up again.
    """
    models = [model for metafile in folder.rglob(METAFILE) for model in read_metafile(metafile)]
    scores = {
        folder.parent / model.config: 'Ours, no published score.' if model.ours else f'Published: {model.score}.'
        for model in models
        if model.config and (model.ours or model.scores)
    }
    paths = [path for path in folder.rglob('*.py') if '_base_' not in path.parts]
    recipes = [
        Recipe(path, TASKS[find_scope(path)], f'{_read_purpose(path)} {scores.get(path, "")}'.rstrip())
        for path in paths
    ]
    tasks = [*TASKS.values()]
    return sorted(recipes, key=lambda recipe: (tasks.index(recipe.task), recipe.path))


def _read_purpose(path: Path) -> str:
    """Return the first sentence of a config's opening comment, up to a colon."""
    lines = itertools.takewhile(lambda line: line.startswith('# '), path.read_text(encoding='utf-8').splitlines())
    comment = ' '.join(line[2:] for line in lines)
    return re.split(r'\. (?=[A-Z])|: ', comment)[0].rstrip('.') + '.'


def find_scope(path: Path) -> str:
    """Return the ``default_scope`` of a config: its own, or that of the first of its bases that has one."""
    return next(_scopes(path))


def _scopes(path: Path) -> Iterator[str]:
    settings: dict[str, Any] = {}
    for statement in ast.parse(path.read_text(encoding='utf-8')).body:
        if isinstance(statement, ast.Assign) and isinstance(target := statement.targets[0], ast.Name):
            if target.id in ('_base_', 'default_scope'):
                settings[target.id] = ast.literal_eval(statement.value)
    if 'default_scope' in settings:
        yield settings['default_scope']
    for base in as_list(settings.get('_base_', [])):
        library, inherited, _ = base.partition('::')
        if inherited:
            yield library
        else:
            yield from _scopes(path.parent / base)
