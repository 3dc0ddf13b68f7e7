"""Safe reading of checkpoint files: no code in a file is ever run.

Files are unpickled by torch's ``weights_only`` reader, with the few types of :mod:`.safe_globals` allowed; only
``trust`` lifts that, for a file of your own. Importing this module registers the reader for all of mmengine's
checkpoint schemes: it then serves ``init_cfg``, ``load_from``, resuming and testing. (mmengine 0.10.7 cannot read its
own checkpoints on torch >= 2.6; onedl-mmengine reads a file that the safe reader refused again without its protection.)
"""

import contextlib
import functools
import hashlib
import os
import pickle
import re
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import torch
from mmengine.runner import CheckpointLoader
from mmengine.runner.checkpoint import get_deprecated_model_names, get_external_models, get_torchvision_models
from safetensors.torch import load_file
from torch import Tensor

from ..utils.errors import CheckpointError, printable, shorten
from .download import fetch_hub, fetch_url
from .safe_globals import safe_globals

_URL = ('http://', 'https://')
_SHORT_NAMES = ('torchvision://', 'modelzoo://', 'open-mmlab://', 'openmmlab://')
_HEAD = 64  # bytes by which the kind of a file is told
_TORCH_MAGIC = torch.serialization.MAGIC_NUMBER.to_bytes(10, 'little')  # of torch's format before zip
# Schemes whose loaders in mmengine unpickle files themselves.
_REFUSED_SCHEMES = ('pavi://', r'(\S+\:)?s3://', r'(\S+\:)?petrel://', 'mmcls://')


def read_checkpoint(source: str | os.PathLike, map_location: Any = 'cpu', trust: bool = False) -> Any:
    """Read a checkpoint without running code from it.

    Tensors of safetensors and torch's zip files are memory-mapped: they take memory only once they are used, and the
    file must not change until then.

    Args:
        source: Path, ``file://`` or ``http(s)://`` address or ``hf://owner/repository/file`` of a ``.pth``, ``.pt``,
            ``.bin`` or ``.safetensors`` file; a suffix ``#sha256=<64 digits>`` is checked.
        map_location: As of :func:`torch.load`.
        trust: Unpickle any type, which may run code in the file: only for files of your own.

    Returns:
        The contents of the file, usually a dict.

    Raises:
        CheckpointError: The file is missing, truncated, not a checkpoint, has another sha256, or holds types that could
            run code.
    """
    return _read(os.fspath(source), map_location, mmap=True, trust=trust)


class _CorruptFile(CheckpointError):
    """A file that is not what it should be: to be copied or downloaded again."""


def _read(source: str, map_location: Any, mmap: bool, trust: bool = False) -> Any:
    address, asked, digest = source.partition('#sha256=')
    try:
        path = _local(address)
        try:
            if asked:
                _check_digest(path, source, digest)
            return _read_file(path, printable(source), map_location, mmap, trust)
        except _CorruptFile as error:
            if address.startswith(_URL):
                with contextlib.suppress(OSError):
                    path.unlink()  # the next try downloads it again
            if address.startswith((*_URL, 'hf://')) and path.exists():
                raise CheckpointError(f'{error} It lies at {path}: remove it there first.') from error
            raise
    except CheckpointError:
        raise
    except (OSError, ValueError, RuntimeError) as error:  # the latter two where it is no name of a file
        reason = printable(getattr(error, 'strerror', None) or str(error).rstrip('.'))
        raise CheckpointError(f'The checkpoint {printable(source)} cannot be read: {reason}.') from error


def _read_file(path: Path, shown: str, map_location: Any, mmap: bool, trust: bool) -> Any:
    with path.open('rb') as file:
        head = file.read(_HEAD)
    text = ' '.join(head.decode(errors='replace').rstrip('\ufffd').split())
    if text and text.isprintable() and '\ufffd' not in text:  # no format of checkpoints begins with text
        raise _corrupt(shown, f'it is text that begins with {text!r}')
    try:
        if head[6:9] == b'\0\0{':  # safetensors, whatever its name: the length of a header, which is json
            return load_file(path, device=str(map_location or 'cpu'))
        is_zip = head.startswith(b'PK\x03\x04')
        if is_zip:
            _check_zip(path, shown)
            if not mmap:
                verify_checksums(path)
        if head.startswith(b'\x80') and _TORCH_MAGIC not in head:
            return _read_pickle(path, shown, trust)
        with torch.serialization.safe_globals(safe_globals()):
            return torch.load(path, map_location=map_location, weights_only=not trust, mmap=mmap and is_zip)
    except pickle.UnpicklingError as error:
        forbidden = re.search(r'GLOBAL (\S+)|(?:function|class|type) (\S+)', str(error))
        if forbidden is None:
            raise _corrupt(shown) from error
        name = (forbidden[1] or forbidden[2]).strip('`\'"')
        raise CheckpointError(
            f'The checkpoint {shown} was refused: it holds {name!r}, which is neither a tensor nor part of a training '
            f'state and could run code; nothing of it was run. If you made it yourself, extract its weights with '
            f'tools/convert_checkpoint.py --trust.'
        ) from error
    except (CheckpointError, OSError):
        raise
    except Exception as error:  # a parser may raise anything on corrupt bytes
        raise _corrupt(shown) from error


def _read_pickle(path: Path, shown: str, trust: bool) -> Any:
    """Read a file that Python's pickle wrote and not torch."""
    if not trust:
        raise CheckpointError(
            f'The checkpoint {shown} was refused: it is a plain pickle, as of detectron2, and could run code; nothing '
            f'of it was run. If you trust its source, extract its weights with tools/convert_checkpoint.py --trust.'
        )
    with path.open('rb') as file:
        return pickle.load(file)


