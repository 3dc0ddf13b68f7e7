# From ResNet-50 to ConvNeXt-T, made small, inverted bottlenecks.
#
#   python tools/train.py configs/roadmap/small/inverted.py --data-root data/imagenette
_base_ = '../../_base_/roadmap_small.py'

model = dict(backbone=dict(step='inverted'))
