# Fine-tuning on ImageNet-1K after FCMAE (arXiv 2301.00808, appendix, and its code): batch 1024, cosine to 1e-6, averaged
# weights. What the sizes differ in is here as for B.
_base_ = 'imagenet_classifier.py'

model = dict(
    backbone=dict(use_grn=True, drop_path_rate=0.1),
    head_init_scale=0.001,
    data_preprocessor=dict(mixup_alpha=0.8, cutmix_alpha=1.0),
)

max_epochs, warmup = 100, 20
train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=max_epochs, val_interval=1)
batch, base_lr, end_lr = 1024, 6.25e-4, 1e-6
lr = base_lr * batch / 256  # 2.5e-3
optim_wrapper = dict(
    type='OptimWrapper',
    accumulative_counts='auto',
    constructor='LayerDecayOptimWrapperConstructor',
    paramwise_cfg=dict(decay_rate=0.6, decay_type='group'),
    optimizer=dict(type='AdamW', lr=lr, betas=(0.9, 0.999), weight_decay=0.05),
)
auto_scale_lr = dict(enable=False, base_batch_size=batch)
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
train_dataloader = dict(batch_size=32)
custom_hooks = [*_base_.custom_hooks, dict(type='AveragedWeightsHook', decay=0.9999)]
