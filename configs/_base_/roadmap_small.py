# The steps from ResNet to ConvNeXt made small: a quarter of the width, 64 pixels, 1,000 images, few epochs.
_base_ = 'pretrain_small.py'

size = 64
model = dict(
    backbone=dict(_delete_=True, type='ModernizedResNet', regime='r50', width_factor=0.25, layer_scale_init_value=1.0)
)
train_dataloader = dict(batch_size=32, dataset=dict(transform=dict(input_size=size)))
val_dataloader = dict(dataset=dict(transform=dict(input_size=size)))
test_dataloader = val_dataloader

max_epochs = 12
lr = 1e-3
train_cfg = dict(max_epochs=max_epochs, val_interval=max_epochs)
optim_wrapper = dict(optimizer=dict(lr=lr))
auto_scale_lr = dict(base_batch_size=32)
param_scheduler = [
    _base_.param_scheduler[0],
    {**_base_.param_scheduler[1], 'end': max_epochs, 'T_max': max_epochs - _base_.warmup},
]
custom_hooks = _base_.custom_hooks[:-1]
