# Pre-trains ConvNeXt-atto on the drawn shapes of tools/make_shapes.py: the first part of `make demo`.
#
#   python tools/make_shapes.py data/shapes --train 400 && python tools/train.py configs/demo/pretrain_convnext_atto_shapes.py
_base_ = '../_base_/pretrain_small.py'

size, num_classes = 64, 5
model = dict(num_classes=num_classes, label_smoothing=0.0)
data_root = 'data/shapes/imagenet/'
# Without a corner a star is no star any more: hardly anything is cropped.
train_dataloader = dict(dataset=dict(data_root=data_root, transform=dict(input_size=size, scale=(0.9, 1.0))))
val_dataloader = dict(dataset=dict(data_root=data_root, transform=dict(input_size=size)))
test_dataloader = val_dataloader

max_epochs, warmup = 6, 1
train_cfg = dict(max_epochs=max_epochs, val_interval=2)
param_scheduler = [
    {**_base_.param_scheduler[0], 'end': warmup},
    {**_base_.param_scheduler[1], 'begin': warmup, 'end': max_epochs, 'T_max': max_epochs - warmup},
]
