"""What the fuzzing spoils: arguments, configs of small runs and annotation files, and how."""

import copy
import math
from pathlib import Path

import numpy as np
from conftest import REPOSITORY
from hypothesis import strategies as st
from mmengine.config import Config
from PIL import Image

from convnext_backbone.config.load import load_config

TINY = dict(depths=[1, 1, 1, 1], channels=[4, 4, 4, 4])
CONSTANT = dict(type='Constant', val=0.1, layer='Linear')
MISSING = '<missing>'
SCALARS = st.one_of(
    st.sampled_from(
        [None, True, False, MISSING, math.nan, math.inf, -math.inf, 10**12, -(2**63), 10**400, 1e300, -1e-9]
    ),
    st.integers(-3, 5),
    st.floats(-2, 2),
    st.sampled_from(['', 'x', 'auto', '1', '1e-3', 'tiny', 'ConvNeXt', '\n', '\0', '/', 'long' * 100]),
)
ODD = st.one_of(
    SCALARS,
    st.lists(SCALARS, max_size=4),
    st.lists(SCALARS, max_size=4).map(tuple),
    st.dictionaries(st.sampled_from(['type', 'x', 'depths', 'channels', 'lr_mult']), SCALARS, max_size=2),
)


def mutations(plausible: dict[str, list], most: int = 2):
    """Up to so many changes of a config: a dotted name, and a value that may be right or anything else."""
    one = st.tuples(st.sampled_from([*plausible]), st.booleans()).flatmap(
        lambda chosen: st.tuples(
            st.just(chosen[0]), st.sampled_from(plausible[chosen[0]] or [None]) if chosen[1] else ODD
        )
    )
    return st.lists(one, min_size=1, max_size=most, unique_by=lambda change: change[0])


def change(node: object, name: str, value: object) -> None:
    """Sets a value by its dotted name, or takes it out."""
    *parents, last = (int(part) if part.isdigit() else part for part in name.split('.'))
    for parent in parents:
        try:
            node = node[parent]
        except (KeyError, IndexError, TypeError):
            return  # another change took it out
        if not isinstance(node, (dict, list)):
            return
    if isinstance(node, list):
        if isinstance(last, int) and last < len(node):
            node[last] = copy.deepcopy(value)
    elif value == MISSING:
        node.pop(last, None)
    else:
        node[last] = copy.deepcopy(value)


