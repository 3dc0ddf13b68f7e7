# Isotropic ConvNeXt-L on ImageNet-1K from random weights. Published: 82.6 top-1.
#
#   python tools/train.py configs/pretrain_isotropic_l_imagenet.py --data-root data/imagenet
_base_ = '_base_/pretrain_isotropic_imagenet.py'

model = dict(backbone=dict(arch='large', drop_path_rate=0.5, layer_scale_init_value=1e-6))
