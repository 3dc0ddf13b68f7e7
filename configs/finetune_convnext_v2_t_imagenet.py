# ConvNeXt V2-T from FCMAE without labels to ImageNet-1K. Published: 83.0 top-1.
#
#   python tools/train.py configs/finetune_convnext_v2_t_imagenet.py --data-root data/imagenet
_base_ = '_base_/finetune_fcmae_imagenet.py'

model = dict(
    backbone=dict(arch='tiny', drop_path_rate=0.2),
    init_cfg=dict(
        type='Pretrained',
        checkpoint='https://dl.fbaipublicfiles.com/convnext/convnextv2/pt_only/convnextv2_tiny_1k_224_fcmae.pt',
    ),
)

max_epochs, warmup = 300, 40
train_cfg = dict(max_epochs=max_epochs)
base_lr = 8e-4
lr = base_lr * _base_.batch / 256  # 3.2e-3
optim_wrapper = dict(paramwise_cfg=dict(decay_rate=0.9, decay_type='single'), optimizer=dict(lr=lr))
param_scheduler = [
    {**_base_.param_scheduler[0], 'end': warmup},
    {
        **_base_.param_scheduler[1],
        'eta_min_ratio': _base_.end_lr / lr,
        'begin': warmup,
        'end': max_epochs,
        'T_max': max_epochs - warmup,
    },
]
