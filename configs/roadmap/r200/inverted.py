# From ResNet-200 to ConvNeXt-B, inverted bottlenecks. Published: 82.64 top-1.
#
#   python tools/train.py configs/roadmap/r200/inverted.py --data-root data/imagenet
_base_ = '../../_base_/roadmap_imagenet.py'

model = dict(backbone=dict(regime='r200', step='inverted', drop_path_rate=0.5))
