# From ResNet-50 to ConvNeXt-T, made small, a patchify stem.
#
#   python tools/train.py configs/roadmap/small/patchify_stem.py --data-root data/imagenette
_base_ = '../../_base_/roadmap_small.py'

model = dict(backbone=dict(step='patchify_stem'))
