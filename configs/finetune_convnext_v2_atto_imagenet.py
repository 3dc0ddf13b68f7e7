# ConvNeXt V2-atto from FCMAE without labels to ImageNet-1K. Published: 76.7 top-1.
#
#   python tools/train.py configs/finetune_convnext_v2_atto_imagenet.py --data-root data/imagenet
_base_ = '_base_/finetune_fcmae_imagenet.py'

model = dict(
    backbone=dict(arch='atto'),
    label_smoothing=0.2,
    data_preprocessor=dict(mixup_alpha=0.0, cutmix_alpha=0.0),
    init_cfg=dict(
        type='Pretrained',
        checkpoint='https://dl.fbaipublicfiles.com/convnext/convnextv2/pt_only/convnextv2_atto_1k_224_fcmae.pt',
    ),
)

max_epochs = 600
train_cfg = dict(max_epochs=max_epochs)
base_lr = 2e-4
lr = base_lr * _base_.batch / 256  # 8e-4
optim_wrapper = dict(paramwise_cfg=dict(decay_rate=0.9, decay_type='single'), optimizer=dict(lr=lr, weight_decay=0.3))
param_scheduler = [  # no warm-up
    {
        **_base_.param_scheduler[1],
        'eta_min_ratio': _base_.end_lr / lr,
        'begin': 0,
        'end': max_epochs,
        'T_max': max_epochs,
    },
]
