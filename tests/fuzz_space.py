"""What the fuzzing changes at random, and how: arguments, settings of the layer decay, annotation files."""

import copy
import math
from pathlib import Path

from conftest import REPOSITORY
from hypothesis import strategies as st
from mmengine.config import Config

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
    """Up to so many changes: a dotted name each, and a plausible value or any other."""
    one = st.tuples(st.sampled_from([*plausible]), st.booleans()).flatmap(
        lambda chosen: st.tuples(
            st.just(chosen[0]), st.sampled_from(plausible[chosen[0]] or [None]) if chosen[1] else ODD
        )
    )
    return st.lists(one, min_size=1, max_size=most, unique_by=lambda change: change[0])


def change(node: object, name: str, value: object) -> None:
    """Set a value by its dotted name, or remove it."""
    *parents, last = (int(part) if part.isdigit() else part for part in name.split('.'))
    for parent in parents:
        try:
            node = node[parent]
        except (KeyError, IndexError, TypeError):
            return  # another change removed it
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
# What an optimizer with layer decay takes.
OPTIMIZATION = {
    'optim_wrapper.clip_grad': [None, dict(max_norm=1.0), dict(type='value', clip_value=0.5)],
    'optim_wrapper.clip_grad.max_norm': [1, 0.1],
    'optim_wrapper.accumulative_counts': [1, 'auto'],
    'optim_wrapper.paramwise_cfg': [dict(decay_rate=0.5)],
    'optim_wrapper.paramwise_cfg.decay_rate': [0.5, 1],
    'optim_wrapper.paramwise_cfg.decay_type': ['stage_wise', 'layer_wise'],
    'optim_wrapper.paramwise_cfg.custom_keys': [dict(backbone=dict(lr_mult=0.1, decay_mult=0)), dict(x={})],
    'optim_wrapper.paramwise_cfg.custom_keys.norm': [dict(lr_mult=2)],
    'optim_wrapper.paramwise_cfg.custom_keys.norm.lr_mult': [0, 3.0],
    'optim_wrapper.paramwise_cfg.custom_keys.norm.decay_mult': [0, 3.0],
    'optim_wrapper.paramwise_cfg.num_layers': [6],
    'optim_wrapper.optimizer.lr': [0, 1e-3, 1],
    'optim_wrapper.optimizer.weight_decay': [0, 0.1],
    'optim_wrapper.optimizer.betas': [(0.9, 0.95), [0.5, 0.5]],
}
WRAPPER = dict(
    type='OptimWrapper',
    constructor='LayerDecayOptimWrapperConstructor',
    paramwise_cfg=dict(decay_rate=0.7, custom_keys=dict(norm=dict(lr_mult=0.5, decay_mult=1.0))),
    optimizer=dict(type='AdamW', lr=1e-3, weight_decay=0.05),
    clip_grad=dict(max_norm=5.0),
)


def small_detector(shapes: Path) -> Config:
    cfg = load_config(REPOSITORY / 'configs/demo/cascade_convnext_atto_shapes.py', data_root=str(shapes))
    cfg.merge_from_dict(
        dict(
            train_cfg=dict(_delete_=True, type='EpochBasedTrainLoop', max_epochs=1, val_interval=1),
            optim_wrapper=dict(_delete_=True, **WRAPPER),
            param_scheduler=[dict(type='CosineAnnealingLR', begin=0, end=2, T_max=2, by_epoch=True)],
            custom_hooks=[dict(type='FiniteCheckHook')],
            randomness=dict(seed=0),
            visualizer=dict(_delete_=True, type='Visualizer', vis_backends=[]),
            log_processor=dict(_delete_=True),
            **{f'{split}_{part}': None for split in ('val', 'test') for part in ('cfg', 'dataloader', 'evaluator')},
        )
    )
    cfg.default_hooks.checkpoint.update(interval=-1, save_last=False)
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
    cfg.train_dataloader.dataset.pipeline[2].scale = (64, 48)
    return cfg


# The entries of an annotation file, and damage to the file itself.
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
