"""Exact: DINO and Mask2Former learn the classes of other data; DINO without masks, Mask2Former with them alone."""

import pytest
import torch
from conftest import REPOSITORY
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS, init_default_scope
from own_sets import NAMES, write_detection

from convnext_backbone.config.load import load_config
from convnext_backbone.config.schedule import Schedule, set_schedule
from convnext_backbone.utils.errors import UserError

DINO = REPOSITORY / 'configs/dino_convnext_t_coco.py'
MASK2FORMER = REPOSITORY / 'configs/mask2former_convnext_t_coco.py'
SMALL = {'model.backbone.arch': 'atto', 'model.backbone.init_cfg': None}
SMALL_DINO = {
    **SMALL,
    'model.neck.in_channels': [80, 160, 320],
    'model.num_queries': 20,
    'model.test_cfg.max_per_img': 9,
}
SMALL_MASK2FORMER = {
    **SMALL,
    'model.panoptic_head.in_channels': [40, 80, 160, 320],
    'model.data_preprocessor.batch_augments': None,
}


def learn_and_predict(cfg: Config) -> set[int]:
    """One step on a small image, then a prediction: the classes in it."""
    from mmdet.testing import demo_mm_inputs

    init_default_scope('mmdet')
    torch.manual_seed(0)
    model = MODELS.build(cfg.model).train()
    model.init_weights()
    inputs = dict(image_shapes=(3, 64, 64), num_items=[3], num_classes=3, with_mask='panoptic_head' in cfg.model)
    logged = model.train_step(demo_mm_inputs(1, **inputs), build_optim_wrapper(model, cfg.optim_wrapper))
    assert all(value.isfinite() for key, value in logged.items() if 'loss' in key)
    with torch.no_grad():
        (sample,) = model.eval().test_step(demo_mm_inputs(1, **inputs))
    assert len(sample.pred_instances) and ('masks' in sample.pred_instances) == inputs['with_mask']
    return {*sample.pred_instances.labels.tolist()}


def test_dino_learns_three_classes_of_boxes_alone(real_data, tmp_path, capsys):
    write_detection('yolo', real_data, tmp_path / 'mine')
    cfg = load_config(DINO, str(tmp_path / 'work'), str(tmp_path / 'mine'), SMALL_DINO)
    assert cfg.model.bbox_head.num_classes == 3 and cfg.train_dataloader.dataset.metainfo.classes == NAMES
    assert 'mask head' not in capsys.readouterr().err
    assert cfg.val_evaluator.metric == 'bbox'
    assert learn_and_predict(cfg) <= {0, 1, 2}


def test_mask2former_learns_three_classes(real_data, tmp_path):
    write_detection('roboflow', real_data, tmp_path / 'mine')
    cfg = load_config(MASK2FORMER, str(tmp_path / 'work'), str(tmp_path / 'mine'), SMALL_MASK2FORMER)
    head, fusion = cfg.model.panoptic_head, cfg.model.panoptic_fusion_head
    assert (head.num_things_classes, fusion.num_things_classes) == (3, 3)
    assert head.loss_cls.class_weight == [1.0, 1.0, 1.0, 0.1]  # the last for no object
    assert (
        cfg.test_dataloader.dataset.metainfo.classes == NAMES and 'seg' not in cfg.train_dataloader.dataset.data_prefix
    )
    assert learn_and_predict(cfg) <= {0, 1, 2}


def test_mask2former_needs_masks(real_data, tmp_path):
    write_detection('yolo', real_data, tmp_path / 'mine')
    with pytest.raises(UserError, match='learns masks, but not all objects of the data have one: add them to the'):
        load_config(MASK2FORMER, str(tmp_path / 'work'), str(tmp_path / 'mine'))


def test_a_third_of_the_steps_of_mask2former_keeps_its_places():
    cfg = Config.fromfile(MASK2FORMER)
    set_schedule(cfg, Schedule(iters=122_917), images=118_287)
    assert cfg.train_cfg.max_iters == cfg.param_scheduler.end == 122_917
    assert cfg.param_scheduler.milestones == pytest.approx([327_778 / 3, 355_092 / 3], abs=1)
    assert (cfg.train_cfg.val_interval, cfg.default_hooks.checkpoint.interval) == (1667, 1667)


def test_12_epochs_of_dino_keep_its_milestones():
    cfg = Config.fromfile(DINO)
    set_schedule(cfg, Schedule(epochs=12), images=118_287)
    (steps,) = cfg.param_scheduler
    assert (cfg.train_cfg.max_epochs, steps.end, steps.milestones) == (12, 12, [9, 11])
