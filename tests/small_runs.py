"""Small training runs of each task, and comparison of their checkpoints."""

from pathlib import Path

import torch
from conftest import REPOSITORY

from convnext_backbone import read_checkpoint
from convnext_backbone.engine.resume import find_checkpoints

DEMO = REPOSITORY / 'configs/demo/pretrain_convnext_atto_shapes.py'
# Two epochs of three steps of two batches, the last batch of an epoch dropped. All random augmentation is on.
SMALL = [
    'train_dataloader.batch_size=2',
    'auto_scale_lr.base_batch_size=4',
    'train_dataloader.num_workers=2',
    'train_dataloader.dataset.transform.input_size=32',
    'val_dataloader.dataset.transform.input_size=32',
    'test_dataloader.dataset.transform.input_size=32',
    'model.backbone.drop_path_rate=0.5',
    'model.data_preprocessor.mixup_alpha=0.8',
    'model.data_preprocessor.cutmix_alpha=1.0',
    'model.data_preprocessor.random_erasing=0.25',
    'train_cfg.max_epochs=2',
    'train_cfg.val_interval=1',
    'default_hooks.logger.interval=1',
    'randomness.seed=3',
]
DETECTOR = REPOSITORY / 'configs/demo/cascade_convnext_atto_shapes.py'
AUTOENCODER = REPOSITORY / 'configs/demo/fcmae_convnext_v2_atto_shapes.py'
SEGMENTOR = REPOSITORY / 'configs/demo/upernet_convnext_atto_camvid.py'
TINY = 'dict(_delete_=True, depths=(1, 1, 2, 1), channels=(8, 16, 32, 64))'
# Each task in a run of a second or two, with all random augmentation, and a checkpoint after each step.
CONFIGS = dict(
    classifier=f"""
_base_ = {str(DEMO)!r}
model = dict(backbone=dict(arch={TINY}))
default_hooks = dict(checkpoint=dict(by_epoch=False, interval=1))
""",
    detector=f"""
_base_ = {str(DETECTOR)!r}
model = dict(
    backbone=dict(arch={TINY}, drop_path_rate=0.5, fused=True),
    neck=dict(in_channels=[8, 16, 32, 64], out_channels=16),
    rpn_head=dict(in_channels=16, feat_channels=16),
    roi_head=dict(
        bbox_roi_extractor=dict(out_channels=16),
        bbox_head=[
            {{**head, 'in_channels': 16, 'conv_out_channels': 16, 'fc_out_channels': 32}}
            for head in _base_.model.roi_head.bbox_head
        ],
        mask_roi_extractor=dict(out_channels=16),
        mask_head=dict(in_channels=16, conv_out_channels=16),
    ),
    test_cfg=dict(rpn=dict(max_per_img=20), rcnn=dict(max_per_img=5)),
)
small = dict(type='Resize', scale=(128, 96), keep_ratio=True)
train_pipeline = [*_base_.load, small, *_base_.train_pipeline[3:]]
test_pipeline = [*_base_.load, small, *_base_.test_pipeline[3:]]
train_dataloader = dict(num_workers=1, persistent_workers=True, dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
train_cfg = dict(max_epochs=2)
default_hooks = dict(checkpoint=dict(by_epoch=False, interval=1), logger=dict(interval=1))
randomness = dict(seed=3)
""",
    segmentor=f"""
_base_ = {str(SEGMENTOR)!r}
classes = ('circle', 'square', 'triangle', 'star', 'cross')
model = dict(
    data_preprocessor=dict(size=(64, 64)),
    backbone=dict(arch={TINY}, drop_path_rate=0.5),
    decode_head=dict(in_channels=[8, 16, 32, 64], channels=16, num_classes=5),
    auxiliary_head=dict(in_channels=32, channels=16, num_classes=5),
)
load = [dict(type='LoadImageFromFile'), dict(type='LoadAnnotations', reduce_zero_label=True)]
crop = [
    dict(type='RandomResize', scale=(128, 96), ratio_range=(0.75, 1.5), keep_ratio=True),
    dict(type='RandomCrop', crop_size=(64, 64), cat_max_ratio=0.75),
]
train_pipeline = [*load, *crop, *_base_.train_pipeline[4:]]
test_pipeline = [load[0], dict(type='Resize', scale=(128, 96), keep_ratio=True), load[1], _base_.test_pipeline[-1]]
drawings = dict(metainfo=dict(_delete_=True, classes=classes), reduce_zero_label=True)
train_dataloader = dict(
    batch_size=2,
    dataset=dict(
        data_prefix=dict(img_path='images/training', seg_map_path='annotations/training'),
        pipeline=train_pipeline,
        **drawings,
    ),
)
val_dataloader = dict(
    dataset=dict(
        data_prefix=dict(img_path='images/validation', seg_map_path='annotations/validation'),
        pipeline=test_pipeline,
        **drawings,
    ),
)
test_dataloader = val_dataloader
train_cfg = dict(max_iters=6, val_interval=3)
param_scheduler = [{{**_base_.param_scheduler[0], 'end': 4}}, {{**_base_.param_scheduler[1], 'begin': 4, 'end': 6}}]
default_hooks = dict(logger=dict(interval=1), checkpoint=dict(interval=1))
randomness = dict(seed=3)
""",
    autoencoder=f"""
_base_ = {str(AUTOENCODER)!r}
model = dict(backbone=dict(arch={TINY}, drop_path_rate=0.5, fused=True), decoder_dim=16)
small = dict(input_size=64)
images = 'annotations/instances_{{}}2017.json'
train_dataloader = dict(
    batch_size=1,
    num_workers=1,
    persistent_workers=True,
    dataset=dict(ann_file=images.format('train'), transform=small),
)
val_dataloader = dict(dataset=dict(ann_file=images.format('val'), transform=small))
test_dataloader = val_dataloader
train_cfg = dict(max_epochs=2, val_interval=1)
auto_scale_lr = dict(base_batch_size=2)
default_hooks = dict(checkpoint=dict(by_epoch=False, interval=1), logger=dict(interval=1))
custom_hooks = [*_base_.custom_hooks, dict(type='AveragedWeightsHook', decay=0.9)]
randomness = dict(seed=3)
""",
)
LAST = dict(classifier='iter_12.pth', detector='iter_6.pth', segmentor='iter_6.pth', autoencoder='iter_12.pth')
PARTS = dict(classifier='imagenet', detector='', segmentor='ade', autoencoder='')


