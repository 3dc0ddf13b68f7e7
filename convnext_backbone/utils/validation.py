"""Checks of arguments and settings: a value out of range raises one sentence that names it and what is allowed."""

import math
from collections.abc import Callable
from numbers import Real
from typing import NamedTuple, TypeGuard

from .errors import ArgumentError, printable


class Kind(NamedTuple):
    """A predicate on values, and the words for what it accepts."""

    fits: Callable[[object], bool]
    words: str

    def check(self, name: str, value: object) -> None:
        """Raise unless the value is accepted.

        Raises:
            ArgumentError: The text names the argument, its value and what is allowed.
        """
        if not self.fits(value):
            raise ArgumentError(f'{name}={printable(repr(value))} is out of range: it takes {self.words}.')


def is_number(value: object) -> TypeGuard[float]:
    """Whether a value is a finite number; True and False are none."""
    try:
        return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)
    except OverflowError:  # an integer beyond the largest float
        return False


def integers(low: int, high: int | None = None) -> Kind:
    """Integers of a range; True and False are none."""
    words = f'an integer of at least {low}' if high is None else f'an integer from {low} to {high}'
    return Kind(lambda value: is_number(value) and isinstance(value, int) and low <= value <= (high or value), words)


def numbers(fits: Callable[[float], bool], words: str) -> Kind:
    """Finite numbers of which a condition holds."""
    return Kind(lambda value: is_number(value) and fits(value), f'a number {words}')


FLAG = Kind(lambda value: isinstance(value, bool), 'True or False')
COUNT = integers(1)
SIZE = integers(1, 2**16)  # of layers or channels: more would end in the allocator, or not at all
NOT_NEGATIVE = numbers(lambda value: 0 <= value <= 1e30, 'from 0 to 1e30')  # float32 ends at 3e38
POSITIVE = numbers(lambda value: value > 0, 'above 0')
NUMBER = numbers(lambda value: True, 'that is finite')
PART = numbers(lambda value: 0 <= value <= 1, 'in [0, 1]')
PROPER_PART = numbers(lambda value: 0 <= value < 1, 'in [0, 1)')
