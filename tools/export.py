#!/usr/bin/env python
"""Exports a trained model to one ONNX file that runs without the MM libraries.

tools/export.py CONFIG CHECKPOINT model.onnx
tools/export.py CONFIG CHECKPOINT model.onnx --size 800 1344 --check photos/ --score-thr 0.5
tools/export.py CONFIG CHECKPOINT model.onnx --half           # half of the file: weights of 16 bits
tools/export.py CONFIG CHECKPOINT model.onnx --int8 photos/   # linear layers of 8 bits, calibrated by photographs
"""

import argparse
import sys
from pathlib import Path

if __name__ == '__main__':  # before what takes seconds to import
    import interruptible  # noqa: F401

from convnext_backbone.apis.image_files import find_images
from convnext_backbone.config.load import load_config, prepare_config
from convnext_backbone.deploy.export import export_model
from convnext_backbone.deploy.metadata import find_licence
from convnext_backbone.deploy.onnx_file import SIDE, check_packages
from convnext_backbone.deploy.precision import PHOTOS
from convnext_backbone.utils.cli import common_parser, user_errors
from convnext_backbone.utils.errors import UserError, printable


def parse_args() -> argparse.Namespace:
    """The arguments, in range."""
    parser = common_parser('Export a trained model to one ONNX file.', checkpoint=True)
    parser.add_argument('file', metavar='OUT', help='file to write, .onnx')
    parser.add_argument('--size', nargs=2, type=int, metavar=('H', 'W'), help='fix the size of the network input')
    parser.add_argument('--check', nargs='+', metavar='PHOTOS', help='images or folders that the file is checked with')
    parser.add_argument('--score-thr', type=float, default=0.3, help='least score of a detection (default 0.3)')
    parser.add_argument('--half', action='store_true', help='store the weights in 16 bits, which halves the file')
    parser.add_argument(
        '--int8', nargs='+', metavar='PHOTOS', help='linear layers in 8 bits, calibrated by these images or folders'
    )
    args = parser.parse_args()
    if Path(args.file).suffix != '.onnx':
        raise UserError(f'The output {printable(args.file)} has another suffix than .onnx: name it so.')
    if Path(args.file).exists():
        raise UserError(f'The output {printable(args.file)} exists: name another, or remove it.')
    if not 0 <= args.score_thr <= 1:
        raise UserError(f'--score-thr {args.score_thr} is out of range: a score is between 0 and 1.')
    if args.half and args.int8:
        raise UserError('--half and --int8 exclude each other: a file has one precision, name one of them.')
    for side in args.size or ():
        SIDE.check('--size', side)
    return args


@user_errors
def main() -> None:
    """Export."""
    args = parse_args()
    check_packages()
    path = Path(args.file)
    licence = find_licence(load_config(args.config, cfg_options=args.cfg_options))
    photos, calibration = (
        [file.image for file in find_images(sources or (), path)] for sources in (args.check, args.int8)
    )  # no picture is written
    if args.int8:
        PHOTOS.check('photographs of --int8', len(calibration))
    cfg, size = prepare_config(args), args.size and tuple(args.size)
    about = export_model(cfg, args.checkpoint, path, size, photos, args.score_thr, licence, args.half, calibration)
    checked, cost = about['check'], about['cost']
    print(f'{checked["agree"]:.2%} of {checked["of"]} results agree with the model, on {checked["inputs"]} inputs.')
    if cost:
        print(f'With {about["precision"]}: {cost["agree"]:.2%} of {cost["of"]} results, on {cost["inputs"]} inputs.')
    print(f'Written: {path} ({path.stat().st_size / 2**20:.0f} MiB), licence of the weights: {licence}')
    print(f'Predict: python -m convnext_backbone.deploy {path} PHOTOS --out-dir predictions')


if __name__ == '__main__':
    sys.exit(main())
