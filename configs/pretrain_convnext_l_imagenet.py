# ConvNeXt-L on ImageNet-1K from random weights. Published: 84.3 top-1.
#
#   python tools/train.py configs/pretrain_convnext_l_imagenet.py --data-root data/imagenet
_base_ = '_base_/pretrain_imagenet.py'

model = dict(backbone=dict(arch='large', drop_path_rate=0.5))
train_dataloader = dict(batch_size=64)
