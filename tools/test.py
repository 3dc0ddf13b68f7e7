#!/usr/bin/env python
"""Evaluates a trained model on the test data of its config.

tools/test.py configs/cascade_convnext_t_coco.py work_dirs/cascade_convnext_t_coco/epoch_36.pth
tools/test.py configs/cascade_convnext_t_coco.py work_dirs/cascade_convnext_t_coco/epoch_36.pth --out found.json
tools/test.py configs/upernet_convnext_t_ade20k.py work_dirs/upernet_convnext_t_ade20k/iter_160000.pth --tta
"""

import argparse
import contextlib
import json
import math
import sys
from pathlib import Path

if __name__ == '__main__':  # before what takes seconds to import
    import interruptible  # noqa: F401

from mmengine.registry import RUNNERS

from convnext_backbone.apis.test_output import build_output_hook
from convnext_backbone.apis.test_report import build_report_hook
from convnext_backbone.config.check_data import check_data
from convnext_backbone.config.failures import explain_failures
from convnext_backbone.config.load import prepare_config
from convnext_backbone.utils.cli import add_launcher, common_parser, user_errors
from convnext_backbone.utils.files import check_work_dir, write_atomically


def evaluate(args: argparse.Namespace) -> tuple[dict[str, float | None], Path]:
    """The scores by name, None for one that is no number, and the json file that holds them."""
    cfg = prepare_config(args)
    check_data(cfg, splits=('test',))
    check_work_dir(cfg.work_dir)
    output = build_output_hook(cfg, args.out, args.show_dir)
    with explain_failures(cfg):
        runner = RUNNERS.build(cfg)
        for hook in filter(None, (output, build_report_hook(cfg))):
            runner.register_hook(hook)
        found = {name: float(score) for name, score in runner.test().items()}
    scores = {name: score if math.isfinite(score) else None for name, score in found.items()}  # NaN is no json
    path = Path(cfg.work_dir) / 'scores.json'
    write_atomically(json.dumps(scores, indent=2).encode(), path)
    return scores, path


@user_errors
def main() -> None:
    """Evaluate."""
    parser = common_parser('Evaluate a trained model.', checkpoint=True)
    parser.add_argument('--json', action='store_true', help='print the scores as json on stdout, all else on stderr')
    tta = 'test-time augmentation: average over the scales and flips of the config (tta_model, tta_pipeline)'
    parser.add_argument('--tta', action='store_true', help=tta)
    out = 'write the predictions: a .json or .pkl file, or for segmentation a folder of masks'
    parser.add_argument('--out', metavar='PATH', help=out)
    parser.add_argument('--show-dir', metavar='DIR', help='write a picture of each prediction beside its annotation')
    add_launcher(parser)
    args = parser.parse_args()
    # onedl's mmdet prints when it is imported.
    with contextlib.redirect_stdout(sys.stderr if args.json else sys.stdout):
        scores, path = evaluate(args)
    if args.json:
        print(json.dumps(scores, indent=2))
        return
    for name in sorted(scores):
        score = scores[name]
        print(f'{name:<24}' + ('no number' if score is None else f'{score:8.4f}'))
    reports = '; those of each class and pictures of confusions and errors are beside it'
    print(f'All scores as json: {path}{reports if (path.parent / "per_class.json").is_file() else ""}')
    for title, place in (('Predictions', args.out), ('Pictures', args.show_dir)):
        if place:
            print(f'{title}: {place}')


if __name__ == '__main__':
    sys.exit(main())
