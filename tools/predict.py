#!/usr/bin/env python
"""Predicts boxes and masks, segmentation maps or classes of images: pictures for people, and json.

tools/predict.py CONFIG CHECKPOINT photo.jpg folder/ --work-dir out
"""

import contextlib
import sys
from pathlib import Path

from mmengine.utils import track_iter_progress

from convnext_backbone.apis.builders import build_classifier, build_detector, build_segmentor
from convnext_backbone.apis.classification import classes_json, classify, describe_classes
from convnext_backbone.apis.detection import coco_json, describe_detections, predict
from convnext_backbone.apis.segmentation import describe_segments, segment, segments_json
from convnext_backbone.config.load import prepare_config
from convnext_backbone.config.recipes import task_of
from convnext_backbone.utils.cli import common_parser, user_errors
from convnext_backbone.utils.errors import UserError
from convnext_backbone.utils.files import check_work_dir, write_atomically
from convnext_backbone.utils.image_io import find_images
from convnext_backbone.visualization.legend import contact_sheet

# By task: build the model, predict and draw each image, all predictions as json, and as printed text.
TASKS = dict(
    detection=(build_detector, predict, coco_json, describe_detections),
    segmentation=(build_segmentor, segment, segments_json, describe_segments),
    classification=(build_classifier, classify, classes_json, describe_classes),
)


@user_errors
def main() -> None:
    """Predict."""
    parser = common_parser('Predict boxes and masks, segmentation maps or classes of images.', checkpoint=True)
    parser.add_argument('images', nargs='+', metavar='IMAGE', help='image files, or folders of them')
    parser.add_argument('--score-thr', type=float, default=0.3, help='least score of a detection (default 0.3)')
    parser.add_argument('--json', action='store_true', help='print the json on stdout, all else on stderr')
    args = parser.parse_args()
    if not 0 <= args.score_thr <= 1:
        raise UserError(f'--score-thr {args.score_thr} is out of range: a score is between 0 and 1.')
    cfg = prepare_config(args)
    images = find_images(args.images)
    out_dir = Path(cfg.work_dir) / 'predictions'
    check_work_dir(out_dir)
    task = task_of(cfg)
    build, run, to_json, describe = TASKS[task]
    options = dict(score_thr=args.score_thr) if task == 'detection' else {}
    with contextlib.redirect_stdout(sys.stderr if args.json else sys.stdout):
        found = run(build(cfg, args.checkpoint), images, out_dir, **options)
        try:
            predictions = [*track_iter_progress((found, len(images)), file=sys.stderr)]
        finally:
            print(file=sys.stderr)  # ends the line of the progress bar
    result = to_json(predictions)
    write_atomically(result.encode(), out_dir / 'predictions.json')
    contact_sheet([prediction['picture'] for prediction in predictions], out_dir / 'overview.png')
    if args.json:
        print(result)
    else:
        print(describe(predictions))
        print(f'Pictures: {out_dir}\nAll in one: {out_dir / "overview.png"}\njson: {out_dir / "predictions.json"}')


if __name__ == '__main__':
    sys.exit(main())
