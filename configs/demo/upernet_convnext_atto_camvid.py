# UperNet with ConvNeXt-atto on CamVid's street scenes, from random weights, in minutes on 2 CPU cores: a check that
# training works, before days of GPU time go into it. At half size, so that a crop sees most of a scene.
#
#   python tools/train.py configs/demo/upernet_convnext_atto_camvid.py --data-root data/camvid
#
# From weights of your own (imagenette's, say), with the paper's layer decay, which preserves pre-trained features:
#
#   python tools/train.py configs/demo/upernet_convnext_atto_camvid.py --data-root data/camvid --cfg-options \
#       model.backbone.init_cfg.type=Pretrained model.backbone.init_cfg.checkpoint=epoch_36.pth \
#       optim_wrapper.paramwise_cfg.decay_rate=0.7 optim_wrapper.paramwise_cfg.decay_type=layer_wise
_base_ = ['../_base_/upernet_convnext.py', '../_base_/segmentation_runtime.py']

classes = dict(
    Sky=(128, 128, 128),
    Building=(128, 0, 0),
    Pole=(192, 192, 128),
    Road=(128, 64, 128),
    Sidewalk=(0, 0, 192),
    Tree=(128, 128, 0),
    Sign=(192, 128, 128),
    Fence=(64, 64, 128),
    Car=(64, 0, 128),
    Pedestrian=(64, 64, 0),
    Bicyclist=(0, 128, 192),
)
crop_size = (160, 160)
head = dict(num_classes=len(classes), norm_cfg=dict(type='BN', requires_grad=True))
model = dict(
    data_preprocessor=dict(size=crop_size),
    backbone=dict(arch='atto', drop_path_rate=0.0),
    decode_head=dict(in_channels=[40, 80, 160, 320], channels=64, **head),
    auxiliary_head=dict(in_channels=160, channels=32, **head),
    test_cfg=dict(_delete_=True, mode='whole'),
)

scale = (240, 180)
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations'),
    dict(type='RandomResize', scale=scale, ratio_range=(0.75, 1.5), keep_ratio=True),
    dict(type='RandomCrop', crop_size=crop_size, cat_max_ratio=0.75),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackSegInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=scale, keep_ratio=True),
    dict(type='LoadAnnotations'),
    dict(type='PackSegInputs'),
]
scenes = dict(
    type='BaseSegDataset',
    data_root='data/camvid/',
    metainfo=dict(classes=tuple(classes), palette=[list(color) for color in classes.values()]),
)
train_dataloader = dict(
    batch_size=4,
    num_workers=0,
    sampler=dict(type='InfiniteSampler', shuffle=True),
    dataset=dict(
        data_prefix=dict(img_path='img_dir/train', seg_map_path='ann_dir/train'), pipeline=train_pipeline, **scenes
    ),
)
val_dataloader = dict(
    batch_size=1,
    num_workers=0,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        data_prefix=dict(img_path='img_dir/val', seg_map_path='ann_dir/val'), pipeline=test_pipeline, **scenes
    ),
)
test_dataloader = val_dataloader
val_evaluator = dict(type='IoUMetric', iou_metrics=['mIoU'])
test_evaluator = val_evaluator

max_iters, warmup = 1200, 50
train_cfg = dict(type='IterBasedTrainLoop', max_iters=max_iters, val_interval=max_iters // 4)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-3, by_epoch=False, begin=0, end=warmup),
    dict(type='PolyLR', power=1.0, eta_min=0.0, by_epoch=False, begin=warmup, end=max_iters),
]
optim_wrapper = dict(
    type='OptimWrapper',
    constructor='LayerDecayOptimWrapperConstructor',
    paramwise_cfg=dict(decay_rate=1.0),  # from random weights: all layers learn at one rate
    optimizer=dict(type='AdamW', lr=1e-3, betas=(0.9, 0.999), weight_decay=0.05, fused=True),
)
default_hooks = dict(logger=dict(interval=20), checkpoint=dict(interval=max_iters // 4))
randomness = dict(seed=0)
