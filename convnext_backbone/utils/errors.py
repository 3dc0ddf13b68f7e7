"""The errors that a user can mend: each is one sentence that names the thing, its value and the remedy."""


def printable(text: str) -> str:
    """Text from outside, fit for a sentence: of bounded length, and without what moves the cursor or begins a line."""
    text = text if len(text) <= 300 else f'{text[:200]}...{text[-60:]}'
    return text if text.isprintable() else ascii(text)


def shorten(names: list[str]) -> str:
    """The first of a list, and how many there are."""
    return ', '.join(map(printable, names[:4])) + (f', ... ({len(names)} in all)' if len(names) > 4 else '')


class UserError(Exception):
    """Something outside the code is wrong: data, a file, a folder or a setting. The tools end with exit code 2."""

    def __init__(self, text: str = '') -> None:
        # Out of a process that loads data it comes with that one's traceback, which ends with the name of the class.
        super().__init__(text.rpartition(f'{type(self).__module__}.{type(self).__qualname__}: ')[2])


class ArgumentError(UserError, ValueError):
    """An argument is out of range: the text names it, its value and what is allowed."""


class CheckpointError(UserError):
    """A checkpoint file is missing, damaged or unsafe."""


class CheckpointMismatch(UserError):
    """A checkpoint does not fill every tensor of the backbone."""


class NonFiniteError(UserError):
    """Training met a loss or a gradient that is not finite."""
