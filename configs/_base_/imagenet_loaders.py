# Loaders of ImageNet-1K's images; a recipe says by which data set they are read, and how training images are augmented.
_base_ = 'imagenet_runtime.py'

size = 224
data_root = 'data/imagenet/'
train_dataloader = dict(
    batch_size=128,
    num_workers=10,
    persistent_workers=True,
    pin_memory=True,
    drop_last=True,
    collate_fn=dict(type='default_collate'),
    sampler=dict(type='DefaultSampler', shuffle=True),
    dataset=dict(data_root=data_root, data_prefix='train', is_training=True),
)
val_dataloader = dict(
    batch_size=128,
    num_workers=10,
    persistent_workers=True,
    pin_memory=True,
    collate_fn=dict(type='default_collate'),
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        data_root=data_root,
        data_prefix='val',
        transform=dict(input_size=size, crop_pct=0.875, interpolation='bicubic'),
    ),
)
test_dataloader = val_dataloader
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
