# From ResNet-200 to ConvNeXt-B, depthwise convolutions. Published: 80.54 top-1.
#
#   python tools/train.py configs/roadmap/r200/depthwise.py --data-root data/imagenet
_base_ = '../../_base_/roadmap_imagenet.py'

model = dict(backbone=dict(regime='r200', step='depthwise', drop_path_rate=0.5))
