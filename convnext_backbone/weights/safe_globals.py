"""Types that a checkpoint may unpickle besides tensors: the few of a training state, none of which can run code.

torch's ``weights_only`` reader calls what is allowed with arguments from the file. numpy trusts such arguments: a dtype
with a forged state makes it take bytes of the file for memory addresses of objects. So numpy's names are replaced here
by classes that accept numbers and text only.
"""

import argparse
import math
import pickle
from typing import Any

import numpy as np
from mmengine.logging import HistoryBuffer


class _History(HistoryBuffer):
    """Replaces ``HistoryBuffer``, whose state could exchange the statistics of all others."""

    def __setstate__(self, state: dict) -> None:
        """Set the values alone, and become what it replaces."""
        super().__setstate__({name: state[name] for name in ('_log_history', '_count_history', 'max_length')})
        self.__class__ = HistoryBuffer


def _statistic(owner: object, name: str) -> object:
    """Replaces ``getattr``, by which a pickled HistoryBuffer names its statistics; any other use raises."""
    owner = HistoryBuffer if owner is _History else owner
    if owner is not HistoryBuffer or name not in ('min', 'max', 'mean', 'current'):
        raise pickle.UnpicklingError(f'GLOBAL getattr({getattr(owner, "__name__", "?")}.{name})')
    return getattr(HistoryBuffer, name)


class _DType:
    """Replaces ``numpy.dtype``, for numbers and text only."""

    def __init__(self, code: str, align: bool = False, copy: bool = True) -> None:
        self.dtype = np.dtype(code if isinstance(code, str) else 'O')
        if self.dtype.kind not in 'biufcSU':
            raise pickle.UnpicklingError(f'GLOBAL numpy.dtype({code!r})')

    def __setstate__(self, state: tuple) -> None:
        """Set the byte order; all else follows from the code."""
        if state[1] in ('<', '>'):
            self.dtype = self.dtype.newbyteorder(state[1])


class _Array(np.ndarray):
    """Replaces ``numpy.ndarray``: filled from exactly as many bytes as its shape takes."""

    def __new__(cls, *arguments: object) -> '_Array':
        """Raise: only :func:`_reconstruct` makes one, as numpy's constructor returns uninitialized memory."""
        raise pickle.UnpicklingError('GLOBAL numpy.ndarray()')

    def __setstate__(self, state: tuple) -> None:
        if self.nbytes:  # its views would lose their memory
            raise pickle.UnpicklingError('GLOBAL numpy.ndarray filled twice')
        _, shape, dtype, is_fortran, content = state
        if type(dtype) is not _DType or not isinstance(content, bytes):
            raise pickle.UnpicklingError('GLOBAL numpy.ndarray of objects')
        if len(content) != math.prod(shape) * dtype.dtype.itemsize:
            raise ValueError('an array is cut off')
        super().__setstate__((1, shape, dtype.dtype, is_fortran, content))

    def __reduce__(self) -> Any:
        """Pickle as a plain array."""
        return np.asarray(self).view(np.ndarray).__reduce__()


def _reconstruct(kind: type, shape: tuple, code: bytes) -> _Array:
    """Replaces numpy's, which makes the empty array that a state then fills."""
    return np.ndarray.__new__(_Array, (0,), 'b')


def _scalar(dtype: _DType, content: bytes) -> np.generic:
    """Replaces numpy's."""
    if type(dtype) is not _DType or not isinstance(content, bytes):
        raise pickle.UnpicklingError('GLOBAL numpy.scalar of an object')
    return np.frombuffer(content, dtype.dtype, count=1)[0]


def _no_bytes() -> bytes:
    """Replaces ``bytes``, which makes the content of an empty array."""
    return b''


def safe_globals() -> list:
    """For :class:`torch.serialization.safe_globals`: types, and replacements with the names that they replace."""
    types: list = [argparse.Namespace, (_History, f'{HistoryBuffer.__module__}.HistoryBuffer')]
    types += [(_statistic, 'builtins.getattr')]
    types += [(_no_bytes, 'builtins.bytes'), (_DType, 'numpy.dtype'), (_Array, 'numpy.ndarray')]
    for core in ('core', '_core'):  # before numpy 2, and after
        types += [(_reconstruct, f'numpy.{core}.multiarray._reconstruct'), (_scalar, f'numpy.{core}.multiarray.scalar')]
    return types
