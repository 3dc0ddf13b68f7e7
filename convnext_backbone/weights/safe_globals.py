"""What a checkpoint may unpickle beside tensors: the few types of a training state, none of which can run code.

torch's ``weights_only`` reader calls what is allowed with arguments from the file. numpy trusts such arguments: a dtype
whose state lies about its objects makes bytes of the file pass for addresses in memory. So numpy's names stand here for
classes that take numbers and text alone.
"""

import argparse
import math
import pickle
from typing import Any

import numpy as np
from mmengine.logging import HistoryBuffer


def _statistic(owner: object, name: str) -> object:
    """Stands in for ``getattr``, by which a pickled HistoryBuffer names its statistics; refuses any other use."""
    if owner is not HistoryBuffer or name not in ('min', 'max', 'mean', 'current'):
        raise pickle.UnpicklingError(f'GLOBAL getattr({getattr(owner, "__name__", "?")}.{name})')
    return getattr(HistoryBuffer, name)


class _DType:
    """Stands in for ``numpy.dtype``: of numbers and text only."""

    def __init__(self, code: str, align: bool = False, copy: bool = True) -> None:
        self.dtype = np.dtype(code if isinstance(code, str) else 'O')
        if self.dtype.kind not in 'biufcSU':
            raise pickle.UnpicklingError(f'GLOBAL numpy.dtype({code!r})')

    def __setstate__(self, state: tuple) -> None:
        """Takes the byte order; all else follows from the code."""
        if state[1] in ('<', '>'):
            self.dtype = self.dtype.newbyteorder(state[1])


class _Array(np.ndarray):
    """Stands in for ``numpy.ndarray``: filled from bytes that are as many as its shape says."""

    def __new__(cls, *arguments: object) -> '_Array':
        """Only :func:`_reconstruct` makes one: numpy's own constructor gives memory as it is."""
        raise pickle.UnpicklingError('GLOBAL numpy.ndarray()')

    def __setstate__(self, state: tuple) -> None:
        if self.nbytes:  # views of it would be left without their memory
            raise pickle.UnpicklingError('GLOBAL numpy.ndarray filled twice')
        _, shape, dtype, is_fortran, content = state
        if type(dtype) is not _DType or not isinstance(content, bytes):
            raise pickle.UnpicklingError('GLOBAL numpy.ndarray of objects')
        if len(content) != math.prod(shape) * dtype.dtype.itemsize:
            raise ValueError('an array is cut off')
        super().__setstate__((1, shape, dtype.dtype, is_fortran, content))

    def __reduce__(self) -> Any:
        """Is saved as what it stands for."""
        return np.asarray(self).view(np.ndarray).__reduce__()


def _reconstruct(kind: type, shape: tuple, code: bytes) -> _Array:
    """Stands in for numpy's, which makes the empty array that a state then fills."""
    return np.ndarray.__new__(_Array, (0,), 'b')


def _scalar(dtype: _DType, content: bytes) -> np.generic:
    """Stands in for numpy's."""
    if type(dtype) is not _DType or not isinstance(content, bytes):
        raise pickle.UnpicklingError('GLOBAL numpy.scalar of an object')
    return np.frombuffer(content, dtype.dtype, count=1)[0]


def _no_bytes() -> bytes:
    """Stands in for ``bytes``, which makes the content of an empty array."""
    return b''


def safe_globals() -> list:
    """For :class:`torch.serialization.safe_globals`: types, and stand-ins with the names that they stand for."""
    types: list = [argparse.Namespace, HistoryBuffer, (_statistic, 'builtins.getattr')]
    types += [(_no_bytes, 'builtins.bytes'), (_DType, 'numpy.dtype'), (_Array, 'numpy.ndarray')]
    for core in ('core', '_core'):  # before numpy 2, and after
        types += [(_reconstruct, f'numpy.{core}.multiarray._reconstruct'), (_scalar, f'numpy.{core}.multiarray.scalar')]
    return types
