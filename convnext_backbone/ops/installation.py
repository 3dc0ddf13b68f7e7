"""How the operators get into mmcv, and which ones are in there.

mmcv's pure Python build looks for a compiled module ``mmcv._ext`` when ``mmcv.ops`` is imported. Importing
``convnext_backbone`` provides one where Python finds none (:class:`LastFinder`); a file in mmcv's folder does so for
scripts that import mmdet first (:func:`install`). Python prefers a compiled module beside it and asks our finder last.
"""

import importlib.util
import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import EXTENSION_SUFFIXES, ModuleSpec
from pathlib import Path
from types import ModuleType

NAME = 'mmcv._ext'
STAND_IN = Path(__file__).with_name('stand_in.py')
NO_MMCV = (
    'mmcv is not installed: run `pip install mmcv-lite==2.1.0`, or `pip install onedl-mmcv` for the OneDL packages.'
)


class OperatorsError(Exception):
    """The operators cannot be installed or used; one sentence with the remedy."""


class LastFinder(MetaPathFinder):
    """Provides ``mmcv._ext`` where no other finder has one: it stands last in ``sys.meta_path``."""

    @staticmethod
    def find_spec(
        fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """A specification that loads :mod:`convnext_backbone.ops.ext` under mmcv's name for it."""
        if fullname != NAME:
            return None
        return importlib.util.spec_from_file_location(fullname, STAND_IN)


def provide() -> None:
    """Lets ``import mmcv.ops`` work in this process, with whatever operators there are; costs nothing before."""
    if not any(isinstance(finder, LastFinder) for finder in sys.meta_path):
        sys.meta_path.append(LastFinder())


def mmcv_folder() -> Path:
    """Where mmcv lies; it is not imported.

    Raises:
        OperatorsError: It is not installed.
    """
    spec = importlib.util.find_spec('mmcv')
    if spec is None or spec.origin is None:  # without an origin it is a folder that an uninstallation has left
        raise OperatorsError(NO_MMCV)
    return Path(spec.origin).parent


def compiled_operators(folder: Path) -> Path | None:
    """The compiled module in mmcv's folder, if there is one."""
    return next((path for suffix in EXTENSION_SUFFIXES if (path := folder / f'_ext{suffix}').exists()), None)


def is_ours(path: Path) -> bool:
    """Whether a file was put there by :func:`install`, of this version or another."""
    return path.exists() and 'convnext_backbone.ops' in path.read_text(encoding='utf-8')


def install() -> str:
    """Puts the file into mmcv's folder, so that mmdet may be imported first; returns what was done, in words.

    Raises:
        OperatorsError: mmcv is not installed, its folder cannot be written to, or has such a file of somebody else.
    """
    folder = mmcv_folder()
    path, content = folder / '_ext.py', STAND_IN.read_text(encoding='utf-8')
    if compiled := compiled_operators(folder):
        return f'mmcv has compiled operators, {compiled}, which are used: nothing to do.'
    if is_ours(path) and path.read_text(encoding='utf-8') == content:
        return f'{path} is there: nothing to do.'
    if path.exists() and not is_ours(path):
        raise OperatorsError(f'{path} is not of this package: remove it first if these operators are to be used.')
    try:
        new = path.with_suffix('.new')
        new.write_text(content, encoding='utf-8')
        new.replace(path)
    except OSError as error:
        raise OperatorsError(
            f'{path} cannot be written ({error.strerror}): run this as a user who may write there, or import '
            'convnext_backbone before mmdet and mmseg in your scripts.'
        ) from error
    return f'{path} written: mmcv takes its operators from torchvision and convnext_backbone.'


def uninstall() -> str:
    """Removes the file, also where mmcv itself is gone; returns what was done, in words.

    Raises:
        OperatorsError: It cannot be removed.
    """
    folder = next((path for entry in sys.path if (path := Path(entry, 'mmcv')).is_dir()), Path())
    path = folder / '_ext.py'
    if is_ours(path):
        try:
            path.unlink()
        except OSError as error:
            raise OperatorsError(
                f'{path} cannot be removed ({error.strerror}): run this as a user who may write there.'
            ) from error
        return f'{path} removed.'
    return 'mmcv has no file of this package: nothing to do.'
