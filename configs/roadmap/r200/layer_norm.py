# From ResNet-200 to ConvNeXt-B, LayerNorm in the place of batch norm. Published: 83.35 top-1.
#
#   python tools/train.py configs/roadmap/r200/layer_norm.py --data-root data/imagenet
_base_ = '../../_base_/roadmap_imagenet.py'

model = dict(backbone=dict(regime='r200', step='layer_norm', drop_path_rate=0.5))
