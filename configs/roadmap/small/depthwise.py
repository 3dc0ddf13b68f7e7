# From ResNet-50 to ConvNeXt-T, made small, depthwise convolutions.
#
#   python tools/train.py configs/roadmap/small/depthwise.py --data-root data/imagenette
_base_ = '../../_base_/roadmap_small.py'

model = dict(backbone=dict(step='depthwise'))
