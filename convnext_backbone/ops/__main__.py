"""Puts the operators into mmcv, takes them out, or tells which are used: ``python -m convnext_backbone.ops --help``."""

import argparse
import json
import sys

from .installation import OperatorsError, install, uninstall
from .status import status


def main() -> int:
    """Runs one of the three commands; returns the exit code."""
    parser = argparse.ArgumentParser(prog='python -m convnext_backbone.ops', description="mmcv's operators.")
    commands = parser.add_subparsers(dest='command', required=True)
    commands.add_parser('install', help='let mmcv find them, whatever is imported first')
    commands.add_parser('uninstall', help='take away what install has written')
    shows = commands.add_parser('status', help='which operators mmcv uses, and how fast they are')
    shows.add_argument('--json', action='store_true', help='print the result as JSON')
    args = parser.parse_args()
    try:
        if args.command == 'status':
            print(_in_words(status()) if not args.json else json.dumps(status(), indent=2))
        else:
            print(install() if args.command == 'install' else uninstall())
    except OperatorsError as error:
        print(f'error: {error}', file=sys.stderr)
        return 2
    return 0


def _in_words(result: dict) -> str:
    kind = "mmcv's compiled operators" if result['kind'] == 'compiled' else 'operators out of torchvision'
    lines = [f'mmcv uses {kind}: {result["file"]}']
    for device, times in result['milliseconds'].items():
        lines += [f'{device:>6}  {name:16}{milliseconds:10.2f} ms' for name, milliseconds in times.items()]
    return '\n'.join(lines)


if __name__ == '__main__':
    sys.exit(main())