def write_config(task: str, folder: Path, more: str = '') -> Path:
    path = folder / f'{task}.py'
    path.write_text(CONFIGS[task] + more)
    return path


def arguments(task: str, config: Path, data: Path, work_dir: object = 'out', options=()) -> list[object]:
    options = [*(SMALL if task == 'classifier' else []), *options]
    flags = ['--data-root', data / PARTS[task], '--work-dir', work_dir]
    return [config, *flags, *(['--cfg-options', *options] if options else [])]


def differences(one: object, other: object, where: str = '') -> list[str]:
    """The places where two states differ in any bit."""
    if isinstance(one, torch.Tensor):
        same = one.dtype == other.dtype and torch.equal(one, other)
        return [] if same else [where]
    if isinstance(one, dict):
        if one.keys() != other.keys():
            return [f'{where}: {one.keys() ^ other.keys()}']
        return [found for key in one for found in differences(one[key], other[key], f'{where}.{key}')]
    if isinstance(one, (list, tuple)):
        pairs = zip(range(len(one)), one, other, strict=True)
        return [found for i, a, b in pairs for found in differences(a, b, f'{where}.{i}')]
    return [] if one == other else [f'{where}: {one} {other}']


def check_same(one: Path, other: Path) -> None:
    """Compare weights, averages, optimizer and schedules of two checkpoints bit for bit."""
    states = [read_checkpoint(path) for path in (one, other)]
    assert states[0].keys() == states[1].keys() >= {'state_dict', 'optimizer', 'param_schedulers'}
    first, second = ({key: s[key] for key in s.keys() - {'meta', 'message_hub'}} for s in states)
    assert differences(first, second) == []
    assert states[0]['meta']['iter'] == states[1]['meta']['iter']


def contents(folder: Path, pattern: str = '*.pth') -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.glob(pattern) if path.is_file()}


def half_written(work_dir: Path) -> set[str]:
    return {path.name for path in work_dir.glob('.*.pth.*.tmp')}


def find_checkpoint(work_dir: Path) -> Path | None:
    """The checkpoint that a run would resume from."""
    return next(iter(find_checkpoints(work_dir)), None)
