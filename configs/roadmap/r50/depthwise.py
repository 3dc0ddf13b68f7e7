# From ResNet-50 to ConvNeXt-T, depthwise convolutions. Published: 78.28 top-1.
#
#   python tools/train.py configs/roadmap/r50/depthwise.py --data-root data/imagenet
_base_ = '../../_base_/roadmap_imagenet.py'

model = dict(backbone=dict(regime='r50', step='depthwise', drop_path_rate=0.1))
