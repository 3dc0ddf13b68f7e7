#!/usr/bin/env python
"""Evaluates a trained model on the test data of its config.

tools/test.py configs/cascade_convnext_t_coco.py work_dirs/cascade_convnext_t_coco/epoch_36.pth
"""

import contextlib
import json
import sys
from pathlib import Path

from mmengine.registry import RUNNERS

from convnext_backbone.cli import add_launcher, common_parser, set_launcher, user_errors
from convnext_backbone.run_config import (
    adapt_to_machine,
    check_data,
    check_work_dir,
    drop_pretrained,
    explained_failures,
    load_config,
)
from convnext_backbone.saving import write_atomically


@user_errors
def main() -> None:
    """Evaluates."""
    parser = common_parser('Evaluate a trained model.', checkpoint=True)
    parser.add_argument('--json', action='store_true', help='print the scores as json on stdout, all else on stderr')
    add_launcher(parser)
    args = parser.parse_args()
    cfg = load_config(args.config, args.work_dir, args.data_root, args.cfg_options)
    set_launcher(cfg, args)
    check_data(cfg, splits=('test',))
    check_work_dir(cfg.work_dir)
    adapt_to_machine(cfg)
    cfg.load_from = args.checkpoint
    cfg.setdefault('runner_type', 'ResumableRunner')
    drop_pretrained(cfg)
    with contextlib.redirect_stdout(sys.stderr if args.json else sys.stdout), explained_failures(cfg):
        scores = RUNNERS.build(cfg).test()
    report = json.dumps({name: float(score) for name, score in scores.items()}, indent=2)
    path = Path(cfg.work_dir) / 'scores.json'
    write_atomically(report.encode(), path)
    if args.json:
        print(report)
        return
    for name in sorted(scores):
        print(f'{name:<24}{scores[name]:8.4f}')
    print(f'All of it as json: {path}')


if __name__ == '__main__':
    sys.exit(main())
