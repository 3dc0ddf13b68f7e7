"""Networks of tensors alone: equal to what the MM libraries and the trained backbones predict. Exact in eager mode."""

import deployed_models as models
import numpy as np
import pytest
import torch
from conftest import REPOSITORY
from mmdet.structures import DetDataSample
from mmengine.registry import MODELS, init_default_scope
from torch import nn

from convnext_backbone.config.load import load_config
from convnext_backbone.config.recipes import list_recipes, task_of
from convnext_backbone.datasets.timm_dataset import build_transform
from convnext_backbone.deploy.__main__ import best_classes, slide
from convnext_backbone.deploy.check import compare_detections
from convnext_backbone.deploy.metadata import describe_crop, describe_resize
from convnext_backbone.deploy.plain import PlainPool, make_plain
from convnext_backbone.deploy.supported import BACKBONES, PARTS, build_network
from convnext_backbone.models.convnext import ConvNeXt
from convnext_backbone.models.isotropic import ConvNeXtIsotropic
from convnext_backbone.utils.errors import UserError

SIZES = ((32, 32), (64, 96), (65, 65), (97, 130), (128, 160), (224, 100))
DETECTORS = (models.cascade, models.mask_rcnn, models.faster_rcnn)


def lively(cfg):
    model = models.build(cfg)
    network = build_network(model)
    models.enliven(model, network)
    return model, network


@pytest.fixture(autouse=True)
def without_gradients():
    with torch.no_grad():
        yield


class Classifier(nn.Module):
    def __init__(self, backbone):
        super().__init__()
        self.backbone = backbone

    def forward(self, image):
        return self.backbone(image)


@pytest.mark.parametrize(
    'backbone',
    [
        ConvNeXt(dict(depths=models.DEPTHS, channels=models.CHANNELS), layer_scale_init_value=0.5),
        ConvNeXt(dict(depths=models.DEPTHS, channels=models.CHANNELS), use_grn=True, out_indices=(1, 3)),
        ConvNeXt('atto', layer_scale_init_value=0.0, out_norm=False),
        ConvNeXtIsotropic(dict(depths=[3], channels=[32])),
    ],
    ids=['V1', 'V2', 'without layer scale', 'isotropic'],
)
@pytest.mark.parametrize('images', [1, 3])
def test_the_plain_form_of_a_backbone_gives_its_maps_at_every_size(backbone, images):
    """To 1e-5 of the largest value, with the same tensors and none besides."""
    for parameter in backbone.parameters():
        if parameter.ndim == 1:
            parameter.uniform_(0.3, 1.2)
    network = Classifier(backbone).eval()
    plain = make_plain(network)
    assert {id(one) for one in plain.parameters()} == {id(one) for one in backbone.parameters()}
    for size in SIZES:
        image = torch.randn(images, 3, *size)
        expected, found = network(image), plain(image)
        assert len(expected) == len(found)
        for one, other in zip(expected, found, strict=True):
            torch.testing.assert_close(other, one, rtol=0, atol=1e-5 * float(one.abs().max()))


@pytest.mark.parametrize('bins', [1, 2, 3, 6])
@pytest.mark.parametrize('size', [(1, 1), (2, 3), (5, 7), (6, 12), (13, 31)])
def test_plain_pooling_is_torchs(bins, size):
    image = torch.randn(2, 4, *size)
    torch.testing.assert_close(PlainPool(bins)(image), nn.AdaptiveAvgPool2d(bins)(image))


