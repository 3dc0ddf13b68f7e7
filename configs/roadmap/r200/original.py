# ResNet-200, where the roadmap to ConvNeXt-B starts, on ImageNet-1K. Published: 81.14 top-1.
#
#   python tools/train.py configs/roadmap/r200/original.py --data-root data/imagenet
_base_ = '../../_base_/roadmap_imagenet.py'

model = dict(backbone=dict(regime='r200', step='original', drop_path_rate=0.5))
