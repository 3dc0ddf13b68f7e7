# From ResNet-50 to ConvNeXt-T, LayerNorm in the place of batch norm. Published: 81.47 top-1.
#
#   python tools/train.py configs/roadmap/r50/layer_norm.py --data-root data/imagenet
_base_ = '../../_base_/roadmap_imagenet.py'

model = dict(backbone=dict(regime='r50', step='layer_norm', drop_path_rate=0.1))
