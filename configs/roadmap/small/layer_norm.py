# From ResNet-50 to ConvNeXt-T, made small, LayerNorm in the place of batch norm.
#
#   python tools/train.py configs/roadmap/small/layer_norm.py --data-root data/imagenette
_base_ = '../../_base_/roadmap_small.py'

model = dict(backbone=dict(step='layer_norm'))
