#!/usr/bin/env python
"""Count the parameters, multiply-adds and training memory of a model, without allocating it.

tools/complexity.py configs/cascade_convnext_xl_22k_coco.py
tools/complexity.py configs/cascade_convnext_t_coco.py --shape 608 1024 --json
tools/complexity.py --zoo               # every model, beside the papers' numbers
tools/complexity.py --zoo --markdown    # the table of docs/zoo.md
"""

import argparse
import contextlib
import json
import sys
from pathlib import Path

if __name__ == '__main__':  # before what takes seconds to import
    import interruptible  # noqa: F401

from convnext_backbone.analysis.complexity import AUXILIARY_HEAD, Complexity, count_complexity
from convnext_backbone.analysis.zoo import MARKDOWN_HEAD, Entry, count_published, markdown_row, read_zoo
from convnext_backbone.config.load import load_config
from convnext_backbone.utils.cli import add_cfg_options, user_errors
from convnext_backbone.utils.errors import UserError

CONFIGS = Path(__file__).resolve().parents[1] / 'configs'
ZOO_HEAD = (
    f'{"":<38}{"parameters / M":>18}{"GFLOPs":>20}\n'
    f'{"model":<38}{"ours":>9}{"paper":>9}{"ours":>10}{"paper":>10}{"difference":>13}'
)


def parse_args() -> argparse.Namespace:
    """Parse the command line.

    Raises:
        UserError: The arguments do not go together.
    """
    parser = argparse.ArgumentParser(
        description='Count the parameters, the multiply-adds and the training memory of a model.'
    )
    parser.add_argument('config', nargs='?', metavar='CONFIG', help='config file')
    parser.add_argument(
        '--shape', nargs=2, type=int, metavar=('H', 'W'), help='height and width of the image; default as in tests'
    )
    add_cfg_options(parser)
    parser.add_argument('--zoo', action='store_true', help="count all models, beside the papers' numbers")
    parser.add_argument('--markdown', action='store_true', help='with --zoo: print the table of docs/zoo.md')
    parser.add_argument('--json', action='store_true', help='print json on stdout, all else on stderr')
    args = parser.parse_args()
    if args.zoo == bool(args.config):
        raise UserError('There is nothing to count, or too much: name either one CONFIG or --zoo.')
    if args.zoo and (args.shape or args.cfg_options):
        raise UserError('--shape and --cfg-options are for one CONFIG: the zoo is counted as it was published.')
    if args.markdown and (args.json or not args.zoo):
        raise UserError('--markdown is a form of --zoo: write --zoo --markdown, without --json.')
    return args


def report(cost: Complexity) -> str:
    """Format the costs of all parts as a table."""
    height, width = cost.shape
    lines = [
        f'one image of {width}x{height} pixels (width x height)',
        '',
        f'{"part":<22}{"parameters":>14}{"GFLOPs":>12}',
    ]
    for name, (parameters, multiply_adds) in {**cost.parts, 'all': cost.total}.items():
        gflops = 'training' if name == AUXILIARY_HEAD else f'{multiply_adds / 1e9:.2f}'
        lines.append(f'{name:<22}{parameters / 1e6:>12.2f} M{gflops:>12}')
    (height, width), model, image = cost.memory
    lines += ['', 'GFLOPs: multiply-adds of convolutions and matrix products, each counted once, in 1e9']
    training = f'{model / 2**30:.2f} GiB, and {image / 2**30:.2f} GiB for each image of {width}x{height}'
    return '\n'.join([*lines, f'Training in fp32 with AdamW: {training}'])


def as_json(cost: Complexity) -> dict:
    """What a program reads."""
    parts = {name: part._asdict() for name, part in cost.parts.items()}
    return dict(shape=cost.shape, **cost.total._asdict(), parts=parts, training_memory=cost.memory._asdict())


def zoo_as_json() -> list[dict]:
    """All models beside the papers' numbers, for a program."""
    entries = [count_published(model, CONFIGS) for model in read_zoo(CONFIGS)]
    keys = ('name', 'parameters', 'gflops')
    return [
        dict(name=model.name, **as_json(cost), published={key: getattr(model, key) for key in keys})
        for model, cost in entries
    ]


def print_zoo(markdown: bool) -> None:
    """Print all models beside the papers' numbers, or the table of docs/zoo.md, each row as soon as it is counted."""
    head, format_row = (MARKDOWN_HEAD, markdown_row) if markdown else (ZOO_HEAD, zoo_row)
    print(head)
    for model in read_zoo(CONFIGS):
        print(format_row(count_published(model, CONFIGS)), flush=True)


def zoo_row(entry: Entry) -> str:
    """Format our numbers of a model and the paper's."""
    published, total = entry.published, entry.cost.total
    parameters, gflops = (
        '-' if number is None else f'{number:g}' for number in (published.parameters, published.gflops)
    )
    difference = '-' if entry.difference is None else f'{entry.difference:+.2f} %'
    return (
        f'{published.name:<38}{total.parameters / 1e6:>9.2f}{parameters:>9}{total.multiply_adds / 1e9:>10.2f}'
        f'{gflops:>10}{difference:>13}'
    )


@user_errors
def main() -> None:
    """Count one config, or the zoo."""
    args = parse_args()
    with contextlib.redirect_stdout(sys.stderr if args.json else sys.stdout):
        if not args.zoo:
            cost = count_complexity(load_config(args.config, cfg_options=args.cfg_options), args.shape)
            result = dict(config=args.config, **as_json(cost))
        elif args.json:
            result = zoo_as_json()
        else:
            print_zoo(args.markdown)
    if args.json:
        print(json.dumps(result, indent=2))
    elif not args.zoo:
        print(f'{args.config}, {report(cost)}')


if __name__ == '__main__':
    sys.exit(main())
