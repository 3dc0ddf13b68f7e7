# UperNet on ADE20K with crops of 640 pixels, for backbones from ImageNet-22K.
_base_ = ['upernet_convnext.py', 'ade20k.py', 'schedule_160k.py', 'segmentation_runtime.py']

crop_size = (640, 640)
scale = (4 * crop_size[1], crop_size[0])
model = dict(
    data_preprocessor=dict(size=crop_size),
    test_cfg=dict(crop_size=crop_size, stride=tuple(side * 2 // 3 for side in crop_size)),
)

train_pipeline = [
    *_base_.train_pipeline[:2],
    {**_base_.train_pipeline[2], 'scale': scale},
    {**_base_.train_pipeline[3], 'crop_size': crop_size},
    *_base_.train_pipeline[4:],
]
test_pipeline = [_base_.test_pipeline[0], {**_base_.test_pipeline[1], 'scale': scale}, *_base_.test_pipeline[2:]]
tta_resize = [
    dict(type='Resize', scale=tuple(int(r * side) for side in scale), keep_ratio=True) for r in _base_.tta_ratios
]
tta_pipeline = [
    _base_.tta_pipeline[0],
    dict(type='TestTimeAug', transforms=[tta_resize, *_base_.tta_pipeline[1].transforms[1:]]),
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
