"""Reads checkpoint files safely.

A file is only ever unpickled with torch's ``weights_only`` reader, which builds tensors and plain containers. The few
types that a training state of mmengine needs on top are allowed by name, so nothing in a file can run code. Importing
this module puts that reader in the place of mmengine's own, through mmengine's registry of checkpoint loaders: it then
serves ``init_cfg``, ``load_from``, resuming and testing alike. (mmengine 0.10.7 cannot read its own checkpoints on
torch >= 2.6; onedl-mmengine reads a file that the safe reader refuses once more without its protection.)
"""

import os
import pickle
import re
from pathlib import Path
from typing import Any
from urllib.error import URLError

import numpy as np
import torch
from mmengine.logging import HistoryBuffer, print_log
from mmengine.runner import CheckpointLoader

from .errors import CheckpointError

_URL = ('http://', 'https://')
# Schemes whose loaders in mmengine unpickle by themselves, out of reach of the safe reader.
_REFUSED_SCHEMES = ('pavi://', r'(\S+\:)?s3://', r'(\S+\:)?petrel://')


def _statistic(owner: object, name: str) -> object:
    """Stands in for ``getattr``, by which a pickled HistoryBuffer names its statistics; refuses any other use."""
    if owner is not HistoryBuffer or name not in ('min', 'max', 'mean', 'current'):
        raise pickle.UnpicklingError(f'GLOBAL getattr({getattr(owner, "__name__", "?")}.{name})')
    return getattr(HistoryBuffer, name)


def _safe_types() -> list:
    """What a training state holds beside tensors: mmengine's message hub, with numpy arrays and scalars in it."""
    reconstruct = np.empty(0).__reduce__()[0]
    scalar = np.float64(0).__reduce__()[0]
    types: list = [HistoryBuffer, (_statistic, 'builtins.getattr'), np.ndarray, np.dtype]
    types += [getattr(np.dtypes, name) for name in np.dtypes.__all__ if name.endswith('DType')]
    for function in (reconstruct, scalar):  # the module is called numpy.core before numpy 2, numpy._core after
        types += [(function, f'numpy.{core}.multiarray.{function.__name__}') for core in ('core', '_core')]
    return types


def read_checkpoint(source: str | os.PathLike, map_location: Any = 'cpu') -> Any:
    """Reads a checkpoint without ever running code from it.

    Args:
        source: Path, ``file://`` or ``http(s)://`` address of a ``.pth``, ``.pt``, ``.bin`` or ``.safetensors`` file.
        map_location: As of :func:`torch.load`.

    Returns:
        What the file holds, a dict as a rule.

    Raises:
        CheckpointError: The file is missing, cut off, not a checkpoint, or holds types that could run code.
    """
    source = os.fspath(source)
    path = _download(source) if source.startswith(_URL) else Path(source.removeprefix('file://')).expanduser()
    if not path.is_file():
        raise CheckpointError(f'The checkpoint {source} does not exist: check the path.')
    try:
        if path.suffix == '.safetensors':
            from safetensors.torch import load_file

            return load_file(path, device=str(map_location or 'cpu'))
        with torch.serialization.safe_globals(_safe_types()):
            return torch.load(path, map_location=map_location, weights_only=True)
    except pickle.UnpicklingError as error:
        forbidden = re.search(r'GLOBAL (\S+)|(?:function|class|type) (\S+)', str(error))
        if forbidden is None:
            raise CheckpointError(_damaged(source)) from error
        name = (forbidden[1] or forbidden[2]).strip('`\'"')
        raise CheckpointError(
            f'The checkpoint {source} was refused: it holds {name}, which is neither a tensor nor part of a training '
            f'state and could run code; nothing of it was run. Use a file from a source that you trust.'
        ) from error
    except OSError as error:
        raise CheckpointError(f'The checkpoint {source} cannot be read: {error.strerror or error}.') from error
    except Exception as error:  # what a parser raises on damaged bytes is not limited to a few types
        raise CheckpointError(_damaged(source)) from error


def _damaged(source: str) -> str:
    return f'The checkpoint {source} cannot be read: it is cut off or no checkpoint; copy or download it again.'


def _download(url: str) -> Path:
    """Fetches a file into torch hub's cache, once."""
    target = Path(torch.hub.get_dir()) / 'checkpoints' / url.rsplit('/', 1)[-1].partition('?')[0]
    if not target.is_file():
        target.parent.mkdir(parents=True, exist_ok=True)
        print_log(f'Downloading {url} to {target}', logger='current')
        try:
            torch.hub.download_url_to_file(url, str(target))
        except (URLError, OSError) as error:
            reason = getattr(error, 'reason', error)
            raise CheckpointError(
                f'The checkpoint {url} cannot be downloaded ({reason}): put the file at {target}, or start from '
                f'random weights with --cfg-options model.backbone.init_cfg=None.'
            ) from error
    return target


def _refuse(source: str, map_location: Any = None) -> None:
    raise CheckpointError(f'The checkpoint {source} was refused: this scheme has no safe reader; download it first.')


def _load_from_safe(source: str, map_location: Any = None) -> Any:
    return read_checkpoint(source, map_location)


CheckpointLoader.register_scheme(prefixes=('', 'file://', *_URL), loader=_load_from_safe, force=True)
CheckpointLoader.register_scheme(prefixes=_REFUSED_SCHEMES, loader=_refuse, force=True)
