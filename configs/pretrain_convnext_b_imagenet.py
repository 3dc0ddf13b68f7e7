# ConvNeXt-B on ImageNet-1K from random weights. Published: 83.8 top-1.
#
#   python tools/train.py configs/pretrain_convnext_b_imagenet.py --data-root data/imagenet
_base_ = '_base_/pretrain_imagenet.py'

model = dict(backbone=dict(arch='base', drop_path_rate=0.5))
