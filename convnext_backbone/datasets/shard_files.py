"""Webdataset shards: expanding their names, finding their lengths, and reading their samples with clear errors."""

import contextlib
import json
import os
import re
import tarfile
from collections.abc import Iterator, Sequence
from types import ModuleType
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from mmengine.logging import print_log

from ..utils.errors import ArgumentError, UserError, printable, shorten

_IMAGES = ('jpg', 'jpeg', 'png', 'webp')


class Sample(NamedTuple):
    """A sample of a shard, still encoded."""

    name: str
    image: bytes
    label: int | None


def import_webdataset() -> ModuleType:
    """Import webdataset, which only streams need."""
    try:
        import webdataset
    except ImportError as error:
        raise UserError(f'Shards are read by the package webdataset ({error}): pip install webdataset') from error
    return webdataset


def expand_shards(shards: str | Sequence[str]) -> list[str]:
    """Expand the patterns of shards to paths and URLs."""
    expand_urls = import_webdataset().shardlists.expand_urls
    patterns = [shards] if isinstance(shards, str) else shards
    try:
        urls = [url for pattern in patterns for url in expand_urls(str(pattern))]
    except (ValueError, AssertionError) as error:  # braces that do not close, a ${variable} that is not set
        raise ArgumentError(f'shards={shards!r} cannot be expanded: {error}.') from error
    if not urls:
        raise ArgumentError('shards is empty: name one tar file at least.')
    missing = [url for url in urls if not urlsplit(url).scheme and not os.path.exists(url)]
    if missing:  # now, not hours later in a worker
        raise UserError(
            f'These shards do not exist: {shorten(missing)}; many are named by train-{{000000..000099}}.tar, not by *.'
        )
    return urls


def _split(url: str) -> tuple[str, str]:
    """The folder of a shard, with its slash, and its name."""
    folder, slash, name = url.partition('?')[0].rpartition('/')
    return folder + slash, name


def find_lengths(urls: list[str]) -> list[int]:
    """Find the number of samples of each shard in an info file beside it, or by counting."""
    # A command is not rewritten to read the info file: it could do anything.
    folders = {_split(url)[0] for url in urls if not url.startswith('pipe:')}
    infos = {folder: _read_info(folder) for folder in folders}
    known = [infos.get(folder, {}).get(name) for folder, name in map(_split, urls)]
    unknown = [url for url, length in zip(urls, known, strict=True) if length is None]
    remote = [url for url in unknown if urlsplit(url).scheme not in ('', 'file')]
    if remote:
        raise UserError(
            f'The number of samples of these shards is unknown, and only local shards can be counted: '
            f'{shorten(remote)}; give shard_lengths, one number for each, or put an _info.json of timm beside them.'
        )
    if unknown:
        print_log(f'Counting the samples of {len(unknown)} shards that no _info.json beside them lists.', 'current')
    return [_count(url) if length is None else length for url, length in zip(urls, known, strict=True)]


def _read_info(folder: str) -> dict[str, int]:
    """The number of samples of each shard of a folder, by name, from timm's info file."""
    for name in ('_info.json', 'info.json'):
        try:
            with contextlib.closing(import_webdataset().gopen(folder + name)) as stream:
                splits = json.load(stream)['splits'].values()
            return {file: n for it in splits for file, n in zip(it['filenames'], it['shard_lengths'], strict=True)}
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            continue  # missing, not supported by gopen, or an unrelated file of that name
    return {}


def _is_sample_file(name: str) -> bool:
    """Whether a file in a shard is an image or a label, by its extension."""
    extension = import_webdataset().tariterators.base_plus_ext(name)[1]
    return extension is not None and extension.lower() in ('cls', *_IMAGES)


@contextlib.contextmanager
def _opened(url: str) -> Iterator[Any]:
    """An open shard; failures to read it become a UserError."""
    stream = None
    try:
        stream = import_webdataset().gopen(url)
        yield stream
    except (OSError, EOFError, ValueError, tarfile.TarError) as error:
        reason = getattr(error, 'strerror', None) or str(error.args[0] if error.args else error).partition(' @ ')[0]
        raise UserError(
            f'The shard {printable(url)} is missing, truncated or corrupt ({reason}): fetch or write it again, '
            f'or remove it from shards.'
        ) from error
    finally:
        with contextlib.suppress(OSError):  # a command that is not read to its end may complain
            if stream is not None:
                stream.close()


def _count(url: str) -> int:
    """The number of samples of a local shard, from its headers alone."""
    with _opened(url) as stream, tarfile.open(fileobj=stream) as archive:
        names = [member.name for member in archive if member.isreg() and _is_sample_file(member.name)]
        stream.seek(archive.offset)
        if stream.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
            raise tarfile.ReadError('it has no end')  # truncated between two files
        files = (dict(fname=name, data=b'', __url__=url) for name in names)
        return sum(1 for _ in import_webdataset().tariterators.group_by_keys(files))


def read_samples(url: str, length: int, stop: int, labelled: bool = True) -> Iterator[Sample]:
    """Read the first ``stop`` samples of a shard, which must hold ``length``, each with a label if so ``labelled``."""
    tar, shard, number = import_webdataset().tariterators, _split(url)[1], 0
    with _opened(url) as stream:
        files = tar.tar_file_expander([dict(url=url, stream=stream)], select_files=_is_sample_file)
        samples = tar.group_by_keys(files)
        for number, parts in enumerate(samples, 1):
            if number == length and next(samples, None):  # checked now: the caller asks for none after the last
                number += 1
                break
            name = f'{shard}/{parts["__key__"]}'
            image = next((parts[extension] for extension in _IMAGES if extension in parts), None)
            if image is None or (labelled and not re.fullmatch(rb'\s*\d{1,9}\s*', parts.get('cls', b''))):
                label = ' or a .cls with its number: write both, one after the other,' if labelled else ': write it'
                raise UserError(
                    f'The sample {printable(name)} lacks an image ({", ".join(_IMAGES)}){label} into {printable(url)}, '
                    f'or fetch it again if it is truncated.'
                )
            yield Sample(name, image, int(parts['cls']) if labelled else None)
            if number == stop < length:
                return
    if number != length:
        found = number if number < length else 'more'
        raise UserError(
            f'The shard {printable(url)} holds {found} samples instead of {length}: fetch it again if it is truncated, '
            f'or fix shard_lengths or the _info.json beside it.'
        )