# What ConvNeXt takes.
BACKBONE = {
    'arch': [
        'atto',
        dict(depths=[1, 1, 2, 1], channels=[4, 8, 4, 8]),
        dict(depths=(1, 2, 1, 1), channels=(4, 4, 4, 4)),
    ],
    'arch.depths': [[2, 1, 1, 1]],
    'arch.channels': [[8, 8, 8, 8]],
    'in_channels': [1, 4],
    'drop_path_rate': [0.0, 0.5, 0],
    'layer_scale_init_value': [0, 1.0],
    'use_grn': [True],
    'out_indices': [(0, 1, 2, 3), [3, 1], -1, 0, (-1, -2)],
    'out_norm': [False],
    'frozen_stages': [1, 4],
    'with_cp': [True],
    'init_cfg': [None, CONSTANT, [dict(type='Pretrained', checkpoint='x.pth')]],
    'init_cfg.type': ['Normal', 'Pretrained'],
    'fused': [False],
    'depth': [50],
}
# What layer decay takes.
OPTIMISATION = {
    'optim_wrapper': [dict(type='OptimWrapper', optimizer=dict(type='SGD', lr=0.1))],
    'optim_wrapper.type': ['OptimWrapper', 'AmpOptimWrapper'],
    'optim_wrapper.constructor': ['DefaultOptimWrapperConstructor'],
    'optim_wrapper.accumulative_counts': [1, 'auto'],
    'optim_wrapper.clip_grad': [None, dict(max_norm=1.0), dict(type='value', clip_value=0.5)],
    'optim_wrapper.clip_grad.max_norm': [1, 0.1],
    'optim_wrapper.paramwise_cfg': [dict(decay_rate=0.5)],
    'optim_wrapper.paramwise_cfg.decay_rate': [0.5, 1],
    'optim_wrapper.paramwise_cfg.decay_type': ['stage_wise', 'layer_wise'],
    'optim_wrapper.paramwise_cfg.custom_keys': [dict(backbone=dict(lr_mult=0.1, decay_mult=0)), dict(x={})],
    'optim_wrapper.paramwise_cfg.custom_keys.norm': [dict(lr_mult=2)],
    'optim_wrapper.paramwise_cfg.custom_keys.norm.lr_mult': [0, 3.0],
    'optim_wrapper.paramwise_cfg.custom_keys.norm.decay_mult': [0, 3.0],
    'optim_wrapper.paramwise_cfg.num_layers': [6],
    'optim_wrapper.optimizer': [dict(type='SGD', lr=0.1)],
    'optim_wrapper.optimizer.type': ['Adam'],
    'optim_wrapper.optimizer.lr': [0, 1e-3, 1],
    'optim_wrapper.optimizer.weight_decay': [0, 0.1],
    'optim_wrapper.optimizer.betas': [(0.9, 0.95), [0.5, 0.5]],
}
OPTIMIZER = dict(type='AdamW', lr=1e-3, weight_decay=0.05)
WRAPPER = dict(
    type='OptimWrapper',
    constructor='LayerDecayOptimWrapperConstructor',
    paramwise_cfg=dict(decay_rate=0.7, custom_keys=dict(norm=dict(lr_mult=0.5, decay_mult=1.0))),
    optimizer=OPTIMIZER,
    clip_grad=dict(max_norm=5.0),
)
# What a run takes, whatever its task. What would make it long, or start processes, is left out below.
RUN = {
    **{f'model.backbone.{name}': values for name, values in BACKBONE.items()},
    'model.backbone': [dict(type='ConvNeXt', arch=TINY)],
    'model.backbone.type': [],
    **OPTIMISATION,
    'auto_scale_lr': [None, dict(enable=True, base_batch_size=2)],
    'auto_scale_lr.enable': [True],
    'auto_scale_lr.base_batch_size': [1, 2, 4],
    'train_cfg': [dict(type='EpochBasedTrainLoop', max_epochs=1)],
    'train_cfg.type': ['IterBasedTrainLoop', 'EpochBasedTrainLoop'],
    'train_cfg.max_epochs': [1, 2],
    'train_cfg.max_iters': [1, 2],
    'train_cfg.val_interval': [1, 2],
    'train_cfg.val_begin': [1, 2],
    'train_dataloader': [],
    'train_dataloader.batch_size': [1, 2, 4],
    'train_dataloader.num_workers': [0],
    'train_dataloader.drop_last': [True],
    'train_dataloader.sampler': [dict(type='InfiniteSampler')],
    'train_dataloader.sampler.type': ['InfiniteSampler'],
    'train_dataloader.sampler.shuffle': [True],
    'train_dataloader.dataset': [],
    'train_dataloader.dataset.type': ['CocoDataset', 'BaseSegDataset', 'TimmDataset', 'LVISDataset'],
    'train_dataloader.dataset.data_root': [],
    'train_dataloader.dataset.data_prefix': [],
    'train_dataloader.dataset.data_prefix.img': [],
    'train_dataloader.dataset.ann_file': [],
    'train_dataloader.dataset.metainfo': [],
    'train_dataloader.dataset.metainfo.classes': [('circle',), ('circle', 'square', 'triangle', 'star', 'cross')],
    'train_dataloader.dataset.pipeline.1': [],
    'train_dataloader.dataset.transform': [],
    'train_dataloader.dataset.transform.input_size': [64],
    'train_dataloader.dataset.indices': [1, 2],
    'default_hooks': [None],
    'default_hooks.checkpoint': [None, dict(type='CheckpointHook')],
    'default_hooks.checkpoint.type': ['CheckpointHook'],
    'default_hooks.checkpoint.interval': [1, -1],
    'default_hooks.checkpoint.by_epoch': [True, False],
    'default_hooks.checkpoint.max_keep_ckpts': [1, -1],
    'default_hooks.checkpoint.save_best': ['auto', 'accuracy/top1'],
    'default_hooks.checkpoint.rule': ['less'],
    'default_hooks.logger': [None],
    'default_hooks.logger.interval': [1],
    'default_hooks.param_scheduler': [None],
    'custom_hooks': [[], [dict(type='CurvesHook')]],
    'custom_hooks.0': [dict(type='AveragedWeightsHook')],
    'custom_hooks.1': [],
    'custom_hooks.1.decay': [0.5, 0.9],
    'param_scheduler': [None, [], dict(type='ConstantLR', factor=0.5)],
    'param_scheduler.0': [dict(type='LinearLR', start_factor=0.5, end=3)],
    'param_scheduler.0.type': ['ConstantLR'],
    'param_scheduler.0.begin': [0, 1],
    'param_scheduler.0.end': [1, 5],
    'param_scheduler.0.by_epoch': [True, False],
    'param_scheduler.0.T_max': [1, 10],
    'param_scheduler.0.eta_min': [0, 1e-5],
    'randomness': [{}, dict(seed=0)],
    'randomness.seed': [0, 2**32 - 1, None],
    'randomness.deterministic': [],
    'load_from': [None, 'nowhere.pth'],
    'resume': [False, True],
    'log_level': ['WARNING'],
    'log_processor': [dict(by_epoch=True)],
    'visualizer': [],
    'default_scope': ['mmdet', 'mmseg', 'mmengine'],
    'env_cfg': [],
    'env_cfg.dist_cfg': [],
    'runner_type': ['ResumableRunner'],
    'val_cfg': [],
    'val_evaluator': [],
    'val_dataloader': [],
    'model': [],
    'model.type': [],
    'model.init_cfg': [],
    'model.data_preprocessor': [],
}
OF_TASK = dict(
    classifier={
        'model.num_classes': [5],
        'model.head_init_scale': [1e-3],
        'model.label_smoothing': [0.1],
        'model.data_preprocessor.mean': [[0.5], (0.5, 0.4, 0.3)],
        'model.data_preprocessor.std': [[0.5], (0.5, 0.4, 0.3)],
        'model.data_preprocessor.random_erasing': [0.5],
        'model.data_preprocessor.mixup_alpha': [0.8],
        'model.data_preprocessor.cutmix_alpha': [1.0],
    },
    detector={
        'model.neck.in_channels': [],
        'model.roi_head.mask_head.num_classes': [5],
        'model.roi_head.bbox_head.0.num_classes': [5],
    },
    segmentor={
        'model.decode_head.in_channels': [],
        'model.decode_head.in_index': [[0, 1, 2, 3]],
        'model.decode_head.num_classes': [5],
        'model.decode_head.dropout_ratio': [0],
    },
)
QUICK = dict(
    train_cfg=dict(_delete_=True, type='EpochBasedTrainLoop', max_epochs=1, val_interval=1),
    optim_wrapper=dict(_delete_=True, **WRAPPER),
    param_scheduler=[dict(type='CosineAnnealingLR', begin=0, end=2, T_max=2, by_epoch=True)],
    custom_hooks=[dict(type='FiniteCheckHook'), dict(type='AveragedWeightsHook', decay=0.9)],
    randomness=dict(seed=0),
    visualizer=dict(_delete_=True, type='Visualizer', vis_backends=[]),
    log_processor=dict(_delete_=True),
)
NO_EVALUATION = dict(val_cfg=None, val_dataloader=None, val_evaluator=None)
NO_EVALUATION |= dict(test_cfg=None, test_dataloader=None, test_evaluator=None)


