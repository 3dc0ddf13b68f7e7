# Isotropic ConvNeXt-B on ImageNet-1K from random weights. Published: 82.0 top-1.
#
#   python tools/train.py configs/pretrain_isotropic_b_imagenet.py --data-root data/imagenet
_base_ = '_base_/pretrain_isotropic_imagenet.py'

model = dict(backbone=dict(arch='base', drop_path_rate=0.2))