@pytest.mark.parametrize('backbone', [dict(), dict(use_grn=True)], ids=['V1', 'V2'])
def test_a_classifier_gives_its_scores(backbone):
    model, network = lively(models.classifier(**backbone))
    image = torch.randn(3, 3, 64, 90)
    expected = torch.stack([one['scores'] for one in model(image, mode='predict')])
    assert torch.equal(network(image), expected)
    torch.testing.assert_close(make_plain(network)(image), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize('mode', ['whole', 'slide'])
@pytest.mark.parametrize('size', [(64, 96), (97, 131), (160, 203)])
def test_a_segmentor_gives_the_classes_of_mmseg(mode, size):
    """All pixels, also at the size of the image, to which mmseg enlarges the logits; windows overlap."""
    from mmseg.structures import SegDataSample

    model, network = lively(models.segmentor(mode))
    image, original = torch.randn(1, 3, *size), (size[0] * 2 - 5, size[1] * 3 // 2)
    sample = SegDataSample(metainfo=dict(ori_shape=original, img_shape=size, pad_shape=size, padding_size=[0] * 4))
    expected = model.predict(image, [sample])[0].pred_sem_seg.data[0].numpy()

    def run(part: np.ndarray) -> np.ndarray:
        return network(torch.from_numpy(np.ascontiguousarray(part))[None])[0].numpy()

    window, stride = (model.test_cfg.get(name, size) for name in ('crop_size', 'stride'))
    found = best_classes(slide(run, image[0].numpy(), window, stride), *original)
    assert len(np.unique(expected)) > 3 and (found == expected).mean() > 0.9999
    torch.testing.assert_close(make_plain(network)(image), network(image), rtol=0, atol=1e-3)


@pytest.mark.parametrize('make', DETECTORS)
@pytest.mark.parametrize('backbone', [dict(), dict(use_grn=True)], ids=['V1', 'V2'])
def test_a_detector_gives_the_objects_of_mmdet(make, backbone):
    """Boxes, scores, labels to the bit, in an image that is padded; pasted masks, too."""
    model, network = lively(make(**backbone))
    for size in ((96, 128), (97, 130), (70, 200)):
        image = torch.randn(1, 3, *size)
        boxes, scores, labels, *masks = network(image)
        height, width = (-(-side // 32) * 32 for side in size)
        meta = dict(img_shape=size, ori_shape=size, scale_factor=(1.0, 1.0), batch_input_shape=(height, width))
        padded = nn.functional.pad(image, (0, width - size[1], 0, height - size[0]))
        found = model.predict(padded, [DetDataSample(metainfo=meta)], rescale=False)[0].pred_instances
        assert len(found) > 20
        assert torch.equal(boxes, found.bboxes) and torch.equal(scores, found.scores)
        assert torch.equal(labels, found.labels)
        if 'masks' in found:
            head = model.roi_head.mask_head
            head = head[-1] if isinstance(head, nn.ModuleList) else head
            head.class_agnostic = True  # the channel of the label is taken already
            pasted = head._predict_by_feat_single(
                masks[0][:, None], boxes, labels, meta, model.roi_head.test_cfg, activate_map=True
            )
            head.class_agnostic = False
            assert found.masks.any() and torch.equal(pasted, found.masks)
        else:
            assert not masks


@pytest.mark.parametrize('make', DETECTORS)
def test_the_plain_form_of_a_detector_finds_the_same(make):
    """BN is folded into the convolutions: of 99 % boxes to half a pixel, scores to 1e-3."""
    _, network = lively(make(use_grn=True))
    image = torch.randn(1, 3, 150, 203)
    expected, found = ([one.numpy() for one in form(image)] for form in (network, make_plain(network)))
    matched, number, _ = compare_detections(expected, found)
    assert number > 20 and matched >= 0.99 * number


def draw_objects(number=40):
    """Boxes, scores that are all the same, labels and probabilities of masks."""
    random = np.random.default_rng(0)
    corners = random.uniform(0, 200, (number, 2)).astype(np.float32)
    boxes = np.concatenate([corners, corners + random.uniform(20, 90, (number, 2)).astype(np.float32)], 1)
    masks = np.where(random.random((number, 28, 28)) < 0.5, 0.1, 0.9).astype(np.float32)
    return [boxes, np.ones(number, np.float32), random.integers(0, 3, number), masks]


def test_detections_of_equal_scores_agree_in_any_order():
    """And one that is missing costs no other one its match."""
    expected = draw_objects()
    order = np.random.default_rng(1).permutation(40)[1:]
    found = [one[order] for one in expected]
    assert compare_detections(expected, found)[:2] == (39, 40)
    assert compare_detections(found, expected) == (39, 40, [0, 0, 0, 0])


def test_masks_agree_if_they_share_99_percent_of_their_pixels():
    """Whatever their probabilities are."""
    expected = draw_objects(4)
    expected[3][:] = 0.9
    found = [*expected[:3], expected[3].copy()]
    found[3][0, 2:-2, 2:-2] = 0.6
    found[3][1, :2] = 0.4  # 7 % of its pixels
    assert compare_detections(expected, found)[0] == 3
    assert 0.05 < compare_detections(expected, found)[2][3] < 0.12


def test_a_detector_that_finds_nothing_has_empty_outputs():
    model, network = lively(models.mask_rcnn())
    model.roi_head.test_cfg.score_thr = 1.0
    assert [tuple(one.shape) for one in network(torch.randn(1, 3, 64, 64))] == [(0, 4), (0,), (0,), (0, 28, 28)]


@pytest.mark.parametrize(
    ('make', 'change', 'words'),
    [
        (models.mask_rcnn, dict(type='MaskScoringRCNN'), 'type=MaskScoringRCNN'),
        (models.mask_rcnn, dict(roi_head=dict(mask_head=dict(type='CoarseMaskHead'))), 'mask_head=CoarseMaskHead'),
        (models.mask_rcnn, dict(neck=dict(type='PAFPN')), 'neck=PAFPN'),
        (models.mask_rcnn, dict(test_cfg=dict(rcnn=dict(nms=dict(type='soft_nms')))), 'soft_nms'),
        (models.segmentor, dict(decode_head=dict(align_corners=True)), 'align_corners=True'),
    ],
)  # fmt: skip
def test_what_is_not_computed_exactly_is_refused_by_name(make, change, words):
    cfg = make()
    cfg.merge_from_dict(dict(model=change))
    model = models.build(cfg)
    with pytest.raises(UserError, match=r'cannot be exported: .*; predict with tools/predict\.py\.$') as refused:
        build_network(model)
    assert words in str(refused.value)


RECIPES = [str(one.path.relative_to(REPOSITORY)) for one in list_recipes(REPOSITORY / 'configs')]


@pytest.mark.slow
@pytest.mark.parametrize('recipe', RECIPES)
def test_every_recipe_of_these_kinds_can_leave(recipe):
    """With its test pipeline; the others are refused by the name of what is unknown."""
    cfg = load_config(REPOSITORY / recipe)
    task = task_of(cfg)
    init_default_scope({'segmentation': 'mmseg', 'detection': 'mmdet'}.get(task, 'mmengine'))
    with torch.device('meta'):
        model = MODELS.build(cfg.model).eval()
    unknown = [name for name in (cfg.model.type, cfg.model.backbone.type) if name not in (*PARTS, *BACKBONES)]
    if unknown:
        with pytest.raises(UserError, match=f'={unknown[0]}, which cannot be exported'):
            build_network(model)
        return
    assert build_network(model).outputs[0] in ('scores', 'logits', 'boxes')
    if task == 'classification':
        model.transform = build_transform(False, **cfg.test_dataloader.dataset.transform)
        assert (
            describe_crop(model.transform)['resize']['crop'] == [cfg.test_dataloader.dataset.transform.input_size] * 2
        )
    else:
        assert describe_resize(cfg)['resize']['rule'] == 'ratio'
