# The isotropic models (paper, section 3.3): the recipe of ImageNet-1K with 50 epochs of warm-up and no layer scale.
_base_ = 'pretrain_imagenet.py'

model = dict(backbone=dict(_delete_=True, type='ConvNeXtIsotropic'))

warmup = 50
param_scheduler = [
    {**_base_.param_scheduler[0], 'end': warmup},
    {**_base_.param_scheduler[1], 'begin': warmup, 'T_max': _base_.max_epochs - warmup},
]
