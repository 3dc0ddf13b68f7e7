#!/usr/bin/env python
"""Draws model inputs: the first samples of a training run, after augmentation.

tools/browse_data.py configs/cascade_convnext_t_coco.py --data-root /path/to/coco --number 12
"""

import sys
from pathlib import Path

if __name__ == '__main__':  # before what takes seconds to import
    import interruptible  # noqa: F401

from convnext_backbone.apis.browse_data import browse
from convnext_backbone.apis.image_files import OVERVIEW, claimed_folder
from convnext_backbone.config.check_data import check_data
from convnext_backbone.config.failures import explain_failures
from convnext_backbone.config.load import prepare_config
from convnext_backbone.utils.cli import common_parser, user_errors
from convnext_backbone.utils.image_io import write_picture
from convnext_backbone.utils.validation import COUNT
from convnext_backbone.visualization.legend import contact_sheet


@user_errors
def main() -> None:
    """Draw."""
    parser = common_parser('Draw the model inputs of a training run, after augmentation.')
    parser.add_argument('--split', choices=('train', 'val'), default='train', help='which data (default train)')
    parser.add_argument('--number', type=int, default=12, metavar='N', help='how many samples (default 12)')
    args = parser.parse_args()
    COUNT.check('--number', args.number)
    cfg = prepare_config(args)
    check_data(cfg, splits=(args.split,))
    out_dir = Path(cfg.work_dir) / 'browse'
    pictures = []
    with claimed_folder(out_dir), explain_failures(cfg):
        for number, picture in enumerate(browse(cfg, args.split, args.number), start=1):
            pictures.append(out_dir / f'{args.split}_{number:04}.png')
            write_picture(picture, pictures[-1])
        contact_sheet(pictures, out_dir / OVERVIEW)
    print(f'{len(pictures)} pictures: {out_dir}\nAll in one: {out_dir / OVERVIEW}')


if __name__ == '__main__':
    sys.exit(main())
