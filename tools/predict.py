#!/usr/bin/env python
"""Predicts boxes and masks, segmentation maps, classes or reconstructions of images and videos: pictures and json.

tools/predict.py CONFIG CHECKPOINT photo.jpg folder/ 'photos/**/*.jpg' video.mp4 --work-dir out
tools/predict.py CONFIG CHECKPOINT aerial.tif --tile 1024    # large images, window by window
"""

import argparse
import contextlib
import shutil
import sys
from pathlib import Path

if __name__ == '__main__':  # before what takes seconds to import
    import interruptible  # noqa: F401

from mmengine.config import Config

from convnext_backbone.apis.builders import build_autoencoder, build_classifier, build_detector, build_segmentor
from convnext_backbone.apis.classification import ClassificationTask
from convnext_backbone.apis.coco_output import find_ids
from convnext_backbone.apis.detection import DetectionTask
from convnext_backbone.apis.image_files import OVERVIEW, PREDICTIONS, claimed_folder, find_images
from convnext_backbone.apis.predicting import PredictionsFile, PredictionTask, predict_files, refuse_broken
from convnext_backbone.apis.reconstruction import ReconstructionTask
from convnext_backbone.apis.segmentation import SegmentationTask
from convnext_backbone.apis.tiles import Tiles
from convnext_backbone.config.load import prepare_config
from convnext_backbone.config.recipes import task_of
from convnext_backbone.utils.cli import common_parser, user_errors
from convnext_backbone.utils.errors import UserError, printable
from convnext_backbone.utils.validation import COUNT
from convnext_backbone.visualization.legend import contact_sheet


def parse_args() -> argparse.Namespace:
    """The arguments, in range."""
    parser = common_parser('Predict boxes and masks, segmentation maps, classes or reconstructions.', checkpoint=True)
    parser.add_argument(
        'images', nargs='+', metavar='IMAGE', help="images, videos, folders of them, or patterns: 'photos/**/*.jpg'"
    )
    parser.add_argument('--score-thr', type=float, default=0.3, help='least score of a detection (default 0.3)')
    parser.add_argument('--batch-size', type=int, default=1, help='images that go through the model together')
    parser.add_argument('--tile', type=int, metavar='SIZE', help='predict large images in windows of SIZE pixels')
    parser.add_argument('--overlap', type=float, help='share of a window that the next one has too (default 0.2)')
    parser.add_argument('--every', type=int, default=1, metavar='N', help='predict every Nth frame of a video')
    parser.add_argument('--json', action='store_true', help='print the json on stdout, all else on stderr')
    parser.add_argument('--ann', metavar='FILE', help="COCO json whose ids detections get; default the config's data")
    args = parser.parse_args()
    if not 0 <= args.score_thr <= 1:
        raise UserError(f'--score-thr {args.score_thr} is out of range: a score is between 0 and 1.')
    COUNT.check('--batch-size', args.batch_size)
    COUNT.check('--every', args.every)
    if args.overlap is not None and args.tile is None:
        raise UserError(f'--overlap {args.overlap} is that of windows: set their size with --tile.')
    return args


def build_task(task: str, cfg: Config, args: argparse.Namespace, out_dir: Path) -> PredictionTask:
    """Build the model of a task and what uses it."""
    tiles = None
    if args.tile is not None:
        tiles = Tiles(args.tile, 0.2 if args.overlap is None else args.overlap)
        tiles.check()
    if args.ann and task != 'detection':
        raise UserError(f'--ann {args.ann} is for detections, but the config is for {task}: leave it out.')
    if tiles and task in ('classification', 'pretraining'):
        raise UserError(f'--tile {args.tile} is not for {task}, which has one result for an image: leave it out.')
    if task == 'segmentation':
        return SegmentationTask(build_segmentor(cfg, args.checkpoint), out_dir, tiles, args.batch_size)
    if task == 'classification':
        return ClassificationTask(build_classifier(cfg, args.checkpoint))
    if task == 'pretraining':
        return ReconstructionTask(build_autoencoder(cfg, args.checkpoint))
    model = build_detector(cfg, args.checkpoint)
    ids = find_ids(cfg, model.dataset_meta['classes'], args.ann)
    return DetectionTask(model, ids, args.score_thr, tiles, args.batch_size)


@user_errors
def main() -> None:
    """Predict."""
    args = parse_args()
    cfg = prepare_config(args)
    out_dir = Path(cfg.work_dir) / 'predictions'
    files = find_images(args.images, out_dir, videos=True)
    broken: dict[Path, str] = {}
    lines: dict[Path, str] = {}  # by picture
    with claimed_folder(out_dir), contextlib.redirect_stdout(sys.stderr if args.json else sys.stdout):
        task = build_task(task_of(cfg), cfg, args, out_dir)
        # Windows of one image fill the batches where there are any.
        batch_size = 1 if args.tile else args.batch_size
        with PredictionsFile(out_dir / PREDICTIONS, task.enclose) as written:
            try:
                for prediction in predict_files(task, files, broken, batch_size, args.every):
                    written.add(task.rows(prediction))
                    file = prediction['file']
                    found = task.describe(prediction) if file.frame is None else f'frames up to {file.frame}'
                    lines[file.picture] = f'{printable(file.image)}: {found}'
            finally:  # also of a run that is interrupted
                pictures = [picture for picture in lines if picture.suffix != '.mp4']
                if pictures:
                    contact_sheet(pictures, out_dir / OVERVIEW)
    if lines and args.json:
        with (out_dir / PREDICTIONS).open() as file:
            shutil.copyfileobj(file, sys.stdout)
    elif lines:
        print(*lines.values(), f'Pictures: {out_dir}', sep='\n')
        print(f'All in one: {out_dir / OVERVIEW}\n' * bool(pictures) + f'json: {out_dir / PREDICTIONS}')
    refuse_broken(broken, len(files), bool(lines))


if __name__ == '__main__':
    sys.exit(main())
