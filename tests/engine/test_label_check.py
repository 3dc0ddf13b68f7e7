"""A label that no class has ends a segmentation run at the batch that holds it, by the name of its mask. Exact."""

from types import SimpleNamespace

import pytest
import torch
from mmengine.registry import MODELS, init_default_scope
from mmengine.structures import BaseDataElement, PixelData
from torch import nn

from convnext_backbone import UserError
from convnext_backbone.engine.label_check import LabelCheckHook


def check(*labels: int, mode='train', head=None, metrics=(), nested=False) -> None:
    """Run the hook of a model with 3 classes on two masks, of which the second has these labels."""
    init_default_scope('mmseg')
    settings = dict(type='FCNHead', in_channels=4, channels=4, num_classes=3, norm_cfg=dict(type='BN'))
    head = head or MODELS.build(settings)
    model = nn.ModuleDict(dict(decode_head=head))
    model.decode_head = head
    masks = [torch.zeros(1, 1, 4, dtype=torch.long), torch.tensor([[labels]])]
    samples = [
        BaseDataElement(metainfo=dict(seg_map_path=f'ann/{i}.png'), gt_sem_seg=PixelData(data=mask))
        for i, mask in enumerate(masks)
    ]
    runner = SimpleNamespace(model=model, val_evaluator=SimpleNamespace(metrics=metrics))
    batch = dict(inputs=[], data_samples=[[one, one] for one in samples] if nested else samples)
    getattr(LabelCheckHook(), f'before_{mode}_iter')(runner, 0, batch)


@pytest.mark.parametrize('nested', [False, True])
def test_a_label_that_no_class_has_is_named_with_its_mask(nested):
    check(0, 1, 2, 255, nested=nested)
    with pytest.raises(
        UserError, match='^The mask ann/1.png has the label 7, which none of the 3 classes has'
    ) as named:
        check(0, 7, 255, nested=nested)
    assert '(255 is)' in str(named.value) and 'reduce_zero_label' in str(named.value)


def test_what_the_head_ignores_may_be_in_the_training_data_and_what_the_metric_ignores_in_the_other():
    init_default_scope('mmseg')
    settings = dict(type='FCNHead', in_channels=4, channels=4, num_classes=3, norm_cfg=dict(type='BN'))
    check(0, 11, head=MODELS.build({**settings, 'ignore_index': 11}))
    check(0, 11, mode='val', metrics=[SimpleNamespace(ignore_index=11)])
    with pytest.raises(UserError, match='label 11'):
        check(0, 11, mode='val', metrics=[SimpleNamespace(ignore_index=255)])
    with pytest.raises(UserError, match='label 255.*11 is'):
        check(0, 255, mode='val', metrics=[SimpleNamespace(ignore_index=11)])


def test_other_models_are_left_alone():
    check(0, 200, head=nn.Linear(2, 2))
    LabelCheckHook().before_train_iter(SimpleNamespace(model=nn.Linear(2, 2)), 0, [torch.zeros(2)])
