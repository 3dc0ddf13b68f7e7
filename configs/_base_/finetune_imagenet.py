# Fine-tuning on ImageNet-1K (paper, table 6): 30 epochs of batch 512, cosine without warm-up, no mixup and no CutMix.
_base_ = 'imagenet_classifier.py'

model = dict(head_init_scale=0.001)

max_epochs = 30
train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=max_epochs, val_interval=1)
lr, end_lr = 5e-5, 1e-6
optim_wrapper = dict(
    type='OptimWrapper',
    accumulative_counts='auto',
    constructor='LayerDecayOptimWrapperConstructor',
    paramwise_cfg=dict(decay_rate=0.8, decay_type='layer_wise'),
    optimizer=dict(type='AdamW', lr=lr, betas=(0.9, 0.999), weight_decay=1e-8),
)
auto_scale_lr = dict(enable=False, base_batch_size=512)
param_scheduler = dict(
    type='CosineAnnealingLR',
    eta_min_ratio=end_lr / lr,
    by_epoch=True,
    begin=0,
    end=max_epochs,
    T_max=max_epochs,
    convert_to_iter_based=True,
)
train_dataloader = dict(batch_size=32)
