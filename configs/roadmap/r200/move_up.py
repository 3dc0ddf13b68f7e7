# From ResNet-200 to ConvNeXt-B, the depthwise convolution first. Published: 82.04 top-1.
#
#   python tools/train.py configs/roadmap/r200/move_up.py --data-root data/imagenet
_base_ = '../../_base_/roadmap_imagenet.py'

model = dict(backbone=dict(regime='r200', step='move_up', drop_path_rate=0.5))
