"""Whole models, with mmcv's compiled operators and with ours: detections, losses and gradients. Exact to rounding.

It needs a compiled mmcv: `python tools/test_matrix.py --compiled` builds one and runs this.
"""

import importlib
import pkgutil
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.machinery import EXTENSION_SUFFIXES
from types import ModuleType

import mmcv._ext
import mmcv.ops
import numpy as np
import pytest
import torch
from conftest import REPOSITORY
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from mmengine.structures import InstanceData, PixelData

import convnext_backbone.ops.ext as ours

pytestmark = pytest.mark.skipif(
    not mmcv._ext.__file__.endswith(tuple(EXTENSION_SUFFIXES)),
    reason='mmcv has no compiled operators to compare with: `python tools/test_matrix.py --compiled` builds them',
)

HEIGHT, WIDTH = 192, 256
CONFIGS = {
    'Cascade Mask R-CNN': REPOSITORY / 'configs/cascade_convnext_t_coco.py',
    'Mask R-CNN': REPOSITORY / 'configs/mask_rcnn_convnext_t_coco.py',
    'UperNet': REPOSITORY / 'configs/upernet_convnext_t_ade20k.py',
    'RetinaNet': 'mmdet::retinanet/retinanet_r50_fpn_1x_coco.py',
    'RTMDet': 'mmdet::rtmdet/rtmdet_tiny_8xb32-300e_coco.py',
    'DINO': 'mmdet::dino/dino-4scale_r50_8xb2-12e_coco.py',
    'Mask2Former': 'mmdet::mask2former/mask2former_r50_8xb2-lsj-50e_coco.py',
    'deformable convolutions': 'mmdet::dcn/faster-rcnn_r50-dconv-c3-c5_fpn_1x_coco.py',
    'modulated deformable convolutions': 'mmdet::dcnv2/faster-rcnn_r50-mdconv-c3-c5_fpn_1x_coco.py',
    'Soft-NMS': 'mmdet::soft_nms/faster-rcnn_r50_fpn_soft-nms_1x_coco.py',
    'Libra R-CNN, GA-RetinaNet': 'mmdet::guided_anchoring/ga-retinanet_r50-caffe_fpn_1x_coco.py',
    'CARAFE': 'mmdet::carafe/faster-rcnn_r50_fpn-carafe_1x_coco.py',
}


@contextmanager
def operators(ext: ModuleType) -> Iterator[None]:
    """Lets every module of mmcv.ops call the functions of another module than it was imported with."""
    with pytest.MonkeyPatch.context() as patch:
        for module in pkgutil.iter_modules(mmcv.ops.__path__, 'mmcv.ops.'):
            if hasattr(module := importlib.import_module(module.name), 'ext_module'):
                patch.setattr(module, 'ext_module', ext)
        yield


def build(source: object) -> tuple[torch.nn.Module, bool]:
    """A model with random weights, that reports everything it finds; and whether it is a segmentor."""
    if isinstance(source, str):
        from mmengine.hub import get_config

        cfg = get_config(source)
    else:
        cfg = Config.fromfile(source)
    init_default_scope(cfg.default_scope)
    model = cfg.model
    model.backbone.init_cfg = None
    for test in (model.get('test_cfg') or {}, (model.get('test_cfg') or {}).get('rcnn') or {}):
        if 'score_thr' in test:
            test.score_thr = 0.0
    torch.manual_seed(0)
    model = MODELS.build(to_batch_norm(model))
    model.init_weights()
    return model, cfg.default_scope == 'mmseg'


def to_batch_norm(cfg: object) -> object:
    """SyncBN needs GPUs."""
    if isinstance(cfg, dict):
        return type(cfg)({key: 'BN' if value == 'SyncBN' else to_batch_norm(value) for key, value in cfg.items()})
    return [to_batch_norm(value) for value in cfg] if isinstance(cfg, (list, tuple)) else cfg


