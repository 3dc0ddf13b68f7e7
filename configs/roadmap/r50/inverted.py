# From ResNet-50 to ConvNeXt-T, inverted bottlenecks. Published: 80.64 top-1.
#
#   python tools/train.py configs/roadmap/r50/inverted.py --data-root data/imagenet
_base_ = '../../_base_/roadmap_imagenet.py'

model = dict(backbone=dict(regime='r50', step='inverted', drop_path_rate=0.1))
