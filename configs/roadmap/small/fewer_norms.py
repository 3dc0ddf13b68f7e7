# From ResNet-50 to ConvNeXt-T, made small, one norm a block.
#
#   python tools/train.py configs/roadmap/small/fewer_norms.py --data-root data/imagenette
_base_ = '../../_base_/roadmap_small.py'

model = dict(backbone=dict(step='fewer_norms'))
