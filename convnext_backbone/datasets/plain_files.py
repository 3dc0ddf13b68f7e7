"""Safe reading of data files: no code in a pickle, a YAML file or a list of classes is ever run.

Importing this module registers the readers for all of mmengine's ``load``: it then serves annotations, proposals and
configs.
"""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import IO, Any, NoReturn

import yaml
from mmengine.fileio import register_handler
from mmengine.fileio.handlers import PickleHandler, YamlHandler

from ..utils.errors import UserError, printable

_REMEDY = (
    'which could run code, and nothing of it was run; if you trust its source convert it by `python -c "import json, '
    "pickle; json.dump(pickle.load(open('x.pkl', 'rb')), open('x.json', 'w'), default=lambda x: x.tolist() if "
    "hasattr(x, 'tolist') else dict(x.items()))\"` and name the json"
)


@register_handler(['pkl', 'pickle'])
class RefusedPickleHandler(PickleHandler):
    """Refuses to read pickles; writes them as before."""

    def load_from_fileobj(self, file: IO[bytes], **kwargs: Any) -> NoReturn:
        """Raise."""
        raise UserError(f'A pickle was to be read, {_REMEDY}.')


def refuse_pickles(settings: Iterable[tuple[str, Any]]) -> None:
    """Check the settings of data sets, by dotted name, for files that mmdet or mmseg would unpickle.

    Raises:
        UserError: One is or may be a pickle; the text names it.
    """
    for name, value in settings:
        key = name.rpartition('.')[2]
        if isinstance(value, str) and (
            value.endswith(('.pkl', '.pickle'))
            or (key == 'decode_backend' and value == 'pickle')  # of mmseg's loading of other files than images
            or (key == 'hierarchy_file' and not value.endswith('.json'))  # of Open Images, by numpy
        ):
            raise UserError(f'{name}={printable(repr(value))} is a pickle, {_REMEDY}.')


class _PlainLoader(getattr(yaml, 'CSafeLoader', yaml.SafeLoader)):  # type: ignore[misc]
    """Tuples, too, which mmengine writes."""


_PlainLoader.add_constructor(
    'tag:yaml.org,2002:python/tuple', lambda loader, node: tuple(loader.construct_sequence(node, deep=True))
)


@register_handler(['yaml', 'yml'])
class PlainYamlHandler(YamlHandler):
    """Reads YAML without tags of Python's objects."""

    def load_from_fileobj(self, file: IO[str], **kwargs: Any) -> Any:
        """Read a file."""
        return super().load_from_fileobj(file, Loader=_PlainLoader)


def read_class_map(path: str, root: str = '') -> dict[str, int]:
    """Read the labels of class names.

    Args:
        path: A text file with a name for each label from 0, or json: a list of names, or an object of names and labels.
        root: The folder that a relative path may also start from.

    Raises:
        UserError: It is missing, or of another kind.
    """
    file = next((one for one in (Path(path), Path(root) / path) if one.is_file()), None)
    if file is None:
        raise UserError(f'The class_map {printable(path)} does not exist: name a file of class names, one a line.')
    try:
        text = file.read_text(encoding='utf-8-sig')
        content = json.loads(text) if file.suffix == '.json' else [*filter(None, map(str.strip, text.splitlines()))]
    except ValueError as error:  # bytes that are no text, or text that is no json
        raise UserError(
            f'The class_map {printable(path)} is no text ({error}): write the class names into it, one a line.'
        ) from error
    labels = {name: label for label, name in enumerate(content)} if isinstance(content, list) else content
    if not isinstance(labels, dict) or len(labels) < len(content) or not all(type(n) is int for n in labels.values()):
        raise UserError(f'The class_map {printable(path)} is no list of different names: write one a line.')
    return labels
