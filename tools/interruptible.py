"""Ctrl-C at any moment of a tool, also while it imports libraries for seconds. To be imported before them."""

import os
import signal
import sys
import threading
from typing import Any, NoReturn


def _end(*arguments: object) -> NoReturn:
    os.write(2, b'interrupted\n')
    os._exit(130)


def _raise_again(ignored: Any) -> None:
    """Raise a Ctrl-C again that struck where Python ignores exceptions, as in a ``__del__``."""
    if isinstance(ignored.exc_value, KeyboardInterrupt):
        threading.Timer(0.01, signal.raise_signal, [signal.SIGINT]).start()
    else:
        sys.__unraisablehook__(ignored)


sys.unraisablehook = _raise_again
if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, _end)  # until user_errors raises KeyboardInterrupt, after which files are closed
