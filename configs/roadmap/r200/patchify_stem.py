# From ResNet-200 to ConvNeXt-B, a patchify stem. Published: 81.59 top-1.
#
#   python tools/train.py configs/roadmap/r200/patchify_stem.py --data-root data/imagenet
_base_ = '../../_base_/roadmap_imagenet.py'

model = dict(backbone=dict(regime='r200', step='patchify_stem', drop_path_rate=0.5))
