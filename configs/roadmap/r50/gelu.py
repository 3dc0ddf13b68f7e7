# From ResNet-50 to ConvNeXt-T, GELU in the place of ReLU, kernels of 7x7. Published: 80.62 top-1.
#
#   python tools/train.py configs/roadmap/r50/gelu.py --data-root data/imagenet
_base_ = '../../_base_/roadmap_imagenet.py'

model = dict(backbone=dict(regime='r50', step='gelu', drop_path_rate=0.1))
