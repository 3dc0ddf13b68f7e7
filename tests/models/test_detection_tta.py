"""Detections of several views of an image, merged. Exact."""

import pytest
import torch
from mmengine.structures import BaseDataElement, InstanceData
from torch import nn

from convnext_backbone.models.detection_tta import InstanceTTAModel

HEIGHT, WIDTH = 20, 30
BOX = torch.tensor([2.0, 3.0, 12.0, 9.0])


class Detector(nn.Module):
    def test_step(self, data):
        assert not any(sample.flip for sample in data['data_samples'])
        return data['data_samples']


def merge(*views, **settings):
    """The prediction of an image out of those of its views."""
    data = dict(inputs=[[one] for one in views], data_samples=[[one] for one in views])
    (merged,) = InstanceTTAModel(module=Detector(), **settings).test_step(data)
    return merged.pred_instances


def view(score, direction=None, box=BOX, label=0, masks=True):
    """What a detector that sees a box finds in a view of the image."""
    left, top, right, bottom = box.tolist()
    if direction in ('horizontal', 'diagonal'):
        left, right = WIDTH - right, WIDTH - left
    if direction in ('vertical', 'diagonal'):
        top, bottom = HEIGHT - bottom, HEIGHT - top
    found = InstanceData(bboxes=torch.tensor([[left, top, right, bottom]]), scores=torch.tensor([score]))
    found.labels = torch.tensor([label])
    if masks:
        found.masks = torch.zeros(1, HEIGHT, WIDTH, dtype=torch.bool)
        found.masks[0, int(top) : int(bottom), int(left) : int(right)] = True
    meta = dict(ori_shape=(HEIGHT, WIDTH), flip=direction is not None, flip_direction=direction)
    return BaseDataElement(metainfo=meta, pred_instances=found)


@pytest.mark.parametrize('masks', [True, False])
@pytest.mark.parametrize('direction', ['horizontal', 'vertical', 'diagonal'])
def test_the_same_object_in_two_views_is_found_once_with_its_mask(direction, masks):
    found = merge(view(0.6, masks=masks), view(0.9, direction, masks=masks))
    assert torch.equal(found.bboxes, BOX[None]) and found.scores.tolist() == pytest.approx([0.9])
    assert ('masks' in found) == masks
    if masks:
        assert torch.equal(found.masks, view(1.0).pred_instances.masks)


def test_other_objects_and_classes_are_kept_best_first():
    far = BOX + torch.tensor([15.0, 8.0, 15.0, 8.0])
    found = merge(view(0.2), view(0.5, 'horizontal', far), view(0.7, label=1))
    assert found.scores.tolist() == pytest.approx([0.7, 0.5, 0.2])
    assert found.labels.tolist() == [1, 0, 0]
    assert torch.equal(found.bboxes[1], far)
    assert len(merge(view(0.2), view(0.5, 'horizontal', far), max_per_img=1)) == 1


def test_an_image_without_detections_has_none():
    views = [view(0.5), view(0.5, 'horizontal')]
    for one in views:
        one.pred_instances = one.pred_instances[torch.zeros(1, dtype=torch.bool)]
    found = merge(*views)
    assert len(found) == 0 and found.masks.shape == (0, HEIGHT, WIDTH)
