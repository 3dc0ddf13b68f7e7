"""Cached downloads of checkpoints from http(s) addresses, resumed if interrupted, and from the Hugging Face Hub."""

import contextlib
import hashlib
import os
import re
import shutil
from collections.abc import Iterator
from http.client import HTTPException, HTTPMessage
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.parse import unquote, urlsplit
from urllib.request import Request, urlopen

import torch
from filelock import FileLock
from tqdm import tqdm

from ..utils.errors import CheckpointError, printable

_HUB = re.compile(r'hf://(?P<repo_id>[\w.-]+/[\w.-]+?)(?:@(?P<revision>[\w.-]+))?/(?P<filename>[^/].*)')
_PLAIN_NAME = re.compile(r'[\w-][\w.+=~-]*')


def cached_path(url: str) -> Path:
    """Path of a download in torch hub's cache: its file name and a hash of the address.

    Files of different addresses often share a name (``model.safetensors``).
    """
    name = Path(re.sub(r'[^\w.-]', '_', unquote(urlsplit(url).path).rpartition('/')[2]) or 'checkpoint')
    digits = hashlib.sha256(url.encode()).hexdigest()[:8]
    return Path(torch.hub.get_dir()) / 'checkpoints' / f'{name.stem}-{digits}{name.suffix}'


def fetch_url(url: str) -> Path:
    """Download a file into the cache unless it is there; concurrent processes wait for the first.

    If it fails with a CheckpointError, the part that has arrived is kept, and the next call resumes it.
    """
    target = cached_path(url)
    part = target.with_name(f'{target.name}.part')
    try:
        if target.is_file():  # without a lock, which a cache that is only readable cannot hold
            return target
        target.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f'{target}.lock'):
            if not target.is_file():
                _transfer_with_retries(url, part)
                os.replace(part, target)
    except (OSError, HTTPException) as error:
        reason = printable(getattr(error, 'reason', None) or error)
        raise CheckpointError(
            f'The checkpoint {printable(url)} cannot be downloaded ({reason}): try again, put the file at {target}, or '
            f'start from random weights with --cfg-options model.backbone.init_cfg=None.'
        ) from error
    return target


def _transfer_with_retries(url: str, part: Path) -> None:
    """Retry after an interruption as long as the file grows; start again once if the rest is not of the same file."""
    may_restart = True
    while True:
        before = _size(part)
        try:
            return _transfer(url, part)
        except (OSError, HTTPException) as error:
            if isinstance(error, HTTPError) and error.code == 416:  # there is nothing beyond what has arrived
                part.unlink(missing_ok=True)
            restart = before and may_restart and not part.exists()
            if not restart and (isinstance(error, HTTPError) or _size(part) <= before):
                raise
            may_restart = may_restart and not restart


def _transfer(url: str, part: Path) -> None:
    """Append the rest of a partial file; start again if the file on the server has changed."""
    note = part.with_name(f'{part.name}.etag')
    version = note.read_text() if note.is_file() else ''
    have = _size(part) if version else 0
    resume = {'Range': f'bytes={have}-', 'If-Range': version} if have else {}
    with urlopen(Request(url, headers={'User-Agent': 'convnext-backbone', **resume}), timeout=60) as response:
        if response.status == 200:
            have = 0
        total = None if response.length is None else have + response.length
        if response.status != 200:
            # Many servers know Range but not If-Range: they send the rest of whatever file they have now.
            rest = re.fullmatch(rf'bytes {have}-\d+/(\d+|\*)', response.headers['Content-Range'] or '')
            if response.status != 206 or not have or rest is None or _version(response.headers) != version:
                part.unlink(missing_ok=True)
                raise ConnectionError(f'the server answered {response.status} with another part than was asked for')
            total = total if rest[1] == '*' else int(rest[1])
        note.write_text(_version(response.headers))
        bar = dict(desc=f'Downloading {url}', initial=have, total=total)
        with part.open('ab' if have else 'wb') as file, tqdm.wrapattr(file, 'write', **bar) as shown:
            shutil.copyfileobj(response, shown, 2**20)
    if total is not None and _size(part) != total:
        raise ConnectionError(f'the connection broke after {_size(part)} of {total} bytes')
    note.unlink()


def _version(headers: HTTPMessage) -> str:
    """What a server calls this version of a file; empty if it does not tell versions apart byte by byte."""
    etag = headers['ETag'] or ''
    return headers['Last-Modified'] or '' if etag.startswith('W/') or not etag else etag


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def fetch_hub(source: str) -> Path:
    """Download ``hf://owner/repository/file`` into the cache of huggingface_hub, which resumes by itself.

    ``hf://owner/repository@revision/file`` names a branch, a tag or a commit other than ``main``.
    """
    match = _HUB.fullmatch(source)
    if match is None or '..' in re.split('[/@]', source):
        raise CheckpointError(
            f'The checkpoint {printable(source)} is not an address of a file: write hf://owner/repository/file.'
        )
    from huggingface_hub import hf_hub_download  # takes a second to import
    from huggingface_hub.errors import GatedRepoError

    try:
        with _plain_names_from_server():
            return Path(hf_hub_download(match['repo_id'], match['filename'], revision=match['revision']))
    except GatedRepoError as error:
        raise CheckpointError(
            f'The checkpoint {source} requires a licence: accept it at https://huggingface.co/{match["repo_id"]}, '
            f'then log in with `hf auth login`.'
        ) from error
    except Exception as error:  # of several network libraries
        reason = printable(str(error).strip().partition('\n')[0])
        raise CheckpointError(
            f'The checkpoint {source} cannot be downloaded ({reason}): check its name and the network, or download it '
            f'by hand and name the file.'
        ) from error


@contextlib.contextmanager
def _plain_names_from_server() -> Iterator[None]:
    """Context in which huggingface_hub names its files by what a server sends only if that leads nowhere else."""
    from huggingface_hub import file_download
    from huggingface_hub.errors import EntryNotFoundError

    fetch = file_download.get_hf_file_metadata

    def checked(*args: Any, **kwargs: Any) -> Any:
        try:
            metadata = fetch(*args, **kwargs)
        except EntryNotFoundError as error:  # it would note the missing file in a folder that the answer names
            raise FileNotFoundError('404 Not Found') from error
        for name in (metadata.etag, metadata.commit_hash):
            if name is not None and not _PLAIN_NAME.fullmatch(name):
                raise ValueError(
                    f'the server calls it {printable(name)}, which is a path: check HF_ENDPOINT and proxies'
                )
        return metadata

    file_download.get_hf_file_metadata = checked
    try:
        yield
    finally:
        file_download.get_hf_file_metadata = fetch
