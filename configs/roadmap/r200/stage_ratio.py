# From ResNet-200 to ConvNeXt-B, Swin's ratio of blocks in the stages. Published: 81.33 top-1.
#
#   python tools/train.py configs/roadmap/r200/stage_ratio.py --data-root data/imagenet
_base_ = '../../_base_/roadmap_imagenet.py'

model = dict(backbone=dict(regime='r200', step='stage_ratio', drop_path_rate=0.5))
