# From ResNet-200 to ConvNeXt-B, GELU in the place of ReLU, kernels of 7x7. Published: 82.19 top-1.
#
#   python tools/train.py configs/roadmap/r200/gelu.py --data-root data/imagenet
_base_ = '../../_base_/roadmap_imagenet.py'

model = dict(backbone=dict(regime='r200', step='gelu', drop_path_rate=0.5))
