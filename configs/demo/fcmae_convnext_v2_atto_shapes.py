# Pre-trains ConvNeXt V2-atto without labels, by FCMAE, on the drawn shapes of tools/make_shapes.py, in minutes on 2 CPU
# cores: a check that training works, before days of GPU time go into it.
#
#   python tools/make_shapes.py data/shapes --train 400
#   python tools/train.py configs/demo/fcmae_convnext_v2_atto_shapes.py
_base_ = '../_base_/fcmae_imagenet.py'

size = 128
model = dict(backbone=dict(arch='atto'))
data_root = 'data/shapes/'
loader = dict(batch_size=16, num_workers=0, persistent_workers=False)  # a worker would take a core from the model
train_dataloader = dict(
    **loader, dataset=dict(data_root=data_root, data_prefix='train2017', transform=dict(input_size=size))
)
val_dataloader = dict(
    **loader, dataset=dict(data_root=data_root, data_prefix='val2017', transform=dict(input_size=size))
)
test_dataloader = val_dataloader
default_hooks = dict(logger=dict(interval=20))
randomness = dict(seed=0)

max_epochs, warmup = 30, 2
lr = 1e-3
train_cfg = dict(max_epochs=max_epochs, val_interval=5)
optim_wrapper = dict(optimizer=dict(lr=lr, fused=True))
auto_scale_lr = dict(base_batch_size=loader['batch_size'])
param_scheduler = [
    {**_base_.param_scheduler[0], 'end': warmup},
    {**_base_.param_scheduler[1], 'begin': warmup, 'end': max_epochs, 'T_max': max_epochs - warmup},
]
