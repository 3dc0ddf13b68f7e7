"""Files that are written atomically, and failures of the disk told in one sentence."""

import contextlib
import errno
import logging
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from .errors import UserError

_DISK_FAILURES = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG)


@contextlib.contextmanager
def replaced_atomically(path: str | os.PathLike) -> Iterator[Path]:
    """Gives a temporary file to write; it takes the place of ``path`` at the end, if nothing was raised.

    Raises:
        UserError: The disk is full or the folder cannot be written; what was there before is untouched.
    """
    path = Path(path)
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f'.{path.name}.', suffix='.tmp', delete=False) as file:
            temporary = Path(file.name)
        yield temporary
        with temporary.open('rb') as file:  # only now: a writer may have put another file in its place
            os.fsync(file.fileno())
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
    except OSError as error:
        raise _cannot_be_written(path, error) from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def _cannot_be_written(path: str | os.PathLike, error: OSError) -> UserError:
    return UserError(
        f'{path} cannot be written: {error.strerror}; what was saved before is untouched. Free space there or choose '
        f'another folder.'
    )


def write_atomically(data: bytes, path: str | os.PathLike) -> None:
    """Writes a file so that at every moment either the old one or the new one is there, whole.

    Raises:
        UserError: As of :func:`replaced_atomically`.
    """
    with replaced_atomically(path) as temporary:
        temporary.write_bytes(data)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


@contextlib.contextmanager
def explain_disk_errors(work_dir: str | os.PathLike) -> Iterator[None]:
    """Turns what a disk raises that is full or read-only into a :class:`UserError`, whatever a run was writing.

    A log that cannot be written does not stop a run, nor is each of its lines worth a traceback.
    """
    tell, logging.raiseExceptions = logging.raiseExceptions, False
    try:
        yield
    except OSError as error:
        if error.errno not in _DISK_FAILURES:
            raise
        raise _cannot_be_written(error.filename or work_dir, error) from error
    finally:
        logging.raiseExceptions = tell


def check_work_dir(work_dir: str | os.PathLike) -> None:
    """Makes the folder of a run and tries to write into it.

    Raises:
        UserError: It cannot be made or written.
    """
    try:
        Path(work_dir).mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=work_dir).close()
    except OSError as error:
        raise UserError(
            f'The work_dir {work_dir} cannot be written: {error.strerror}; choose another with --work-dir.'
        ) from error
