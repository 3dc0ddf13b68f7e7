# A classifier of ImageNet-1K's images, their augmentation and their evaluation (paper, tables 5 and 6).
_base_ = 'imagenet_runtime.py'

num_classes = 1000
size = 224
model = dict(
    type='ImageClassifier',
    backbone=dict(type='ConvNeXt', arch='tiny'),
    num_classes=num_classes,
    label_smoothing=0.1,
    data_preprocessor=dict(random_erasing=0.25),
)

data_root = 'data/imagenet/'
augmentation = dict(input_size=size, auto_augment='rand-m9-mstd0.5-inc1', interpolation='bicubic')
train_dataloader = dict(
    batch_size=128,
    num_workers=10,
    persistent_workers=True,
    pin_memory=True,
    drop_last=True,
    collate_fn=dict(type='default_collate'),
    sampler=dict(type='DefaultSampler', shuffle=True),
    dataset=dict(
        type='TimmDataset', data_root=data_root, data_prefix='train', is_training=True, transform=augmentation
    ),
)
val_dataloader = dict(
    batch_size=128,
    num_workers=10,
    persistent_workers=True,
    pin_memory=True,
    collate_fn=dict(type='default_collate'),
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type='TimmDataset',
        data_root=data_root,
        data_prefix='val',
        transform=dict(input_size=size, crop_pct=0.875, interpolation='bicubic'),
    ),
)
test_dataloader = val_dataloader
val_evaluator = dict(type='AccuracyMetric')
test_evaluator = val_evaluator

val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
