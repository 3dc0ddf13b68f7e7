# Pre-training on ImageNet-22K from random weights (paper, table 5): 90 epochs, no average of the weights. The 14 million
# images are read in order from webdataset shards; the scores are those on a held-out part of the same classes.
_base_ = 'pretrain_imagenet.py'

num_classes = 21841
model = dict(num_classes=num_classes)

data_root = 'data/imagenet22k/'
train_dataloader = dict(
    batch_size=32,
    sampler=None,
    dataset=dict(
        _delete_=True,
        type='TimmShards',
        data_root=data_root,
        shards='imagenet22k-train-{0000..4095}.tar',
        is_training=True,
        transform=_base_.augmentation,
    ),
)
val_dataloader = dict(
    sampler=None,
    dataset=dict(
        _delete_=True,
        type='TimmShards',
        data_root=data_root,
        shards='imagenet22k-validation-{0000..0511}.tar',
        transform=_base_.val_dataloader.dataset.transform,
    ),
)
test_dataloader = val_dataloader

max_epochs, warmup = 90, 5
train_cfg = dict(max_epochs=max_epochs)
param_scheduler = [
    {**_base_.param_scheduler[0], 'end': warmup},
    {**_base_.param_scheduler[1], 'begin': warmup, 'end': max_epochs, 'T_max': max_epochs - warmup},
]
custom_hooks = _base_.custom_hooks[:-1]  # all but the average
