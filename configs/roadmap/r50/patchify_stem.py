# From ResNet-50 to ConvNeXt-T, a patchify stem. Published: 79.51 top-1.
#
#   python tools/train.py configs/roadmap/r50/patchify_stem.py --data-root data/imagenet
_base_ = '../../_base_/roadmap_imagenet.py'

model = dict(backbone=dict(regime='r50', step='patchify_stem', drop_path_rate=0.1))
