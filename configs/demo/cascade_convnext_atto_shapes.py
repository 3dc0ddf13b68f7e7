# Cascade Mask R-CNN with ConvNeXt-atto from random weights on the drawn shapes of tools/make_shapes.py: what
# `make demo` trains, in some minutes on 2 CPU cores.
#
#   python tools/make_shapes.py data/shapes --train 400 && python tools/train.py configs/demo/cascade_convnext_atto_shapes.py
_base_ = ['../_base_/cascade_small.py']

classes = ('circle', 'square', 'triangle', 'star', 'cross')
model = dict(
    # Maps this small have no memory to save: layer by layer a step is 4 percent faster.
    backbone=dict(fused=False),
    roi_head=dict(
        # Shapes are about 50 pixels wide: one sample for each of 7 x 7 bins of a map of stride 4 is enough.
        bbox_roi_extractor=dict(roi_layer=dict(sampling_ratio=1)),
        mask_roi_extractor=dict(roi_layer=dict(sampling_ratio=1)),
        bbox_head=[{**head, 'num_classes': len(classes)} for head in _base_.model.roi_head.bbox_head],
        mask_head=dict(num_classes=len(classes)),
    ),
    # At most six shapes in an image: half of the regions are enough to learn from if half of them are shapes.
    train_cfg=dict(
        rcnn=[
            {**stage, 'sampler': {**stage.sampler, 'num': 32, 'pos_fraction': 0.5}}
            for stage in _base_.model.train_cfg.rcnn
        ],
    ),
)

load = [dict(type='LoadImageFromFile'), dict(type='LoadAnnotations', with_bbox=True, with_mask=True)]
resize = dict(type='Resize', scale=(256, 192), keep_ratio=True)
train_pipeline = [
    *load,
    resize,
    dict(type='RandomFlip', prob=[0.3, 0.3], direction=['horizontal', 'vertical']),
    dict(type='PackDetInputs'),
]
test_pipeline = [
    load[0],
    resize,
    load[1],  # after the resize: predictions are those at the size of the image
    dict(type='PackDetInputs', meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor')),
]
data_root = 'data/shapes/'
drawings = dict(type='CocoDataset', data_root=data_root, metainfo=dict(classes=classes))
# Two images in a batch: on 2 cores 800 such steps cost as much as 450 with four, and reach a far better AP.
train_dataloader = dict(
    batch_size=2,
    num_workers=0,
    sampler=dict(type='DefaultSampler', shuffle=True),
    dataset=dict(
        ann_file='annotations/instances_train2017.json',
        data_prefix=dict(img='train2017/'),
        pipeline=train_pipeline,
        **drawings,
    ),
)
val_dataloader = dict(
    batch_size=1,
    num_workers=0,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        ann_file='annotations/instances_val2017.json',
        data_prefix=dict(img='val2017/'),
        test_mode=True,
        pipeline=test_pipeline,
        **drawings,
    ),
)
test_dataloader = val_dataloader
val_evaluator = dict(
    type='CocoMetric', ann_file=data_root + 'annotations/instances_val2017.json', metric=['bbox', 'segm']
)
test_evaluator = val_evaluator

max_epochs = 4
train_cfg = dict(max_epochs=max_epochs, val_interval=2)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=50),
    dict(type='CosineAnnealingLR', begin=0, T_max=max_epochs, by_epoch=True, convert_to_iter_based=True, eta_min=1e-5),
]
