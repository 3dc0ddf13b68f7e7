#!/usr/bin/env python
"""Evaluates a trained model on the test data of its config.

tools/test.py configs/cascade_convnext_t_coco.py work_dirs/cascade_convnext_t_coco/epoch_36.pth
tools/test.py configs/upernet_convnext_t_ade20k.py work_dirs/upernet_convnext_t_ade20k/iter_160000.pth --tta
"""

import argparse
import contextlib
import json
import sys
from pathlib import Path

from mmengine.config import Config
from mmengine.registry import RUNNERS

from convnext_backbone.cli import add_launcher, common_parser, set_launcher, user_errors
from convnext_backbone.errors import UserError
from convnext_backbone.files import write_atomically
from convnext_backbone.run_config import (
    adapt_to_machine,
    check_data,
    check_work_dir,
    drop_pretrained,
    explained_failures,
    load_config,
)


def set_tta(cfg: Config) -> None:
    """Puts the config's ``tta_model`` around its model, and its ``tta_pipeline`` in the place of that of the test data.

    The settings in ``tta_model.module`` win over those of the model.
    """
    lacking = [key for key in ('tta_model', 'tta_pipeline') if key not in cfg]
    if lacking:
        raise UserError(
            f'{cfg.filename} has no {" and no ".join(lacking)}, which say what --tta averages: add them as in '
            f'configs/_base_/ade20k.py, or leave --tta out.'
        )
    cfg.merge_from_dict(dict(model=cfg.tta_model.get('module', {})))
    cfg.model = {**cfg.tta_model, 'module': cfg.model}
    cfg.test_dataloader.dataset.pipeline = cfg.tta_pipeline


def evaluate(args: argparse.Namespace) -> tuple[dict[str, float], Path]:
    """Scores by name, and the json file that they are in."""
    cfg = load_config(args.config, args.work_dir, args.data_root, args.cfg_options)
    set_launcher(cfg, args)
    check_data(cfg, splits=('test',))
    check_work_dir(cfg.work_dir)
    adapt_to_machine(cfg)
    cfg.load_from = args.checkpoint
    cfg.setdefault('runner_type', 'ResumableRunner')
    drop_pretrained(cfg)
    if args.tta:
        set_tta(cfg)
    with explained_failures(cfg):
        scores = {name: float(score) for name, score in RUNNERS.build(cfg).test().items()}
    path = Path(cfg.work_dir) / 'scores.json'
    write_atomically(json.dumps(scores, indent=2).encode(), path)
    return scores, path


@user_errors
def main() -> None:
    """Evaluates."""
    parser = common_parser('Evaluate a trained model.', checkpoint=True)
    parser.add_argument('--json', action='store_true', help='print the scores as json on stdout, all else on stderr')
    parser.add_argument(
        '--tta', action='store_true', help='average over the scales and flips of the config (tta_model, tta_pipeline)'
    )
    add_launcher(parser)
    args = parser.parse_args()
    # From the start: onedl's mmdet prints when it is imported.
    with contextlib.redirect_stdout(sys.stderr if args.json else sys.stdout):
        scores, path = evaluate(args)
    if args.json:
        print(json.dumps(scores, indent=2))
        return
    for name in sorted(scores):
        print(f'{name:<24}{scores[name]:8.4f}')
    print(f'All of it as json: {path}')


if __name__ == '__main__':
    sys.exit(main())
