"""The picture of a run has the curves of its loss and of the scores of its task."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from convnext_backbone.engine.curves import draw_curves


def coloured(work_dir: Path, validation: dict[str, float | None]) -> list[int]:
    """How many pixels of the left and of the right panel are coloured: curves, their points and their key."""
    records = [dict(loss=1.0 / step, step=step) for step in range(1, 5)]
    records += [{**validation, 'step': epoch} for epoch in (1, 2)]
    path = work_dir / 'first/vis_data/scalars.json'
    path.parent.mkdir(parents=True)
    path.write_text(''.join(json.dumps(record) + '\n' for record in records))
    image = np.asarray(Image.open(draw_curves(work_dir)).convert('RGB')).astype(int)
    return [int((np.ptp(half, axis=2) > 60).sum()) for half in np.array_split(image, 2, axis=1)]


@pytest.mark.parametrize(
    'name', ['coco/bbox_mAP', 'coco/segm_mAP_50', 'mIoU', 'accuracy/top1', 'reconstruction/loss', 'ema_accuracy/top1']
)
def test_the_scores_of_each_task_are_drawn(name, tmp_path):
    left, right = coloured(tmp_path, {name: 0.7})
    assert left > 100 and right > 100


@pytest.mark.parametrize('validation', [{'coco/bbox_mAP_75': 0.7}, {'data_time': 0.7}, {'mIoU': None}])
def test_other_numbers_are_not(validation, tmp_path):
    left, right = coloured(tmp_path, validation)
    assert left > 100 and right == 0
