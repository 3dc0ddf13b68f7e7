#!/usr/bin/env python
"""Detects objects in photographs, or tells their classes: pictures for people, json for programs.

tools/predict.py CONFIG CHECKPOINT photo.jpg folder/ --work-dir out
"""

import contextlib
import sys
from pathlib import Path

from mmengine.utils import track_iter_progress

from convnext_backbone.classify import build_classifier, classes_json, classify
from convnext_backbone.cli import common_parser, user_errors
from convnext_backbone.errors import UserError
from convnext_backbone.inference import build_detector, coco_json, contact_sheet, find_images, predict
from convnext_backbone.run_config import adapt_to_machine, check_work_dir, drop_pretrained, load_config
from convnext_backbone.saving import write_atomically


@user_errors
def main() -> None:
    """Predicts."""
    parser = common_parser('Detect objects in images, or classify them.', checkpoint=True)
    parser.add_argument('images', nargs='+', metavar='IMAGE', help='image files, or folders of them')
    parser.add_argument('--score-thr', type=float, default=0.3, help='detections below it are left out (default 0.3)')
    parser.add_argument('--json', action='store_true', help='print the json on stdout, all else on stderr')
    args = parser.parse_args()
    if not 0 <= args.score_thr <= 1:
        raise UserError(f'--score-thr {args.score_thr} is out of range: a score is between 0 and 1.')
    cfg = load_config(args.config, args.work_dir, args.data_root, args.cfg_options)
    images = find_images(args.images)
    out_dir = Path(cfg.work_dir) / 'predictions'
    check_work_dir(out_dir)
    adapt_to_machine(cfg)
    drop_pretrained(cfg)
    is_classifier = cfg.model.type == 'ImageClassifier'
    with contextlib.redirect_stdout(sys.stderr if args.json else sys.stdout):
        if is_classifier:
            found = classify(build_classifier(cfg, args.checkpoint), images, out_dir)
        else:
            model = build_detector(cfg, args.checkpoint)
            found = predict(model, images, out_dir, args.score_thr)
        try:
            predictions = [*track_iter_progress((found, len(images)), file=sys.stderr)]
        finally:
            print(file=sys.stderr)  # ends the line of the progress bar
    result = classes_json(predictions) if is_classifier else coco_json(predictions, model.dataset_meta['classes'])
    write_atomically(result.encode(), out_dir / 'predictions.json')
    contact_sheet([prediction['picture'] for prediction in predictions], out_dir / 'overview.png')
    if args.json:
        print(result)
    else:
        if is_classifier:
            for one in predictions:
                print(f'{one["image"]}: ' + ', '.join(f'{c["description"]} {c["score"]:.2f}' for c in one['classes']))
        else:
            print(f'{sum(len(p["detections"]) for p in predictions)} detections in {len(images)} images')
        print(f'Pictures: {out_dir}\nAll in one: {out_dir / "overview.png"}\njson: {out_dir / "predictions.json"}')


if __name__ == '__main__':
    sys.exit(main())
