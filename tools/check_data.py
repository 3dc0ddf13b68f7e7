#!/usr/bin/env python
"""Tells what data holds and what is wrong with it, and draws it, for any task and layout.

tools/check_data.py my_data                                           # task and layout are recognised
tools/check_data.py my_data --config configs/cascade_convnext_t_coco.py    # as that config reads it
"""

import argparse
import contextlib
import json
import sys
from pathlib import Path

if __name__ == '__main__':  # before what takes seconds to import
    import interruptible  # noqa: F401

from convnext_backbone.apis.check_data import inspect_config, inspect_folder
from convnext_backbone.apis.data_pages import PAGE, print_report, write_pages
from convnext_backbone.config.load import prepare_config
from convnext_backbone.config.own_data import FINDERS, Annotations, add_annotation_flags
from convnext_backbone.utils.cli import add_cfg_options, user_errors
from convnext_backbone.utils.errors import UserError
from convnext_backbone.utils.validation import NOT_NEGATIVE


def parse_args() -> argparse.Namespace:
    """Parse the command line.

    Raises:
        UserError: The arguments do not go together.
    """
    parser = argparse.ArgumentParser(
        description='Tell what data holds and what is wrong with it. Exit code 2: something would end a run or spoil '
        'its result.'
    )
    parser.add_argument('data_root', metavar='DATA', help='the folder of the data; nothing is written into it')
    parser.add_argument('--config', metavar='CONFIG', help='read the data as this config does')
    add_cfg_options(parser)
    parser.add_argument('--task', choices=[*FINDERS], help='what the data is for, where the folder does not say it')
    add_annotation_flags(parser)
    out = 'where to write; default work_dirs/check_data/<name of DATA>'
    parser.add_argument('--out', dest='work_dir', metavar='DIR', help=out)
    number = 'the most pictures of the page (default 100); 0 writes no page'
    parser.add_argument('--number', type=int, default=100, metavar='N', help=number)
    parser.add_argument('--json', action='store_true', help='print json on stdout, all else on stderr')
    args = parser.parse_args()
    NOT_NEGATIVE.check('--number', args.number)
    if args.config and args.task:
        raise UserError('--config and --task both say what the data is for: leave one of them out.')
    if args.cfg_options and not args.config:
        raise UserError('--cfg-options change a config: name it by --config.')
    args.work_dir = args.work_dir or str(Path('work_dirs/check_data') / Path(args.data_root).resolve().name)
    return args


@user_errors
def main() -> int:
    """Check."""
    args = parse_args()
    out_dir = Path(args.work_dir)
    with contextlib.redirect_stdout(sys.stderr):  # what is printed by others
        if args.config:
            report = inspect_config(prepare_config(args))
        else:
            annotations = Annotations(args.train_ann, args.val_ann, args.val_split)
            report = inspect_folder(Path(args.data_root), out_dir / 'data', annotations, args.task)
    if args.json:
        print(json.dumps(report.as_json(), indent=1))
    else:
        print_report(report)
    if args.number and report.splits:
        write_pages(report, out_dir, args.number)
        print(f'\nTo look through: {(out_dir / PAGE).absolute()}', file=sys.stderr if args.json else sys.stdout)
    return 2 if report.has_errors else 0


if __name__ == '__main__':
    sys.exit(main())
