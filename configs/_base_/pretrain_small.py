# The recipe of ImageNet made small: ConvNeXt-atto, ten classes, small images and batches, few epochs.
_base_ = 'pretrain_imagenet.py'

size, num_classes = 96, 10
model = dict(
    # With the recipe's layer scale of 1e-6 the first hundreds of steps, here the first epochs, change hardly anything.
    backbone=dict(arch='atto', layer_scale_init_value=1.0),
    num_classes=num_classes,
    # A thousand images and a few epochs: what makes learning slow is off.
    data_preprocessor=dict(random_erasing=0.0, mixup_alpha=0.0, cutmix_alpha=0.0),
)
augmentation = dict(input_size=size, auto_augment=None, scale=(0.35, 1.0), color_jitter=0.0)
train_dataloader = dict(
    batch_size=16,
    num_workers=0,  # on 2 cores a worker would take from the model what it gives
    persistent_workers=False,
    dataset=dict(data_root='data/imagenette/', transform=augmentation),
)
val_dataloader = dict(
    batch_size=50,
    num_workers=0,
    persistent_workers=False,
    dataset=dict(data_root='data/imagenette/', transform=dict(input_size=size, crop_pct=1.0)),
)
test_dataloader = val_dataloader
default_hooks = dict(logger=dict(interval=20))
randomness = dict(seed=0)

max_epochs, warmup = 36, 1
lr = 5e-4
train_cfg = dict(max_epochs=max_epochs, val_interval=6)
# At this size a step of the optimizer costs as much as a tenth of the gradients: one kernel for all weights.
optim_wrapper = dict(optimizer=dict(lr=lr, fused=True))
auto_scale_lr = dict(base_batch_size=16)
param_scheduler = [
    {**_base_.param_scheduler[0], 'end': warmup},
    {**_base_.param_scheduler[1], 'begin': warmup, 'end': max_epochs, 'T_max': max_epochs - warmup},
]
custom_hooks = [*_base_.custom_hooks[:-1], dict(type='AveragedWeightsHook', decay=0.99)]
