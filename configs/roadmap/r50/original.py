# ResNet-50, where the roadmap to ConvNeXt-T starts, on ImageNet-1K. Published: 78.82 top-1.
#
#   python tools/train.py configs/roadmap/r50/original.py --data-root data/imagenet
_base_ = '../../_base_/roadmap_imagenet.py'

model = dict(backbone=dict(regime='r50', step='original', drop_path_rate=0.1))
