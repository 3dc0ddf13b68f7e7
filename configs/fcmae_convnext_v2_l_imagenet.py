# ConvNeXt V2-L on ImageNet-1K without labels: FCMAE from random weights.
#
#   python tools/train.py configs/fcmae_convnext_v2_l_imagenet.py --data-root data/imagenet
#   python tools/train.py configs/fcmae_convnext_v2_l_imagenet.py --data-root my_photos --epochs 200
_base_ = '_base_/fcmae_imagenet.py'

model = dict(backbone=dict(arch='large'))
