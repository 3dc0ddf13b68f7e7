"""Confusions of detectors and segmentors, and scores of each class. Exact."""

import json

import numpy as np
import pytest
import torch
from mmdet.evaluation import CocoMetric
from mmengine.logging import MMLogger
from mmseg.evaluation import IoUMetric

from convnext_backbone.evaluation.detection_report import Boxes, DetectionReport, record_precisions
from convnext_backbone.evaluation.segmentation_report import SegmentationReport

A, B = [0, 0, 10, 10], [100, 0, 110, 10]
A_LOW, HUGE = [0, 0, 10, 6], [0, 0, 1000, 1000]


def boxes(*rows):
    """Of rows of a label and a box."""
    return Boxes(np.array([box for _, box in rows], float).reshape(-1, 4), np.array([label for label, _ in rows], int))


@pytest.mark.parametrize(
    ('detected', 'truth', 'crowds', 'cells', 'result'),
    [
        ([(0, A)], [(0, A)], [], {(0, 0): 1}, (1, 0, 0)),
        ([(1, A)], [(0, A)], [], {(0, 1): 1}, (0, 1, 1)),
        ([], [(0, A)], [], {(0, 2): 1}, (0, 0, 1)),
        ([(0, B)], [(1, A)], [], {(1, 2): 1, (2, 0): 1}, (0, 1, 1)),
        ([(0, A), (0, A_LOW)], [(0, A)], [], {(0, 0): 1, (2, 0): 1}, (1, 1, 0)),
        # Within the class first, although the other has the better score.
        ([(1, A), (0, A_LOW)], [(0, A)], [], {(0, 0): 1, (2, 1): 1}, (1, 1, 0)),
        ([(0, B)], [(0, HUGE)], [0], {}, (0, 0, 0)),
        ([(0, B), (0, A)], [(0, HUGE), (0, A)], [0], {(0, 0): 1}, (1, 0, 0)),
        ([], [], [], {}, (0, 0, 0)),
    ],
)
def test_detections_are_paired_with_objects(detected, truth, crowds, cells, result):
    report = DetectionReport(['cat', 'dog'])
    crowd = np.zeros(len(truth), bool)
    crowd[crowds] = True
    found = report.add(boxes(*detected), boxes(*truth), crowd)
    assert found == result
    assert {tuple(cell): report.confusion[tuple(cell)] for cell in np.argwhere(report.confusion).tolist()} == cells
    right, false, missed = result
    assert found.f1 == (2 * right / (2 * right + false + missed) if false + missed else 1)


def test_the_ap_of_each_class_is_that_of_the_metric(tmp_path):
    """Which rounds it, and says it of the last kind alone."""
    generator = np.random.default_rng(0)
    metric = CocoMetric(metric='bbox', classwise=True)
    metric.dataset_meta = dict(classes=('zebra', 'ant', 'cow'))
    MMLogger.get_instance('mmengine')
    report = DetectionReport(metric.dataset_meta['classes'])
    for number in range(20):
        corners = generator.uniform(0, 50, (4, 2))
        truth = np.concatenate([corners, corners + generator.uniform(10, 40, (4, 2))], 1)
        labels = generator.integers(0, 2, 4)  # no cow
        found = dict(
            bboxes=torch.tensor(truth + generator.normal(0, 3, truth.shape)),
            labels=torch.tensor(np.where(generator.random(4) < 0.8, labels, 1 - labels)),
            scores=torch.tensor(np.sort(generator.random(4))[::-1].copy()),
        )
        instances = [dict(bbox=box.tolist(), bbox_label=int(label)) for box, label in zip(truth, labels, strict=True)]
        metric.process({}, [dict(img_id=number, ori_shape=(100, 100), instances=instances, pred_instances=found)])
        detected = Boxes(found['bboxes'].numpy(), found['labels'].numpy())
        report.add(detected, Boxes(truth, labels), np.zeros(4, bool))
    with record_precisions() as precisions:
        scores = metric.evaluate(20)
    report.write(precisions, tmp_path)
    rows = json.loads((tmp_path / 'per_class.json').read_text())
    assert [row['class'] for row in rows] == ['zebra', 'ant', 'cow']
    for row in rows[:2]:
        assert 0 < row['AP'] < row['AP50'] < 1
        assert row['AP'] == pytest.approx(scores[f'coco/{row["class"]}_precision'], abs=6e-4)
    assert rows[2] == {'class': 'cow', 'instances': 0, 'AP': None, 'AP50': None, 'taken_for': None}
    assert rows[0]['instances'] + rows[1]['instances'] == 80 and rows[0]['taken_for'] == 'ant'
    assert np.mean([row['AP50'] for row in rows[:2]]) == pytest.approx(scores['coco/bbox_mAP_50'], abs=6e-4)


def test_the_iou_of_each_class_is_that_of_the_metric(tmp_path):
    generator = torch.Generator().manual_seed(0)
    classes = ('sky', 'road', 'car', 'bus')
    report, results = SegmentationReport(classes), []
    for _ in range(5):
        truth = torch.randint(0, 3, (30, 40), generator=generator)
        predicted = torch.where(torch.rand(30, 40, generator=generator) < 0.7, truth, 1)
        truth[:5] = 255
        results.append(IoUMetric.intersect_and_union(predicted, truth, 4, 255))
        image = IoUMetric.total_area_to_metrics(*results[-1])
        assert report.add(predicted, truth.byte()) == pytest.approx(np.nanmean(image['IoU']))
    expected = IoUMetric.total_area_to_metrics(*map(sum, zip(*results, strict=True)))
    report.write(tmp_path)
    rows = json.loads((tmp_path / 'per_class.json').read_text())
    for label in range(3):
        assert rows[label]['IoU'] == pytest.approx(100 * expected['IoU'][label])
        assert rows[label]['Acc'] == pytest.approx(100 * expected['Acc'][label])
    assert [row['taken_for'] for row in rows] == ['road', None, 'road', None]
    assert rows[3] == {'class': 'bus', 'pixels': 0, 'IoU': None, 'Acc': None, 'taken_for': None}
    assert sum(row['pixels'] for row in rows) == 5 * 25 * 40


def test_an_image_without_pixels_that_count_has_no_score():
    report = SegmentationReport(['road'])
    assert np.isnan(report.add(torch.zeros(2, 2), torch.full((2, 2), 255)))
