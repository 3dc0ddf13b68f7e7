"""Which task a config is for, and which configs there are."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from mmengine.config import Config

from ..utils.errors import UserError

TASKS = {'mmdet': 'detection', 'mmseg': 'segmentation', 'mmengine': 'classification'}  # by default_scope


def task_of(cfg: Config) -> str:
    """The task of a config, a value of ``TASKS``.

    Raises:
        UserError: It is for none of them.
    """
    scope = 'mmengine' if cfg.model.type == 'ImageClassifier' else cfg.get('default_scope', 'mmdet')
    if scope not in TASKS:
        raise UserError(f'default_scope={scope!r} of the config is unknown here: there are {", ".join(TASKS)}.')
    return TASKS[scope]


class Recipe(NamedTuple):
    """A config: its path, its task (a value of ``TASKS``) and its purpose, a line."""

    path: Path
    task: str
    purpose: str


def list_recipes(folder: Path) -> list[Recipe]:
    """All configs below a folder but those that others only inherit from, by task and by path.

    They are read, not run: that would take a minute, as each of their bases in an MM library is looked up anew.
    """
    paths = [path for path in folder.rglob('*.py') if '_base_' not in path.parts]
    recipes = [Recipe(path, TASKS[find_scope(path)], read_purpose(path)) for path in paths]
    tasks = [*TASKS.values()]
    return sorted(recipes, key=lambda recipe: (tasks.index(recipe.task), recipe.path))


def read_purpose(path: Path) -> str:
    """What a config is for and what score to expect: so much of its opening comment."""
    comment = re.match(r'(?:# .*\n)*', path.read_text())[0]
    first, *others = re.split(r'(?<=\.) (?=[A-Z])', ' '.join(line[2:] for line in comment.splitlines()))
    score = [sentence for sentence in others if re.match(r'(Published|Ours)\b', sentence)]
    return ' '.join([first.split(': ')[0].rstrip('.') + '.', *score])


def find_scope(path: Path) -> str | None:
    """The ``default_scope`` of a config: its own, or that of the first of its bases that has one."""
    settings = dict(_literals(path))
    if 'default_scope' in settings:
        return settings['default_scope']
    bases = settings.get('_base_', [])
    for base in [bases] if isinstance(bases, str) else bases:
        library, inherited, _ = base.partition('::')
        # Of the bases in the libraries, those of the runtime alone set it.
        scope = library if inherited and 'runtime' in base else None if inherited else find_scope(path.parent / base)
        if scope is not None:
            return scope
    return None


def _literals(path: Path) -> Iterator[tuple[str, str | list[str]]]:
    """What a config says of its bases and its scope."""
    for statement in ast.parse(path.read_text()).body:
        if isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Name):
            name = statement.targets[0].id
            if name in ('_base_', 'default_scope'):
                yield name, ast.literal_eval(statement.value)
