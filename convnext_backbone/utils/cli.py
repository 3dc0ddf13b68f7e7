"""Flags that the command-line tools share, their exit codes, and what they say where they end early."""

import argparse
import contextlib
import functools
import gc
import io
import os
import signal
import sys
import threading
import warnings
from collections.abc import Callable
from typing import Any

from mmengine.config import DictAction

from .errors import UserError, printable
from .files import explain_disk_errors


def common_parser(description: str, checkpoint: bool = False) -> argparse.ArgumentParser:
    """Parser with the flags that all tools share.

    Args:
        description: The first line of ``--help``.
        checkpoint: Whether the tool takes a CHECKPOINT after its CONFIG.
    """
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument('config', metavar='CONFIG', help='config file')
    if checkpoint:
        parser.add_argument('checkpoint', metavar='CHECKPOINT', help='checkpoint file or http(s) address')
    parser.add_argument('--data-root', metavar='DIR', help="takes the place of the config's data folder")
    parser.add_argument('--work-dir', metavar='DIR', help='where to write; default work_dirs/<name of the config>')
    add_cfg_options(parser)
    return parser


class SettingsAction(DictAction):
    """``KEY=VALUE ...``, parsed as mmengine does; a word that is none is named."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: Any = None) -> None:
        """Add the settings, or raise UserError."""
        for word in values:
            try:
                super().__call__(parser, namespace, [word], option_string)
                named = all(word.partition('=')[0].split('.'))
            except (ValueError, AssertionError, RecursionError):
                named = False
            if not named:
                raise UserError(
                    f'{option_string} {printable(word)} is no KEY=VALUE: write it without spaces, and lists in quotes '
                    f'and brackets, such as "scale=[(1333,800),(1333,640)]".'
                )


def add_cfg_options(parser: argparse.ArgumentParser) -> None:
    """Add ``--cfg-options``."""
    settings = 'settings that win over the config: model.backbone.with_cp=True train_dataloader.batch_size=1'
    parser.add_argument('--cfg-options', nargs='+', action=SettingsAction, metavar='K=V', help=settings)


def add_launcher(parser: argparse.ArgumentParser) -> None:
    """Add the flags of distributed runs."""
    parser.add_argument('--launcher', choices=('none', 'pytorch', 'slurm', 'mpi'), default='none', help='job launcher')
    parser.add_argument('--local_rank', '--local-rank', type=int, default=0, help=argparse.SUPPRESS)


def is_first_process() -> bool:
    """Whether this is rank 0 by the launcher's environment variables, before any process group exists."""
    ranks = (os.environ.get(name) for name in ('RANK', 'SLURM_PROCID', 'OMPI_COMM_WORLD_RANK'))
    return next((rank for rank in ranks if rank is not None), '0') == '0'


def tell(*lines: str) -> None:
    """Print a heading and what belongs to it once, and not on stdout, which may be json."""
    if is_first_process():
        print('\n  '.join(lines), file=sys.stderr)


def user_errors(main: Callable[[], int | None]) -> Callable[[], int]:
    """Decorator of a tool's ``main``: what a user can fix ends in one sentence, all else keeps its traceback.

    Exit codes: 2 for a :class:`UserError` or a file that cannot be used, 130 for Ctrl-C, 141 for an output that nobody
    reads any more (``| head``).
    """

    @functools.wraps(main)
    def wrapped() -> int:
        # The engine's own use of deprecated interfaces is nothing that a user can fix.
        warnings.filterwarnings('ignore', category=FutureWarning)
        warnings.filterwarnings('ignore', category=DeprecationWarning)
        warnings.filterwarnings('ignore', 'pkg_resources is deprecated', category=UserWarning)
        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(errors='backslashreplace')  # names of files need not be UTF-8
        handler, thread = signal.getsignal(signal.SIGINT), threading.current_thread()
        may_set = callable(handler) and thread is threading.main_thread()  # and it is not ignored
        if may_set:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        try:
            with explain_disk_errors('The output of the command'):
                try:
                    code = main() or 0
                except SystemExit:
                    sys.stdout.flush()
                    raise
                sys.stdout.flush()  # what fails does so here, and not at Python's end
                return code
        except BaseException as error:
            code, sentence = _explain_end(error)
            if not code:
                raise
        finally:
            if may_set:
                signal.signal(signal.SIGINT, handler)
        gc.collect()  # ends the workers of data loaders, which may say something, too
        with contextlib.suppress(OSError):
            print(sentence, end='\n' * bool(sentence), file=sys.stderr)
        return code

    return wrapped


def _explain_end(error: BaseException) -> tuple[int, str]:
    """The exit code for an exception and what to say; code 0 for a fault of the program."""
    chain = [error]
    while cause := chain[-1].__cause__ or chain[-1].__context__:
        chain.append(cause)
    if any(isinstance(one, KeyboardInterrupt) for one in chain):  # which libraries take for an error of their own
        return 130, 'interrupted'
    if str(error).startswith('DataLoader worker (pid'):  # a signal, which may strike while another error is on its way
        error = next((one for one in chain if isinstance(one, UserError)), error)
    if isinstance(error, UserError):
        return 2, f'error: {error}'
    if isinstance(error, BrokenPipeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python writes what is left at its end
        return 141, ''
    if isinstance(error, OSError) and error.filename and error.strerror:
        name = printable(error.filename)
        return 2, f'error: {name} cannot be used: {error.strerror}; check its path, its permissions and `ulimit -a`.'
    return 0, ''
