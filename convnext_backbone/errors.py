"""The errors that a user can mend: each is one sentence that names the thing, its value and the remedy."""


class UserError(Exception):
    """Something outside the code is wrong: data, a file, a folder or a setting. The tools end with exit code 2."""


class ArgumentError(UserError, ValueError):
    """An argument is out of range: the text names it, its value and what is allowed."""


class CheckpointError(UserError):
    """A checkpoint file is missing, damaged or unsafe."""


class CheckpointMismatch(UserError):
    """A checkpoint does not fill every tensor of the backbone."""


class NonFiniteError(UserError):
    """Training met a loss or a gradient that is not finite."""
