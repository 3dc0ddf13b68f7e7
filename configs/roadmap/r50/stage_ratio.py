# From ResNet-50 to ConvNeXt-T, Swin's ratio of blocks in the stages. Published: 79.36 top-1.
#
#   python tools/train.py configs/roadmap/r50/stage_ratio.py --data-root data/imagenet
_base_ = '../../_base_/roadmap_imagenet.py'

model = dict(backbone=dict(regime='r50', step='stage_ratio', drop_path_rate=0.1))
