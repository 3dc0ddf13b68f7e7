"""Small models of every kind that can be exported, whose untrained heads give values as spread as trained ones."""

import argparse
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import REPOSITORY
from mmengine.config import Config
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import MODELS, init_default_scope
from PIL import Image
from torch import nn

from convnext_backbone.config.load import load_config, prepare_config
from convnext_backbone.config.recipes import task_of
from convnext_backbone.deploy.export import export_model
from convnext_backbone.models.grn import GRN

PRETTY_TEXT = Config.pretty_text
CHANNELS = [8, 16, 24, 32]
DEPTHS = [1, 1, 2, 1]
SPREAD = dict(rpn_cls=2.0, rpn_reg=0.5, fc_cls=2.0, fc_reg=1.0, conv_logits=2.0, conv_seg=2.0, head=2.0)
BOX_HEAD = dict(
    type='Shared2FCBBoxHead',
    in_channels=16,
    fc_out_channels=32,
    roi_feat_size=7,
    num_classes=5,
    bbox_coder=dict(type='DeltaXYWHBBoxCoder', target_means=[0.0] * 4, target_stds=[0.1, 0.1, 0.2, 0.2]),
)
PROPOSALS = dict(nms_pre=300, max_per_img=100, nms=dict(type='nms', iou_threshold=0.7), min_bbox_size=0)


def read(recipe: str, **model: object) -> Config:
    """A recipe with a tiny backbone and what else is to be changed in its model."""
    cfg = load_config(REPOSITORY / f'configs/{recipe}.py')
    cfg.model.backbone.pop('init_cfg', None)
    cfg.model.backbone.arch = dict(depths=DEPTHS, channels=CHANNELS)
    cfg.merge_from_dict(dict(model=model))
    return cfg


def classifier(**backbone: object) -> Config:
    return read('demo/pretrain_convnext_atto_shapes', backbone=backbone)


def segmentor(mode: str = 'whole', **backbone: object) -> Config:
    test = dict(_delete_=True, mode=mode, crop_size=(96, 80), stride=(64, 50)) if mode == 'slide' else dict()
    return read(
        'demo/upernet_convnext_atto_camvid',
        backbone=backbone,
        decode_head=dict(in_channels=CHANNELS, channels=16),
        auxiliary_head=dict(in_channels=24),
        test_cfg=test,
    )


def cascade(**backbone: object) -> Config:
    """Cascade Mask R-CNN, with SyncBN and boxes for each class, as the recipes of COCO have it."""
    cfg = read('cascade_convnext_t_coco', backbone=backbone, neck=dict(in_channels=CHANNELS, out_channels=16))
    _narrow(cfg)
    for head in cfg.model.roi_head.bbox_head:
        head.update(in_channels=16, conv_out_channels=16, fc_out_channels=32, num_classes=5)
    return cfg


def mask_rcnn(**backbone: object) -> Config:
    cfg = read('mask_rcnn_convnext_t_coco', backbone=backbone, neck=dict(in_channels=CHANNELS, out_channels=16))
    _narrow(cfg)
    cfg.model.roi_head.bbox_head.update(in_channels=16, fc_out_channels=32, num_classes=5)
    return cfg


def faster_rcnn(**backbone: object) -> Config:
    cfg = mask_rcnn(**backbone)
    cfg.model.type = 'FasterRCNN'
    for part in ('mask_head', 'mask_roi_extractor'):
        cfg.model.roi_head.pop(part)
    return cfg


def _narrow(cfg: Config) -> None:
    model = cfg.model
    model.rpn_head.update(in_channels=16, feat_channels=16)
    model.roi_head.bbox_roi_extractor.out_channels = model.roi_head.mask_roi_extractor.out_channels = 16
    model.roi_head.mask_head.update(num_convs=1, in_channels=16, conv_out_channels=16, num_classes=5)
    model.test_cfg.rpn = PROPOSALS
    dataset = cfg.test_dataloader.dataset
    dataset.metainfo = dict(classes=tuple('abcde'))
    for step in dataset.pipeline:
        if step.type == 'Resize':
            step.scale = (240, 180)  # as that of the segmentor


def build(cfg: Config, seed: int = 0) -> nn.Module:
    """The model in eval mode, every norm with weights of its own."""
    init_default_scope({'segmentation': 'mmseg', 'detection': 'mmdet'}.get(task_of(cfg), 'mmengine'))
    torch.manual_seed(seed)
    model = revert_sync_batchnorm(MODELS.build(cfg.model)).eval()
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, (nn.LayerNorm, nn.BatchNorm2d)):
                module.weight.uniform_(0.7, 1.3)
                module.bias.uniform_(-0.2, 0.2)
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.uniform_(-0.1, 0.1)
                module.running_var.uniform_(0.5, 1.5)
            if isinstance(module, GRN):
                module.gamma.uniform_(-0.3, 0.3)
                module.beta.uniform_(-0.1, 0.1)
            if isinstance(getattr(module, 'gamma', None), nn.Parameter) and module.gamma.ndim == 1:
                module.gamma.uniform_(0.3, 1.0)
    return model


def enliven(model: nn.Module, network: nn.Module) -> None:
    """Scale the last layers of the heads such that their outputs have the spread of :data:`SPREAD`."""

    def scale(layer: nn.Module, spread: float) -> None:
        factors: list[torch.Tensor] = []  # of the first level of a pyramid: others share the layer

        def hook(_: nn.Module, inputs: tuple, output: torch.Tensor) -> torch.Tensor:
            if factors:
                return output
            factors.append(spread / output.std())
            layer.weight.mul_(factors[0])
            layer.bias.mul_(factors[0])
            return output * factors[0]

        hooks.append(layer.register_forward_hook(hook))

    hooks: list = []
    for name, layer in model.named_modules():
        if name.rpartition('.')[2] in SPREAD and 'auxiliary' not in name and isinstance(layer, (nn.Linear, nn.Conv2d)):
            scale(layer, SPREAD[name.rpartition('.')[2]])
    with torch.no_grad():
        network(torch.randn(1, 3, 128, 160))
    for hook in hooks:
        hook.remove()


def save(model: nn.Module, cfg: Config, folder: Path) -> tuple[Path, Path]:
    """The config and the checkpoint of a model, as files."""
    meta = dict(classes=list('abcde'))
    if task_of(cfg) == 'segmentation':
        meta = {key: list(value) for key, value in cfg.test_dataloader.dataset.metainfo.items()}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Config, 'pretty_text', PRETTY_TEXT)  # which call_tool leaves out
        cfg.dump(folder / 'config.py')
    torch.save(dict(state_dict=model.state_dict(), meta=dict(dataset_meta=meta)), folder / 'model.pth')
    return folder / 'config.py', folder / 'model.pth'


def export(model: nn.Module, cfg: Config, folder: Path, **arguments: object) -> None:
    """The config and the checkpoint of a model, and beside them its exported file."""
    config, weights = map(str, save(model, cfg, folder))
    flags = argparse.Namespace(config=config, checkpoint=weights, work_dir=None, data_root=None, cfg_options=None)
    export_model(prepare_config(flags), weights, folder / 'model.onnx', **arguments)


def draw_photos(folder: Path, sizes: list[tuple[int, int]]) -> list[Path]:
    """Smooth pictures of given widths and heights."""
    random = np.random.default_rng(0)
    folder.mkdir(parents=True)
    paths = [folder / f'{i}.png' for i in range(len(sizes))]
    for path, size in zip(paths, sizes, strict=True):
        Image.fromarray(random.integers(0, 256, (9, 8, 3), np.uint8)).resize(size).save(path)
    return paths
