# From ResNet-50 to ConvNeXt-T, made small, the depthwise convolution first.
#
#   python tools/train.py configs/roadmap/small/move_up.py --data-root data/imagenette
_base_ = '../../_base_/roadmap_small.py'

model = dict(backbone=dict(step='move_up'))