def small_classifier(shapes: Path) -> Config:
    cfg = load_config(REPOSITORY / 'configs/demo/pretrain_convnext_atto_shapes.py', data_root=str(shapes / 'imagenet'))
    cfg.merge_from_dict(QUICK | dict(optim_wrapper=dict(_delete_=True, accumulative_counts='auto', **WRAPPER)))
    cfg.custom_hooks.append(dict(type='LabelledImagesHook'))  # which compares the classes with the head
    cfg.model.backbone.arch = dict(TINY)
    cfg.auto_scale_lr.base_batch_size = 2
    for loader in (cfg.train_dataloader, cfg.val_dataloader):
        loader.batch_size = 2
        loader.dataset.transform.input_size = 32
    cfg.test_dataloader = cfg.test_cfg = cfg.test_evaluator = None
    return cfg


def small_detector(shapes: Path) -> Config:
    cfg = load_config(REPOSITORY / 'configs/demo/cascade_convnext_atto_shapes.py', data_root=str(shapes))
    cfg.merge_from_dict(QUICK)
    cfg.merge_from_dict(NO_EVALUATION)
    model = cfg.model
    model.backbone.arch = dict(TINY)
    model.neck.update(in_channels=[4] * 4, out_channels=4)
    model.rpn_head.update(in_channels=4, feat_channels=4)
    heads = model.roi_head
    heads.update(num_stages=1, stage_loss_weights=[1.0], bbox_head=heads.bbox_head[:1])
    heads.bbox_head[0].update(in_channels=4, conv_out_channels=4, fc_out_channels=8)
    heads.bbox_roi_extractor.out_channels = heads.mask_roi_extractor.out_channels = 4
    heads.mask_head.update(in_channels=4, conv_out_channels=4, num_convs=1)
    model.train_cfg.rcnn = model.train_cfg.rcnn[:1]
    model.train_cfg.rpn_proposal.update(nms_pre=20, max_per_img=10)
    cfg.train_dataloader.dataset.update(indices=2)
    cfg.train_dataloader.dataset.pipeline[2].scale = (64, 48)
    return cfg


