# From ResNet-50 to ConvNeXt-T, made small, GELU in the place of ReLU, kernels of 7x7.
#
#   python tools/train.py configs/roadmap/small/gelu.py --data-root data/imagenette
_base_ = '../../_base_/roadmap_small.py'

model = dict(backbone=dict(step='gelu'))
