# Overfits ConvNeXt-atto from random weights to 8 images of COCO and evaluates on the same 8: a check in minutes
# on 2 CPU cores that training works, before days of GPU time go into it.
#
#   python tools/train.py configs/demo/cascade_convnext_atto_coco8.py --data-root data/coco
_base_ = ['../_base_/cascade_small.py']

scale = (320, 320)
load = [dict(type='LoadImageFromFile'), dict(type='LoadAnnotations', with_bbox=True, with_mask=True)]
resize = dict(type='Resize', scale=scale, keep_ratio=True)
train_pipeline = [*load, resize, dict(type='PackDetInputs')]
test_pipeline = [
    load[0],
    resize,
    load[1],  # after the resize: predictions are those at the size of the image
    # With the instances among the meta data the images are scored without an annotation file of their own.
    dict(type='PackDetInputs', meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor', 'instances')),
]
photographs = dict(
    type='CocoDataset',
    data_root='data/coco/',
    ann_file='annotations/instances_train2017.json',
    data_prefix=dict(img='train2017/'),
    filter_cfg=dict(filter_empty_gt=True, min_size=32),
    indices=8,
)
train_dataloader = dict(
    batch_size=4,
    num_workers=0,
    sampler=dict(type='DefaultSampler', shuffle=True),
    dataset=dict(type='RepeatDataset', times=10, dataset=dict(pipeline=train_pipeline, **photographs)),
)
val_dataloader = dict(
    batch_size=1,
    num_workers=0,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(pipeline=test_pipeline, test_mode=True, **photographs),
)
test_dataloader = val_dataloader
# No ann_file: only the images that were seen are scored.
val_evaluator = dict(type='CocoMetric', metric=['bbox', 'segm'])
test_evaluator = val_evaluator

max_epochs = 35
train_cfg = dict(max_epochs=max_epochs, val_interval=5)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=50),
    dict(type='CosineAnnealingLR', begin=0, T_max=max_epochs, by_epoch=True, convert_to_iter_based=True, eta_min=1e-5),
]