def small_segmentor(folder: Path) -> Config:
    chance = np.random.default_rng(0)
    for number in range(2):
        for name, size in (('img_dir', (48, 64, 3)), ('ann_dir', (48, 64))):
            (folder / name / 'train').mkdir(parents=True, exist_ok=True)
            pixels = chance.integers(0, 5, size, dtype=np.uint8)
            Image.fromarray(pixels).save(folder / name / f'train/{number}.{"jpg" if len(size) == 3 else "png"}')
    cfg = load_config(REPOSITORY / 'configs/demo/upernet_convnext_atto_camvid.py', data_root=str(folder))
    cfg.merge_from_dict(QUICK)
    cfg.merge_from_dict(NO_EVALUATION)
    cfg.train_cfg = dict(type='IterBasedTrainLoop', max_iters=1, val_interval=1)
    cfg.param_scheduler = [dict(type='PolyLR', power=1.0, eta_min=0.0, by_epoch=False, begin=0, end=2)]
    model = cfg.model
    model.backbone.arch = dict(TINY)
    model.auxiliary_head = None
    model.decode_head.update(in_channels=[4] * 4, channels=4, num_classes=5, pool_scales=(1, 2))
    model.data_preprocessor.size = (64, 64)
    data = cfg.train_dataloader.dataset
    data.metainfo = dict(classes=tuple('abcde'), palette=[[0, 0, i] for i in range(5)])
    data.pipeline[2].scale, data.pipeline[3].crop_size = (64, 64), (64, 64)
    cfg.train_dataloader.batch_size = 2
    return cfg


# What was found by other seeds.
FOUND = dict(
    classifier=[
        ('val_evaluator', [None]),
        ('val_evaluator', ()),
        ('train_dataloader.dataset.transform.input_size', 1),
        ('train_dataloader.batch_size', 10**12),
        ('default_hooks.checkpoint.save_best', 'x'),
        ('optim_wrapper.clip_grad', {'x': None}),
    ],
    detector=[
        ('optim_wrapper.optimizer.lr', 1e300),
        ('train_dataloader.dataset.data_prefix.img', ''),
        ('train_dataloader.dataset.metainfo.classes', 'long' * 100),
    ],
    segmentor=[
        ('train_dataloader.dataset.metainfo.classes', None),
        ('train_dataloader.dataset.metainfo.classes', '\0'),
    ],
)
# What stands in an annotation file, and what may befall the file.
RLE = dict(size=[96, 128], counts=[96 * 50, 96 * 20, 96 * 58])
ENTRIES = {
    'images': [[]],
    'images.0.id': [2],
    'images.0.file_name': ['nowhere.jpg', 'x/../000000000001.jpg'],
    'images.0.height': [96, 48, 200],
    'images.0.width': [128, 64, 200],
    'images.0.x': [1],
    'annotations': [[]],
    'annotations.0.id': [2],
    'annotations.0.image_id': [1, 2, 99],
    'annotations.0.category_id': [1, 5, 99],
    'annotations.0.bbox': [
        [5, 5, 20, 20],
        [-5, -5, 20, 20],
        [120, 90, 50, 50],
        [0, 0, 0, 0],
        [1e7, 0, 9, 9],
        [9, 9, 0.5, 9],
    ],
    'annotations.0.bbox.0': [5, -5.5, 1e30],
    'annotations.0.bbox.2': [5, -5.5, 1e30],
    'annotations.0.area': [0, 1e9, -1],
    'annotations.0.iscrowd': [1],
    'annotations.0.ignore': [1],
    'annotations.0.segmentation': [
        [],
        RLE,
        {**RLE, 'size': [128, 96]},
        {**RLE, 'counts': [5, 5]},
        {**RLE, 'counts': 'PPYo1'},
        [[1, 1, 2, 2]],
        [[5, 5, 20, 5, 20, 20], [1]],
        [[-50, -50, 500, 5, 20, 1e5]],
    ],
    'annotations.0.segmentation.0': [[5, 5, 20, 5, 20, 20]],
    'annotations.0.segmentation.0.0': [5, -5.5, 1e5],
    'annotations.1.segmentation.size': [[96, 128], [128, 96]],
    'annotations.1.segmentation.counts': [[96 * 128], 'PPYo1', 'e0d0'],
    'annotations.1.segmentation.counts.0': [96 * 50, 5],
    'categories': [[]],
    'categories.0.id': [2, 9],
    'categories.0.name': ['square', 'circle', 'dog'],
    **dict.fromkeys(['images.0', 'annotations.0', 'annotations.1', 'categories.0'], []),
}
DAMAGE = dict(
    none=lambda text: text,
    cut=lambda text: text[: len(text) // 2],
    empty=lambda text: b'',
    latin=lambda text: text.replace(b'circle', b'c\xefrcle'),
    wide=lambda text: text.decode().encode('utf-16'),
    marked=lambda text: b'\xef\xbb\xbf' + text,
    nested=lambda text: b'[' * 100_000,
)
