# From ResNet-50 to ConvNeXt-T, kernels of 11x11. Published: 80.47 top-1.
#
#   python tools/train.py configs/roadmap/r50/kernel_11.py --data-root data/imagenet
_base_ = '../../_base_/roadmap_imagenet.py'

model = dict(backbone=dict(regime='r50', step='kernel_11', drop_path_rate=0.1))
