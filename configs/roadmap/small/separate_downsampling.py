# From ResNet-50 to ConvNeXt-T, made small, separate downsampling layers.
#
#   python tools/train.py configs/roadmap/small/separate_downsampling.py --data-root data/imagenette
_base_ = '../../_base_/roadmap_small.py'

model = dict(backbone=dict(step='separate_downsampling'))