def _local(source: str) -> Path:
    """The local file of a source, downloaded if necessary."""
    if source.startswith(_URL):
        return fetch_url(source)
    if source.startswith('hf://'):
        return fetch_hub(source)
    path = Path(source.removeprefix('file://')).expanduser()
    if path.is_dir():
        raise CheckpointError(f'The checkpoint {printable(source)} is a folder: name a file in it.')
    if not path.is_file():
        raise CheckpointError(f'The checkpoint {printable(source)} does not exist: check the path.')
    return path


def _check_digest(path: Path, source: str, expected: str) -> None:
    digest = hashlib.sha256()
    with path.open('rb') as file:
        while chunk := file.read(2**20):
            digest.update(chunk)
    if digest.hexdigest() != expected.lower():
        raise _CorruptFile(
            f'The checkpoint {printable(source)} was refused: the sha256 of the file is {digest.hexdigest()}; it is '
            f'another file or corrupt: download it again, or correct the digits after #sha256=.'
        )


def _check_zip(path: Path, shown: str) -> None:
    """Raise if a zip file is one that torch never writes."""
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
    wrong = None
    if any(entry.filename.endswith(('/constants.pkl', '/archive_format')) for entry in entries):
        wrong = 'it is a program (of torch.jit or torch.export) and not weights; save the state_dict of the model'
    elif sum(entry.file_size for entry in entries) > path.stat().st_size:
        wrong = 'it would unpack to more than the file holds'
    elif any(entry.filename.startswith('/') or '..' in entry.filename.split('/') for entry in entries):
        wrong = 'paths in it lead out of it'
    if wrong:
        raise CheckpointError(f'The checkpoint {shown} was refused: {wrong}.')


def verify_checksums(path: str | os.PathLike) -> None:
    """Raise unless the checksums in a checkpoint, which torch writes but does not read, are right."""
    path, file = os.fspath(path), os.stat(path)
    shown = printable(path)
    try:
        part = _first_corrupt_part(path, file.st_mtime_ns, file.st_size)
    except Exception as error:  # a parser may raise anything on corrupt bytes
        raise _corrupt(shown) from error
    if part is not None:
        raise _corrupt(shown, f'the checksum of {printable(part)} in it is wrong')


@functools.lru_cache(maxsize=8)  # a resume chooses a file by this, and then reads it
def _first_corrupt_part(path: str, changed: int, size: int) -> str | None:
    """The name of the first part whose checksum is wrong, if any."""
    with zipfile.ZipFile(path) as archive:
        return archive.testzip()


def _corrupt(shown: str, why: str = 'it is cut off or not a checkpoint of torch or safetensors') -> _CorruptFile:
    return _CorruptFile(f'The checkpoint {shown} cannot be read: {why}; copy or download it again.')


def _refuse(source: str, map_location: Any = None) -> None:
    raise CheckpointError(
        f'The checkpoint {printable(source)} was refused: this scheme has no safe reader; download it first.'
    )


def read_state(source: str, map_location: Any = None) -> dict:
    """Read a dict of weights, or a training state with ``state_dict`` and maybe ``meta`` and ``message_hub``.

    Not memory-mapped: an optimizer keeps the tensors of its state, and the file may be overwritten meanwhile.

    Raises:
        CheckpointError: As of :func:`read_checkpoint`, or it is no such dict.
    """
    state = _read(source, map_location, mmap=False)
    parts = [state] if _is_dict(state) else []
    for key in ('state_dict', 'meta', 'message_hub') if parts else ():
        parts.append({} if state.get(key) is None else state[key])
    if not parts or not all(map(_is_dict, parts)):
        raise CheckpointError(
            f'The checkpoint {printable(source)} holds no weights by name: use one that a training run wrote.'
        )
    stored = state.get('state_dict') or state
    # Attributes of a tensor in a file could shadow its methods.
    weights: Any = OrderedDict((k, Tensor.detach(v) if isinstance(v, Tensor) else v) for k, v in stored.items())
    versions = getattr(stored, '_metadata', None)
    versions = versions if isinstance(versions, dict) else {}
    weights._metadata = OrderedDict((name, one) for name, one in versions.items() if isinstance(one, dict))
    weights._metadata.source = source  # mmengine hands this on with the weights, but not their source
    # mmengine runs the config in a file as Python code: on a resume, or in an inferencer without a config.
    _, _, meta, hub = parts
    for part, key in ((meta, 'config'), (meta, 'cfg'), (hub.get('runtime_info'), 'cfg')):
        if isinstance(part, dict):
            part.pop(key, None)
    return {**state, 'state_dict': weights} if state.get('state_dict') else weights


def _is_dict(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(name, str) for name in value)


def _load_by_short_name(source: str, map_location: Any = None) -> Any:
    """Read by one of mmengine's short names for downloads, whose own loaders are unsafe in one stack."""
    scheme, _, name = source.partition('://')
    if 'mmlab' in scheme:
        urls, name = get_external_models(), get_deprecated_model_names().get(name, name)
    else:
        urls = get_torchvision_models()
    if name not in urls:
        raise CheckpointError(f'The checkpoint {printable(source)} is unknown: there are {shorten(sorted(urls))}.')
    return read_state(urls[name], map_location)


CheckpointLoader.register_scheme(prefixes=('', 'file://', 'hf://', *_URL), loader=read_state, force=True)
CheckpointLoader.register_scheme(prefixes=_SHORT_NAMES, loader=_load_by_short_name, force=True)
CheckpointLoader.register_scheme(prefixes=_REFUSED_SCHEMES, loader=_refuse, force=True)
