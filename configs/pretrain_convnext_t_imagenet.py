# ConvNeXt-T on ImageNet-1K from random weights. Published: 82.1 top-1.
#
#   python tools/train.py configs/pretrain_convnext_t_imagenet.py --data-root data/imagenet
_base_ = '_base_/pretrain_imagenet.py'

model = dict(backbone=dict(arch='tiny', drop_path_rate=0.1))
