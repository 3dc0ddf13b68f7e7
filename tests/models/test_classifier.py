"""Image classifier: loss, mixup and normalization equal to timm's and torchvision's, and loading of checkpoints.

`test_parity.py` compares logits and gradients with timm's.
"""

import numpy as np
import pytest
import torch
from families import TINY
from timm.data.mixup import Mixup
from timm.loss import LabelSmoothingCrossEntropy, SoftTargetCrossEntropy
from torchvision.transforms import functional as vision

from convnext_backbone import (
    ArgumentError,
    CheckpointMismatch,
    ConvNeXt,
    ImageClassifier,
    ImagePreprocessor,
    load_backbone,
    read_checkpoint,
)
from convnext_backbone.datasets.seeded_loader import seed_all
from convnext_backbone.weights.load import fill_backbone

BACKBONE = dict(type='ConvNeXt', arch=TINY)
BYTES = torch.randint(0, 256, (4, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
LABELS = torch.tensor([0, 1, 2, 2])


def classifier(**arguments) -> ImageClassifier:
    seed_all(0)
    return ImageClassifier(BACKBONE, **{'num_classes': 5, **arguments})


def normalized() -> torch.Tensor:
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    return torch.stack([vision.normalize(image / 255, mean, std) for image in BYTES])


def test_normalization_is_torchvisions():
    data = ImagePreprocessor()(dict(inputs=BYTES, labels=LABELS, broken=[''] * 4))
    torch.testing.assert_close(data['inputs'], normalized())
    assert data['labels'] is LABELS and set(data) == {'inputs', 'labels'}


@pytest.mark.parametrize('smoothing', [0.0, 0.1])
def test_the_loss_is_timms(smoothing):
    model = classifier(label_smoothing=smoothing)
    data = model.data_preprocessor(dict(inputs=BYTES, labels=LABELS), True)
    expected = LabelSmoothingCrossEntropy(smoothing)(model(normalized()), LABELS)
    torch.testing.assert_close(model(**data, mode='loss')['loss'], expected)


@pytest.mark.parametrize('alphas', [(0.8, 1.0), (0.8, 0.0), (0.0, 1.0)])
def test_mixed_images_targets_and_loss_are_timms(alphas):
    model = classifier(
        label_smoothing=0.1, data_preprocessor=dict(mixup_alpha=alphas[0], cutmix_alpha=alphas[1], random_erasing=0.5)
    )
    model.data_preprocessor._erasing = None
    mixup = Mixup(*alphas, label_smoothing=0.1, num_classes=5)
    drawn = set()
    for seed in range(6):
        np.random.seed(seed)
        data = model.data_preprocessor(dict(inputs=BYTES, labels=LABELS), True)
        np.random.seed(seed)
        images, targets = mixup(normalized(), LABELS)
        torch.testing.assert_close(data['inputs'], images)
        torch.testing.assert_close(data['labels'], targets)
        expected = SoftTargetCrossEntropy()(model(images), targets)
        torch.testing.assert_close(model(**data, mode='loss')['loss'], expected)
        drawn.add(float(targets.max()))
    assert len(drawn) > 3


def test_random_erasing_erases_the_given_share_of_images_in_training_only():
    seed_all(0)
    preprocess = ImagePreprocessor(random_erasing=0.25)
    clean = preprocess(dict(inputs=BYTES))['inputs']
    torch.testing.assert_close(clean, normalized())
    erased = [(preprocess(dict(inputs=BYTES), True)['inputs'] != clean).flatten(1).any(1) for _ in range(200)]
    assert 0.2 < torch.cat(erased).float().mean() < 0.3


def test_predicted_scores_sum_to_one():
    model = classifier().eval()
    for sample, label in zip(model.val_step(dict(inputs=BYTES, labels=LABELS)), LABELS, strict=True):
        assert sample['scores'].shape == (5,) and sample['label'] == label
        assert float(sample['scores'].sum()) == pytest.approx(1)


def test_head_init_scale_scales_the_heads_random_weights():
    plain, scaled = classifier(), classifier(head_init_scale=0.001)
    torch.testing.assert_close(scaled.head.weight, plain.head.weight * 0.001)
    assert 0.01 < float(plain.head.weight.detach().std()) < 0.03 and not plain.head.bias.any()


def test_a_linear_probe_trains_only_norm_and_head():
    model = ImageClassifier({**BACKBONE, 'frozen_stages': 4, 'drop_path_rate': 0.9}, num_classes=5).train()
    features = [model.extract_feat(normalized()) for _ in range(2)]
    assert torch.equal(*features)  # no stochastic depth in frozen stages
    model(normalized(), LABELS, mode='loss')['loss'].backward()
    learning = [name for name, parameter in model.named_parameters() if parameter.grad is not None]
    assert learning == ['norm.weight', 'norm.bias', 'head.weight', 'head.bias']


@pytest.mark.parametrize(
    ('arguments', 'named'),
    [
        (dict(num_classes=0), 'num_classes=0'),
        (dict(num_classes='ten'), "num_classes='ten'"),
        (dict(label_smoothing=1.0), 'label_smoothing=1.0'),
        (dict(data_preprocessor=dict(random_erasing=2)), 'random_erasing=2'),
        (dict(data_preprocessor=dict(mixup_alpha=-1.0)), 'mixup_alpha=-1.0'),
    ],
)
def test_invalid_arguments_raise(arguments, named):
    with pytest.raises(ArgumentError, match=named):
        classifier(**arguments)


def test_mixup_of_an_odd_batch_raises():
    with pytest.raises(ArgumentError, match='3 images.*drop_last'):
        ImagePreprocessor(mixup_alpha=0.8)(dict(inputs=BYTES[:3], labels=LABELS[:3]), True)


def test_a_classifier_loads_norm_and_head_too(tmp_path):
    trained, fresh = classifier(), classifier(head_init_scale=0.5)
    for parameter in trained.parameters():
        torch.nn.init.normal_(parameter)
    torch.save(dict(state_dict=trained.state_dict()), tmp_path / 'own.pth')
    report = load_backbone(fresh, tmp_path / 'own.pth')
    assert not report.new and not report.unfit and not report.dropped and report.classes == 5
    assert all(torch.equal(tensor, fresh.state_dict()[name]) for name, tensor in trained.state_dict().items())
    fill_backbone(fresh, trained.state_dict(), 'own', head=True)


def test_a_head_of_another_number_of_classes_is_skipped_and_reported(tmp_path):
    torch.save(classifier(num_classes=7).state_dict(), tmp_path / 'seven.pth')
    model = classifier(init_cfg=dict(type='Pretrained', checkpoint=str(tmp_path / 'seven.pth')), head_init_scale=0.001)
    head = model.head.weight.clone()
    model.init_weights()
    assert torch.equal(model.head.weight, head)
    report = load_backbone(model, tmp_path / 'seven.pth')
    assert 'unfit: head.weight (7, 4) for (5, 4), head.bias (7,) for (5,)' in str(report)
    with pytest.raises(CheckpointMismatch, match='head.weight'):
        fill_backbone(model, read_checkpoint(tmp_path / 'seven.pth'), 'seven.pth', head=True)


def test_a_checkpoint_of_a_backbone_leaves_norm_and_head_unchanged(tmp_path):
    torch.save(ConvNeXt(TINY).state_dict(), tmp_path / 'backbone.pth')
    report = load_backbone(classifier(), tmp_path / 'backbone.pth')
    assert report.new == ['norm.weight', 'norm.bias', 'head.weight', 'head.bias']


@pytest.mark.parametrize('name', ['backbone.stages.2.0.gamma', 'norm.bias', 'head.bias'])
def test_a_checkpoint_with_a_missing_tensor_is_refused(name, tmp_path):
    state = classifier().state_dict()
    del state[name]
    torch.save(state, tmp_path / 'x.pth')
    model = classifier()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(CheckpointMismatch, match=name.removeprefix('backbone.')):
        load_backbone(model, tmp_path / 'x.pth')
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
