# Pre-training on ImageNet-1K from random weights (paper, table 5): AdamW, batch 4096, cosine after a linear warm-up.
_base_ = 'imagenet_classifier.py'

model = dict(data_preprocessor=dict(mixup_alpha=0.8, cutmix_alpha=1.0))

max_epochs, warmup = 300, 20
train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=max_epochs, val_interval=1)
lr, end_lr = 4e-3, 1e-6
optim_wrapper = dict(
    type='OptimWrapper',
    # As many batches a step as make 4096 images on the GPUs that there are.
    accumulative_counts='auto',
    constructor='LayerDecayOptimWrapperConstructor',
    paramwise_cfg=dict(decay_rate=1.0),  # no layer decay; no weight decay on biases and norms
    optimizer=dict(type='AdamW', lr=lr, betas=(0.9, 0.999), weight_decay=0.05),
)
auto_scale_lr = dict(enable=False, base_batch_size=4096)
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-6, by_epoch=True, begin=0, end=warmup, convert_to_iter_based=True),
    dict(
        type='CosineAnnealingLR',
        eta_min_ratio=end_lr / lr,
        by_epoch=True,
        begin=warmup,
        end=max_epochs,
        T_max=max_epochs - warmup,
        convert_to_iter_based=True,
    ),
]
custom_hooks = [*_base_.custom_hooks, dict(type='AveragedWeightsHook', decay=0.9999)]