def batch(segments: bool) -> dict:
    """Two images of noise, with objects or classes on them."""
    random = np.random.RandomState(0)
    samples = []
    for _ in range(2):
        if segments:
            from mmseg.structures import SegDataSample

            sample = SegDataSample(
                gt_sem_seg=PixelData(data=torch.from_numpy(random.randint(0, 150, (1, HEIGHT, WIDTH))))
            )
        else:
            sample = detection_sample(random)
        shape = (HEIGHT, WIDTH)
        names = dict(
            img_shape=shape, ori_shape=shape, pad_shape=shape, batch_input_shape=shape, scale_factor=(1.0, 1.0)
        )
        sample.set_metainfo(names)
        samples.append(sample)
    images = [torch.from_numpy(random.randint(0, 256, (3, HEIGHT, WIDTH), np.uint8)) for _ in range(2)]
    return dict(inputs=images, data_samples=samples)


def detection_sample(random: np.random.RandomState) -> object:
    from mmdet.structures import DetDataSample
    from mmdet.structures.bbox import HorizontalBoxes
    from mmdet.structures.mask import BitmapMasks

    corners = np.sort(random.rand(5, 2, 2) * [WIDTH - 40, HEIGHT - 40], 1)
    boxes = np.concatenate([corners[:, 0], corners[:, 1] + 40], 1).astype(np.float32)
    masks = np.zeros((5, HEIGHT, WIDTH), np.uint8)
    for mask, (x1, y1, x2, y2) in zip(masks, boxes.astype(int), strict=True):
        mask[y1:y2, x1:x2] = 1
    labels = torch.from_numpy(random.randint(0, 80, 5))
    instances = InstanceData(
        bboxes=HorizontalBoxes(torch.from_numpy(boxes)), labels=labels, masks=BitmapMasks(masks, HEIGHT, WIDTH)
    )
    semantic = PixelData(sem_seg=torch.from_numpy(random.randint(0, 80, (1, HEIGHT, WIDTH))))
    empty = InstanceData(bboxes=torch.zeros(0, 4), labels=torch.zeros(0, dtype=torch.long))
    return DetDataSample(gt_instances=instances, gt_sem_seg=semantic, ignored_instances=empty)


def predict(model: torch.nn.Module, segments: bool) -> list[dict[str, torch.Tensor]]:
    model.eval()
    with torch.no_grad():
        results = model.test_step(batch(segments))
    if segments:
        return [dict(logits=result.seg_logits.data, classes=result.pred_sem_seg.data) for result in results]
    return [
        {name: value for name, value in result.pred_instances.items() if isinstance(value, torch.Tensor)}
        for result in results
    ]


def learn(model: torch.nn.Module, segments: bool) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """Losses and gradients of one step."""
    model.train()
    model.zero_grad()
    torch.manual_seed(1)
    np.random.seed(1)
    data = model.data_preprocessor(batch(segments), training=False)
    loss, parts = model.parse_losses(model(**data, mode='loss'))
    loss.backward()
    return parts, {name: weight.grad.clone() for name, weight in model.named_parameters() if weight.grad is not None}


@pytest.mark.parametrize('name', CONFIGS)
def test_same_detections_losses_and_gradients(name):
    model, segments = build(CONFIGS[name])
    with operators(mmcv._ext):
        expected, losses, grads = predict(model, segments), *learn(model, segments)
    with operators(ours):
        found, own_losses, own_grads = predict(model, segments), *learn(model, segments)
    for one, other in zip(expected, found, strict=True):
        assert one.keys() == other.keys() and all(len(value) for value in one.values())
        for key, value in one.items():
            torch.testing.assert_close(
                other[key], value, rtol=1e-5, atol=1e-5, msg=lambda text, key=key: f'{key}: {text}'
            )
    torch.testing.assert_close(own_losses, losses, rtol=1e-5, atol=1e-6)
    assert grads.keys() == own_grads.keys()
    for key, grad in grads.items():
        torch.testing.assert_close(own_grads[key], grad, rtol=1e-4, atol=1e-5 * float(grad.abs().max()) + 1e-9)
