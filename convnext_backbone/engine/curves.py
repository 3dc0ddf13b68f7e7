"""Curves of loss and scores over a whole run, resumed parts included."""

import json
import math
from collections import defaultdict
from pathlib import Path

from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner

from ..utils.files import replaced_atomically

_DRAWN = ('mAP', 'mAP_50', 'mIoU', 'top1', 'reconstruction/loss')  # ends of the names of scores


@HOOKS.register_module()
class CurvesHook(Hook):
    """Plots loss and scores over the whole run, resumed parts included, to ``<work_dir>/curves.png``."""

    priority = 'VERY_LOW'

    def after_train(self, runner: Runner) -> None:
        """Plot the curves at the end of a run."""
        if is_main_process():
            path = draw_curves(runner.work_dir)
            if path is not None:
                runner.logger.info(f'Curves: {path}')


def read_scalars(work_dir: str | Path) -> tuple[dict[int, dict], dict[int, dict]]:
    """Training and validation records by step, from mmengine's json logs; the last record of a step counts."""
    training: dict[int, dict] = {}
    validation: dict[int, dict] = {}
    for file in sorted(Path(work_dir).glob('*/vis_data/scalars.json')):
        for line in file.read_text(errors='replace').splitlines():
            try:
                record = json.loads(line)
                step, trained = record.get('step', 0), 'loss' in record
            except (ValueError, AttributeError):  # the last line of a run that was killed, or what no run wrote
                continue
            if isinstance(step, int) and (not trained or isinstance(record['loss'], int | float)):
                (training if trained else validation)[step] = record
    return training, validation


def draw_curves(work_dir: str | Path) -> Path | None:
    """Plot the curves of a work_dir; returns the path of the picture, or None where nothing was logged."""
    from matplotlib.figure import Figure  # only where a picture is wanted

    training, validation = read_scalars(work_dir)
    if not training:
        return None
    steps = sorted(training)
    figure = Figure(figsize=(11, 4), layout='constrained')
    loss_axes, score_axes = figure.subplots(1, 2)
    loss_axes.plot(steps, [training[step]['loss'] for step in steps], color='tab:blue')
    loss_axes.set(title='Training loss', xlabel='iteration', ylabel='loss')
    scores = defaultdict(list)
    for step in sorted(validation):
        for name, value in validation[step].items():
            if name.endswith(_DRAWN) and isinstance(value, float) and not math.isnan(value):
                scores[name].append((step, value))
    for name, points in scores.items():
        score_axes.plot(*zip(*points, strict=True), marker='o', markersize=3, label=name)
    score_axes.set(title='Validation', xlabel='epoch or iteration', ylabel='score')
    if scores:
        score_axes.legend(fontsize='small')
    for axes in (loss_axes, score_axes):
        axes.grid(alpha=0.3)
    path = Path(work_dir) / 'curves.png'
    with replaced_atomically(path) as temporary:
        figure.savefig(temporary, format='png', dpi=110)
    return path
