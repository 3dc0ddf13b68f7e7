# Linear probe of ConvNeXt-T from ImageNet-22K, only norm and head are trained. Ours, no published score.
#
#   python tools/train.py configs/probe_convnext_t_imagenet.py --data-root data/imagenet
_base_ = 'finetune_convnext_t_22k_224_imagenet.py'

model = dict(backbone=dict(frozen_stages=4), head_init_scale=1.0)
optim_wrapper = dict(paramwise_cfg=dict(decay_rate=1.0), optimizer=dict(lr=1e-3))
param_scheduler = dict(eta_min_ratio=1e-3)
