"""Atomic writing, and disk errors explained in one sentence."""

import contextlib
import errno
import logging
import os
import secrets
import tempfile
from collections.abc import Iterator
from pathlib import Path

from .errors import UserError, WriteError, printable

_DISK_FAILURES = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG)


@contextlib.contextmanager
def replaced_atomically(path: str | os.PathLike) -> Iterator[Path]:
    """Context of a temporary file that replaces ``path`` at the end, unless something was raised.

    Raises:
        WriteError: The disk is full or the folder is not writable; the old file is untouched.
    """
    path = Path(path)
    temporary = path.parent / f'.{path.name}.{secrets.token_hex(4)}.tmp'
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.touch(exist_ok=False)
        mode = temporary.stat().st_mode
        yield temporary
        with temporary.open('rb') as file:  # only now: a writer may have put another file in its place
            os.fsync(file.fileno())
        temporary.chmod(mode)
        os.replace(temporary, path)
    except OSError as error:
        raise _cannot_be_written(path, error) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


def _cannot_be_written(path: str | os.PathLike, error: OSError) -> WriteError:
    return WriteError(
        f'{path} cannot be written: {error.strerror}; what was saved before is untouched. Free space there or choose '
        f'another folder.'
    )


def write_atomically(data: bytes, path: str | os.PathLike) -> None:
    """Write a file so that a reader, or a crash, finds either the old or the new content, never a part.

    Raises:
        WriteError: As of :func:`replaced_atomically`.
    """
    with replaced_atomically(path) as temporary:
        temporary.write_bytes(data)


def remove_link(path: str | os.PathLike) -> Path:
    """Remove a link, also a hard one, where a library writes a file in place: what it leads to is not to be written."""
    path = Path(path)
    if path.is_symlink() or (path.is_file() and path.stat().st_nlink > 1):
        path.unlink()
    return path


@contextlib.contextmanager
def explain_disk_errors(work_dir: str | os.PathLike) -> Iterator[None]:
    """Turn errors of a full or read-only disk into :class:`WriteError`; a log that cannot be written stops nothing."""
    tell, logging.raiseExceptions = logging.raiseExceptions, False
    try:
        yield
    except OSError as error:
        if error.errno not in _DISK_FAILURES:
            raise
        raise _cannot_be_written(error.filename or work_dir, error) from error
    finally:
        logging.raiseExceptions = tell


def check_work_dir(work_dir: str | os.PathLike, flag: str = '--work-dir') -> None:
    """Create a folder that a flag names, and make sure that it is writable.

    Raises:
        UserError: It cannot be created or written.
    """
    try:
        os.path.abspath(work_dir).encode()  # other files will hold it
        Path(work_dir).mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=Path(work_dir)).close()
    except (OSError, UnicodeError) as error:
        reason = getattr(error, 'strerror', 'its name is no UTF-8')
        raise UserError(
            f'The folder {printable(work_dir)} cannot be written: {reason}; choose another with {flag}.'
        ) from error
