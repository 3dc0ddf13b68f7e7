# From ResNet-50 to ConvNeXt-T, one norm a block. Published: 81.41 top-1.
#
#   python tools/train.py configs/roadmap/r50/fewer_norms.py --data-root data/imagenet
_base_ = '../../_base_/roadmap_imagenet.py'

model = dict(backbone=dict(regime='r50', step='fewer_norms', drop_path_rate=0.1))
