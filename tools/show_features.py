#!/usr/bin/env python
"""Draws the feature maps of the stages of a backbone.

tools/show_features.py CONFIG CHECKPOINT photo.jpg folder/ --work-dir out
"""

import sys
from pathlib import Path

if __name__ == '__main__':  # before what takes seconds to import
    import interruptible  # noqa: F401

import torch
from tqdm import tqdm

from convnext_backbone.apis.builders import build_stages
from convnext_backbone.apis.image_files import OVERVIEW, ImageFile, claimed_folder, find_images
from convnext_backbone.apis.model_inputs import build_input_pipeline, build_preprocessor, denormalize
from convnext_backbone.apis.predicting import refuse_broken, run_on_images
from convnext_backbone.config.load import prepare_config
from convnext_backbone.utils.cli import common_parser, user_errors
from convnext_backbone.utils.image_io import write_picture
from convnext_backbone.visualization.feature_maps import draw_stages
from convnext_backbone.visualization.legend import contact_sheet


@user_errors
def main() -> None:
    """Draw."""
    parser = common_parser('Draw the feature maps of the stages of a backbone.', checkpoint=True)
    parser.add_argument('images', nargs='+', metavar='IMAGE', help='image files, or folders of them')
    args = parser.parse_args()
    cfg = prepare_config(args)
    out_dir = Path(cfg.work_dir) / 'features'
    images = find_images(args.images, out_dir)
    backbone = build_stages(cfg, args.checkpoint)
    preprocessor = build_preprocessor(cfg)
    prepare = build_input_pipeline(cfg, preprocessor)

    def draw(files: list[ImageFile]) -> list[Path]:
        (file,) = files
        inputs = prepare(file.image)
        with torch.no_grad():
            maps = [stage[0] for stage in backbone(inputs)]
        write_picture(draw_stages(denormalize(inputs, preprocessor)[0], maps, backbone.strides), file.picture)
        return [file.picture]

    broken: dict[Path, str] = {}
    with claimed_folder(out_dir):
        pictures = [*run_on_images(draw, tqdm(images), broken)]
        if pictures:
            contact_sheet(pictures, out_dir / OVERVIEW, columns=1, width=1280)
    if pictures:
        print(f'Pictures: {out_dir}\nAll in one: {out_dir / OVERVIEW}')
    refuse_broken(broken, len(images), bool(pictures))


if __name__ == '__main__':
    sys.exit(main())
