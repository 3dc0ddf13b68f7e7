# From ResNet-50 to ConvNeXt-T, Swin's width. Published: 80.50 top-1.
#
#   python tools/train.py configs/roadmap/r50/width.py --data-root data/imagenet
_base_ = '../../_base_/roadmap_imagenet.py'

model = dict(backbone=dict(regime='r50', step='width', drop_path_rate=0.1))
