#!/usr/bin/env python
"""Converts a checkpoint of any ConvNeXt to the weights format of another library, or reports what is in it.

tools/convert_checkpoint.py work_dirs/mine/epoch_300.pth convnext.safetensors --to timm
tools/convert_checkpoint.py hf://timm/convnext_tiny.in12k/model.safetensors convnext.pth --dry-run
"""

import argparse
import dataclasses
import json
import sys

if __name__ == '__main__':  # before what takes seconds to import
    import interruptible  # noqa: F401

from convnext_backbone.utils.cli import user_errors
from convnext_backbone.weights.convert import SUFFIXES, TARGETS, check_target, convert_checkpoint, write_checkpoint


def parse_args() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description='Convert a checkpoint to the weights format of another library.')
    parser.add_argument('source', metavar='SRC', help='checkpoint file, http(s) address or hf://owner/repository/file')
    parser.add_argument('target', metavar='DST', help=f'file to write; its suffix chooses: {", ".join(SUFFIXES)}')
    parser.add_argument('--to', choices=TARGETS, default='canonical', help='weights format (default: %(default)s)')
    parser.add_argument('--half', action='store_true', help='round to fp16')
    parser.add_argument('--dry-run', action='store_true', help='only report what would be written')
    parser.add_argument('--json', action='store_true', help='print the report as json')
    parser.add_argument('--ema', action='store_true', help='take the EMA weights of a file that holds both')
    parser.add_argument('--prefix', help='prefix of the names of the backbone, where a file holds several')
    trust = 'unpickle a torch file that could run code: only for files of your own'
    parser.add_argument('--trust', action='store_true', help=trust)
    return parser.parse_args()


@user_errors
def main() -> None:
    """Convert."""
    args = parse_args()
    check_target(args.target)
    tensors, conversion = convert_checkpoint(args.source, args.to, args.half, args.prefix, args.ema, args.trust)
    if not args.dry_run:
        write_checkpoint(tensors, args.target, args.to)
    if args.json:
        print(json.dumps(dataclasses.asdict(conversion), indent=2))
    else:
        print(conversion)
        print('Nothing was written (--dry-run).' if args.dry_run else f'Written: {args.target}')


if __name__ == '__main__':
    sys.exit(main())
