"""Flags that the command-line tools share, and their exit codes."""

import argparse
import functools
import os
import sys
import warnings
from collections.abc import Callable

from mmengine.config import DictAction

from .errors import UserError


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
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=DictAction,
        metavar='K=V',
        help='settings that win over the config: model.backbone.with_cp=True train_dataloader.batch_size=1',
    )
    return parser


def add_launcher(parser: argparse.ArgumentParser) -> None:
    """Add the flags of distributed runs."""
    parser.add_argument('--launcher', choices=('none', 'pytorch', 'slurm', 'mpi'), default='none', help='job launcher')
    parser.add_argument('--local_rank', '--local-rank', type=int, default=0, help=argparse.SUPPRESS)


def is_first_process() -> bool:
    """Whether this is rank 0 by the launcher's environment variables, before any process group exists."""
    ranks = (os.environ.get(name) for name in ('RANK', 'SLURM_PROCID', 'OMPI_COMM_WORLD_RANK'))
    return next((rank for rank in ranks if rank is not None), '0') == '0'


def user_errors(main: Callable[[], int | None]) -> Callable[[], int]:
    """Decorator of a tool's ``main``: a :class:`UserError` becomes one sentence on stderr and exit code 2."""

    @functools.wraps(main)
    def wrapped() -> int:
        # The engine's own use of deprecated interfaces is nothing that a user can fix.
        warnings.filterwarnings('ignore', category=FutureWarning)
        warnings.filterwarnings('ignore', category=DeprecationWarning)
        warnings.filterwarnings('ignore', 'pkg_resources is deprecated', category=UserWarning)
        try:
            return main() or 0
        except UserError as error:
            print(f'error: {error}', file=sys.stderr)
            return 2
        except KeyboardInterrupt:
            print('interrupted', file=sys.stderr)
            return 130

    return wrapped
