# Isotropic ConvNeXt-S on ImageNet-1K from random weights. Published: 78.7 top-1.
#
#   python tools/train.py configs/pretrain_isotropic_s_imagenet.py --data-root data/imagenet
_base_ = '_base_/pretrain_isotropic_imagenet.py'

model = dict(backbone=dict(arch='small', drop_path_rate=0.1))
