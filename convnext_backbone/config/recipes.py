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

SCOPES = {'mmdet': 'detection', 'mmseg': 'segmentation', 'mmengine': 'classification'}  # tasks by default_scope
MODELS = {'ImageClassifier': 'classification', 'MaskedAutoencoder': 'pretraining'}  # whatever the scope
TASKS = tuple(dict.fromkeys([*SCOPES.values(), *MODELS.values()]))


def task_of(cfg: Config) -> str:
    """Return the task of a config, one of ``TASKS``.

    Raises:
        UserError: It is for none of them.
    """
    return _find_task(cfg.model.type, cfg.get('default_scope', 'mmdet'))


def _find_task(model: Any, scope: str) -> str:
    name = getattr(model, '__name__', model)  # a class in some configs
    if name not in MODELS and scope not in SCOPES:
        raise UserError(f'default_scope={scope!r} of the config is unknown here: there are {", ".join(SCOPES)}.')
    return MODELS.get(name) or SCOPES[scope]


class Recipe(NamedTuple):
    """A config: its path, its task (one of ``TASKS``), and in a line its purpose and score."""

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
        if model.ours or model.scores
    }
    paths = [path for path in folder.rglob('*.py') if '_base_' not in path.parts]
    recipes = [
        Recipe(path, _read_task(path), f'{_read_purpose(path)} {scores.get(path, "")}'.rstrip()) for path in paths
    ]
    return sorted(recipes, key=lambda recipe: (TASKS.index(recipe.task), recipe.path))


def _read_purpose(path: Path) -> str:
    """Return the first sentence of a config's opening comment, up to a colon."""
    lines = itertools.takewhile(lambda line: line.startswith('# '), path.read_text(encoding='utf-8').splitlines())
    comment = ' '.join(line[2:] for line in lines)
    return re.split(r'\. (?=[A-Z])|: ', comment)[0].rstrip('.') + '.'


def find_scope(path: Path) -> str:
    """Return the ``default_scope`` of a config: its own, or that of the first of its bases that has one."""
    return next(value for name, value in _read_settings(path) if name == 'default_scope')


def _read_task(path: Path) -> str:
    settings = dict(reversed([*_read_settings(path)]))
    return _find_task(settings.get('model'), settings['default_scope'])


def _read_settings(path: Path) -> Iterator[tuple[str, str]]:
    """Iterate over ``default_scope`` and the type of ``model``, as a config has them, then as its bases do."""
    bases: Any = []
    for statement in ast.parse(path.read_text(encoding='utf-8')).body:
        if not isinstance(statement, ast.Assign) or not isinstance(target := statement.targets[0], ast.Name):
            continue
        if target.id == '_base_':
            bases = ast.literal_eval(statement.value)
        elif target.id == 'default_scope':
            yield target.id, ast.literal_eval(statement.value)
        elif target.id == 'model' and isinstance(statement.value, ast.Call):
            types = [word.value for word in statement.value.keywords if word.arg == 'type']
            yield from ((target.id, str(node.value)) for node in types if isinstance(node, ast.Constant))
    for base in as_list(bases):
        library, inherited, _ = base.partition('::')
        if inherited:
            yield 'default_scope', library
        else:
            yield from _read_settings(path.parent / base)
