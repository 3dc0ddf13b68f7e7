# ConvNeXt-XL on ImageNet-22K from random weights, to be fine-tuned on ImageNet-1K or transferred.
#
#   python tools/train.py configs/pretrain_convnext_xl_imagenet22k.py --data-root data/imagenet22k
_base_ = '_base_/pretrain_imagenet22k.py'

model = dict(backbone=dict(arch='xlarge', drop_path_rate=0.2))
