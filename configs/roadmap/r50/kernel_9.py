# From ResNet-50 to ConvNeXt-T, kernels of 9x9. Published: 80.57 top-1.
#
#   python tools/train.py configs/roadmap/r50/kernel_9.py --data-root data/imagenet
_base_ = '../../_base_/roadmap_imagenet.py'

model = dict(backbone=dict(regime='r50', step='kernel_9', drop_path_rate=0.1))
