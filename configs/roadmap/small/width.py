# From ResNet-50 to ConvNeXt-T, made small, Swin's width.
#
#   python tools/train.py configs/roadmap/small/width.py --data-root data/imagenette
_base_ = '../../_base_/roadmap_small.py'

model = dict(backbone=dict(step='width'))
