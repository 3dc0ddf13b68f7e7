# From ResNet-50 to ConvNeXt-T, made small, kernels of 5x5.
#
#   python tools/train.py configs/roadmap/small/kernel_5.py --data-root data/imagenette
_base_ = '../../_base_/roadmap_small.py'

model = dict(backbone=dict(step='kernel_5'))
