# From ResNet-200 to ConvNeXt-B, one activation a block. Published: 82.71 top-1.
#
#   python tools/train.py configs/roadmap/r200/fewer_activations.py --data-root data/imagenet
_base_ = '../../_base_/roadmap_imagenet.py'

model = dict(backbone=dict(regime='r200', step='fewer_activations', drop_path_rate=0.5))
