# From ResNet-200 to ConvNeXt-B, kernels of 11x11. Published: 82.18 top-1.
#
#   python tools/train.py configs/roadmap/r200/kernel_11.py --data-root data/imagenet
_base_ = '../../_base_/roadmap_imagenet.py'

model = dict(backbone=dict(regime='r200', step='kernel_11', drop_path_rate=0.5))
