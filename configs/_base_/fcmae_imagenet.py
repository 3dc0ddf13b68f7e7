# Pre-training without labels: FCMAE, the masked autoencoder of ConvNeXt V2 (arXiv 2301.00808, section 3), on the images
# of ImageNet-1K: 1600 epochs (the paper's ablations: 800) of batch 4096, cosine to 0 after a linear warm-up, crops and
# flips alone. The images of the validation part are reconstructed, too, and the loss on them is logged.
_base_ = 'imagenet_loaders.py'

model = dict(
    type='MaskedAutoencoder',
    backbone=dict(type='ConvNeXt', arch='tiny', use_grn=True),
    mask_ratio=0.6,
    patch_size=32,
    data_preprocessor=dict(type='ImagePreprocessor'),
)

augmentation = dict(input_size=_base_.size, scale=(0.2, 1.0), color_jitter=None, interpolation='bicubic')
train_dataloader = dict(dataset=dict(type='UnlabelledImages', transform=augmentation))
val_dataloader = dict(dataset=dict(type='UnlabelledImages'))
test_dataloader = val_dataloader
val_evaluator = dict(type='ReconstructionMetric')
test_evaluator = val_evaluator

max_epochs, warmup = 1600, 40
train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=max_epochs, val_interval=20)
batch, base_lr = 4096, 1.5e-4
lr = base_lr * batch / 256  # 2.4e-3
optim_wrapper = dict(
    type='OptimWrapper',
    # As many batches a step as make 4096 images on the GPUs that there are.
    accumulative_counts='auto',
    constructor='LayerDecayOptimWrapperConstructor',
    paramwise_cfg=dict(decay_rate=1.0),  # no layer decay; no weight decay on biases and norms
    optimizer=dict(type='AdamW', lr=lr, betas=(0.9, 0.95), weight_decay=0.05),
)
auto_scale_lr = dict(enable=False, base_batch_size=batch)
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-6, by_epoch=True, begin=0, end=warmup, convert_to_iter_based=True),
    dict(
        type='CosineAnnealingLR',
        eta_min=0,
        by_epoch=True,
        begin=warmup,
        end=max_epochs,
        T_max=max_epochs - warmup,
        convert_to_iter_based=True,
    ),
]
# Each evaluation's own loss: mmengine would log the mean of the last 50 evaluations, as it does in training.
log_processor = dict(mean_pattern=r'^(?!.*reconstruction/).*(loss|time|grad_norm)')
default_hooks = dict(checkpoint=dict(save_best=None))  # a lower loss need not be a better encoder
custom_hooks = [
    dict(type='FiniteCheckHook'),
    dict(type='BrokenImagesHook'),
    dict(type='CurvesHook'),
    dict(type='ReconstructionsHook'),
]
