# From ResNet-50 to ConvNeXt-T, the depthwise convolution first. Published: 79.92 top-1.
#
#   python tools/train.py configs/roadmap/r50/move_up.py --data-root data/imagenet
_base_ = '../../_base_/roadmap_imagenet.py'

model = dict(backbone=dict(regime='r50', step='move_up', drop_path_rate=0.1))
