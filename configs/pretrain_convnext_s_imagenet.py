# ConvNeXt-S on ImageNet-1K from random weights. Published: 83.1 top-1.
#
#   python tools/train.py configs/pretrain_convnext_s_imagenet.py --data-root data/imagenet
_base_ = '_base_/pretrain_imagenet.py'

model = dict(backbone=dict(arch='small', drop_path_rate=0.4))
