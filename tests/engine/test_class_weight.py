"""class_weight of mmsegmentation's cross entropy with void pixels: what torch computes. To 1e-6."""

from types import SimpleNamespace

import pytest
import torch
from mmengine.registry import MODELS, init_default_scope
from torch import nn
from torch.nn import functional as F

from convnext_backbone.engine.class_weight import ClassWeightHook

WEIGHTS = [0.5, 2.0, 3.0]


def build_loss(**settings) -> nn.Module:
    """A loss of mmsegmentation, prepared as in a run."""
    init_default_scope('mmseg')
    loss = MODELS.build(dict(type='CrossEntropyLoss', class_weight=WEIGHTS, **settings))
    model = nn.ModuleDict(dict(decode_head=loss))
    ClassWeightHook().before_train(SimpleNamespace(model=model))
    ClassWeightHook().before_train(SimpleNamespace(model=model))  # also in custom_hooks
    return loss


def draw(void: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Scores of 3 classes, and labels of which some are void."""
    generator = torch.Generator().manual_seed(0)
    scores = torch.randn(2, 3, 8, 8, generator=generator, dtype=torch.float64).requires_grad_()
    labels = torch.randint(3, (2, 8, 8), generator=generator)
    labels[torch.rand(2, 8, 8, generator=generator) < void] = 255
    return scores, labels


@pytest.mark.parametrize('avg_non_ignore', [False, True])
@pytest.mark.parametrize('void', [0.0, 0.3])
def test_loss_and_gradient_equal_those_of_torch(avg_non_ignore, void):
    loss = build_loss(avg_non_ignore=avg_non_ignore, loss_weight=0.4)
    scores, labels = draw(void)
    ours = loss(scores, labels, weight=None, ignore_index=255)
    theirs = 0.4 * F.cross_entropy(scores, labels, weight=scores.new_tensor(WEIGHTS), ignore_index=255)
    gradients = [torch.autograd.grad(value, scores)[0] for value in (ours, theirs)]
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=0)
    torch.testing.assert_close(*gradients, rtol=1e-6, atol=1e-12)
    assert gradients[0].abs().sum() > 0


def test_masks_that_are_all_void_have_no_loss():
    """Where torch has NaN, which would end the run."""
    scores, labels = draw(1.0)
    loss = build_loss()(scores, labels, ignore_index=255)
    assert loss == 0 and torch.autograd.grad(loss, scores)[0].abs().sum() == 0


def test_the_mean_of_a_whole_crop_does_not_overflow_in_half_precision():
    scores = torch.zeros(1, 3, 512, 512, dtype=torch.bfloat16)
    labels = torch.full((1, 512, 512), 2)
    assert build_loss()(scores.half().float(), labels, ignore_index=255).item() == pytest.approx(1.0986, rel=1e-3)
    with torch.autocast('cpu', torch.bfloat16):
        assert build_loss()(scores, labels, ignore_index=255).item() == pytest.approx(1.0986, rel=1e-2)


def test_a_mean_that_the_caller_chooses_stays():
    scores, labels = draw(0.3)
    loss = build_loss()(scores, labels, avg_factor=7.0, ignore_index=255)
    elements = F.cross_entropy(scores, labels, weight=scores.new_tensor(WEIGHTS), ignore_index=255, reduction='none')
    torch.testing.assert_close(loss, elements.sum() / 7, rtol=1e-6, atol=0)
    assert build_loss()(scores, labels, reduction_override='none', ignore_index=255).shape == labels.shape


def test_with_use_sigmoid_each_class_has_its_weight():
    """torch's pos_weight of shape (classes, 1, 1); mmsegmentation would weight columns."""
    scores, labels = draw(0.3)
    loss = build_loss(use_sigmoid=True, avg_non_ignore=True)(scores, labels, ignore_index=255)
    valid = (labels != 255)[:, None]
    target = F.one_hot(labels.clamp(max=2), 3).movedim(-1, 1).to(scores) * valid
    weight = scores.new_tensor(WEIGHTS)[:, None, None]
    elements = F.binary_cross_entropy_with_logits(scores, target, pos_weight=weight, reduction='none')
    torch.testing.assert_close(loss, ((elements * valid).sum() / (3 * valid.sum())).float(), rtol=1e-6, atol=0)


def test_losses_of_mmdetection_stay():
    init_default_scope('mmdet')
    loss = MODELS.build(dict(type='CrossEntropyLoss', class_weight=WEIGHTS))
    ClassWeightHook().before_train(SimpleNamespace(model=nn.ModuleList([loss])))
    assert not loss._forward_pre_hooks and loss.class_weight == WEIGHTS
