#!/usr/bin/env python
"""Measures speed and memory on this machine, the contenders in turn.

tools/benchmark.py backbone --shapes 1x800x1216         # compared with timm, torchvision and others that are installed
tools/benchmark.py detector --peers timm                # a training step of Cascade Mask R-CNN
tools/benchmark.py pretraining                          # a masked step, compared with dense and with supervised ones
tools/benchmark.py operators                            # mmcv's, ours compared with compiled ones
tools/benchmark.py compile                              # whole models by torch.compile, in inference
tools/benchmark.py runtimes                             # exported files by onnxruntime and OpenVINO, beside torch
tools/benchmark.py gpu                                  # what a GPU makes of it, and the settings that fit it
tools/benchmark.py kernels                              # registers and spills of our GPU kernels; needs no GPU
tools/benchmark.py load --arch xlarge                   # a checkpoint into a backbone: time and peak memory
tools/benchmark.py precision                            # errors of gradients in half precision, fused and plain
tools/benchmark.py data --data-root data/imagenet       # images a second, augmented and normalized
tools/benchmark.py images --data-root data/coco/val2017    # a detector's images a second, decoded and resized
tools/benchmark.py annotations                          # the check of an annotation file of COCO's size
tools/benchmark.py tiles CONFIG CHECKPOINT              # AP on large pictures, whole and in tiles
tools/benchmark.py transfer --data-root DIR             # what pre-training is worth where labels are few
"""

import argparse
import json
import sys

if __name__ == '__main__':  # before what takes seconds to import
    import interruptible  # noqa: F401

from benchmarks.annotations import ANNOTATIONS
from benchmarks.compile import COMPILE
from benchmarks.data import DATA
from benchmarks.gpu import GPU
from benchmarks.images import IMAGES
from benchmarks.kernels import KERNELS
from benchmarks.load import LOAD
from benchmarks.models import BACKBONE, DETECTOR, draw_models
from benchmarks.operators import OPERATORS
from benchmarks.precision import PRECISION
from benchmarks.pretraining import PRETRAINING
from benchmarks.report import check_picture, print_result
from benchmarks.runtimes import RUNTIMES
from benchmarks.tiles import TILES
from benchmarks.transfer import TRANSFER

from convnext_backbone.utils.cli import user_errors
from convnext_backbone.utils.validation import COUNT

BENCHMARKS = dict(
    backbone=BACKBONE,
    detector=DETECTOR,
    pretraining=PRETRAINING,
    operators=OPERATORS,
    compile=COMPILE,
    runtimes=RUNTIMES,
    gpu=GPU,
    kernels=KERNELS,
    load=LOAD,
    precision=PRECISION,
    data=DATA,
    images=IMAGES,
    annotations=ANNOTATIONS,
    tiles=TILES,
    transfer=TRANSFER,
)


@user_errors
def main() -> None:
    """Measures."""
    parser = argparse.ArgumentParser(description='Measure speed and memory on this machine (Linux).')
    commands = parser.add_subparsers(required=True, metavar='WHAT', dest='what')
    for name, benchmark in BENCHMARKS.items():
        command = commands.add_parser(name, help=benchmark.help)
        flags = benchmark.flags | {
            '--repeat': dict(type=int, default=5, help='runs of each contender'),
            '--json': dict(action='store_true', help='print the figures as json'),
        }
        for flag, options in flags.items():
            default = '(default: %(default)s)' if 'default' in options else ''
            command.add_argument(flag, **options | dict(help=f'{options.get("help", "")} {default}'.strip()))
    args = parser.parse_args()
    for name in {'repeat', 'epochs', 'jobs', 'batch_size', 'size', 'pictures', 'tile'} & vars(args).keys():
        COUNT.check(f'--{name.replace("_", "-")}', getattr(args, name))
    if getattr(args, 'out', None):
        check_picture(args.out)
    result = BENCHMARKS[args.what].measure(args)
    if args.json:
        print(json.dumps(result, indent=2))
    else:
        print_result(result)
    if getattr(args, 'out', None):
        draw_models(result, args.out)


if __name__ == '__main__':
    sys.exit(main())
