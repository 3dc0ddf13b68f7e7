#!/usr/bin/env python
"""Predicts boxes and masks, segmentation maps or classes of images: pictures for people, and json.

tools/predict.py CONFIG CHECKPOINT photo.jpg folder/ --work-dir out
"""

import argparse
import contextlib
import sys
from collections.abc import Callable
from pathlib import Path

if __name__ == '__main__':  # before what takes seconds to import
    import interruptible  # noqa: F401

from mmengine.config import Config

from convnext_backbone.apis.builders import build_classifier, build_detector, build_segmentor
from convnext_backbone.apis.classification import build_classification, describe_classes
from convnext_backbone.apis.coco_output import coco_json, find_ids
from convnext_backbone.apis.detection import build_detection, describe_detections
from convnext_backbone.apis.image_files import (
    OVERVIEW,
    PREDICTIONS,
    claimed_folder,
    find_images,
    predictions_json,
    refuse_broken,
    run_on_images,
)
from convnext_backbone.apis.segmentation import build_segmentation, describe_segments
from convnext_backbone.config.load import prepare_config
from convnext_backbone.config.recipes import task_of
from convnext_backbone.utils.cli import common_parser, user_errors
from convnext_backbone.utils.errors import UserError
from convnext_backbone.utils.files import write_atomically
from convnext_backbone.visualization.legend import contact_sheet

# The function that predicts and draws an image, all predictions as json, and as printed text.
Task = tuple[Callable[[Path, Path], dict], Callable[[list[dict]], str], Callable[[list[dict]], str]]


def build_task(task: str, cfg: Config, args: argparse.Namespace, out_dir: Path) -> Task:
    """Build the model of a task and what uses it."""
    if task == 'segmentation':
        return build_segmentation(build_segmentor(cfg, args.checkpoint), out_dir), predictions_json, describe_segments
    if task == 'classification':
        return build_classification(build_classifier(cfg, args.checkpoint)), predictions_json, describe_classes
    model = build_detector(cfg, args.checkpoint)
    classes = model.dataset_meta['classes']
    ids = find_ids(cfg, classes, args.ann)
    return build_detection(model, args.score_thr), lambda found: coco_json(found, classes, ids), describe_detections


@user_errors
def main() -> None:
    """Predict."""
    parser = common_parser('Predict boxes and masks, segmentation maps or classes of images.', checkpoint=True)
    parser.add_argument('images', nargs='+', metavar='IMAGE', help='image files, or folders of them')
    parser.add_argument('--score-thr', type=float, default=0.3, help='least score of a detection (default 0.3)')
    parser.add_argument('--json', action='store_true', help='print the json on stdout, all else on stderr')
    parser.add_argument('--ann', metavar='FILE', help="COCO json whose ids detections get; default the config's data")
    args = parser.parse_args()
    if not 0 <= args.score_thr <= 1:
        raise UserError(f'--score-thr {args.score_thr} is out of range: a score is between 0 and 1.')
    cfg = prepare_config(args)
    task = task_of(cfg)
    if args.ann and task != 'detection':
        raise UserError(f'--ann {args.ann} is for detections, but the config is for {task}: leave it out.')
    out_dir = Path(cfg.work_dir) / 'predictions'
    images = find_images(args.images, out_dir)
    predictions: list[dict] = []
    broken: dict[Path, str] = {}
    with claimed_folder(out_dir), contextlib.redirect_stdout(sys.stderr if args.json else sys.stdout):
        run, to_json, describe = build_task(task, cfg, args, out_dir)
        try:
            for prediction in run_on_images(run, images, broken):
                predictions.append(prediction)  # one by one: what there is must be kept
        finally:  # also of a run that is interrupted
            if predictions:
                result = to_json(predictions)
                write_atomically(result.encode(), out_dir / PREDICTIONS)
                contact_sheet([prediction['picture'] for prediction in predictions], out_dir / OVERVIEW)
    if predictions and args.json:
        print(result)
    elif predictions:
        print(describe(predictions))
        print(f'Pictures: {out_dir}\nAll in one: {out_dir / OVERVIEW}\njson: {out_dir / PREDICTIONS}')
    refuse_broken(broken, len(images))


if __name__ == '__main__':
    sys.exit(main())
