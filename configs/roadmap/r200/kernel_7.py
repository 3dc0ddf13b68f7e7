# From ResNet-200 to ConvNeXt-B, kernels of 7x7. Published: 82.30 top-1.
#
#   python tools/train.py configs/roadmap/r200/kernel_7.py --data-root data/imagenet
_base_ = '../../_base_/roadmap_imagenet.py'

model = dict(backbone=dict(regime='r200', step='kernel_7', drop_path_rate=0.5))
