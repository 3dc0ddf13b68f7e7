"""Errors that a user can fix: each is one sentence that names the thing, its value and the remedy."""

from collections.abc import Sequence


def printable(value: object) -> str:
    """Untrusted text, or a path, made safe to print: of bounded length, without control characters or line breaks."""
    text = str(value)
    text = text if len(text) <= 300 else f'{text[:200]}...{text[-60:]}'
    return text if text.isprintable() else ascii(text)


def shorten(names: Sequence[object]) -> str:
    """The first four of a list, and how many there are."""
    return ', '.join(map(printable, names[:4])) + (f', ... ({len(names)} in all)' if len(names) > 4 else '')


class UserError(Exception):
    """Data, a file, a folder or a setting is invalid; the tools print it and exit with code 2."""

    def __init__(self, text: str = '') -> None:
        # From a data-loading worker it arrives with the traceback of that process; the sentence follows the class name.
        super().__init__(text.rpartition(f'{type(self).__module__}.{type(self).__qualname__}: ')[2])


class ArgumentError(UserError, ValueError):
    """An argument is out of range."""


class CheckpointError(UserError):
    """A checkpoint file is missing, corrupt or unsafe."""


class CheckpointMismatch(UserError):
    """A checkpoint does not fill every tensor of the backbone."""


class WriteError(UserError):
    """A file cannot be written: the disk is full or read-only."""


class NonFiniteError(UserError):
    """Training met a loss or a gradient that is not finite."""
