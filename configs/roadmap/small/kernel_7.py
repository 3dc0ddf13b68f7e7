# From ResNet-50 to ConvNeXt-T, made small, kernels of 7x7.
#
#   python tools/train.py configs/roadmap/small/kernel_7.py --data-root data/imagenette
_base_ = '../../_base_/roadmap_small.py'

model = dict(backbone=dict(step='kernel_7'))
