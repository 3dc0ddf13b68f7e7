# From ResNet-200 to ConvNeXt-B, one norm a block. Published: 83.17 top-1.
#
#   python tools/train.py configs/roadmap/r200/fewer_norms.py --data-root data/imagenet
_base_ = '../../_base_/roadmap_imagenet.py'

model = dict(backbone=dict(regime='r200', step='fewer_norms', drop_path_rate=0.5))
