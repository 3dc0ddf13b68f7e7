# From ResNet-50 to ConvNeXt-T, made small, Swin's ratio of blocks in the stages.
#
#   python tools/train.py configs/roadmap/small/stage_ratio.py --data-root data/imagenette
_base_ = '../../_base_/roadmap_small.py'

model = dict(backbone=dict(step='stage_ratio'))
