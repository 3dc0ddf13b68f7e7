# From ResNet-200 to ConvNeXt-B, Swin's width. Published: 81.85 top-1.
#
#   python tools/train.py configs/roadmap/r200/width.py --data-root data/imagenet
_base_ = '../../_base_/roadmap_imagenet.py'

model = dict(backbone=dict(regime='r200', step='width', drop_path_rate=0.5))
