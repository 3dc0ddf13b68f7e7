# From ResNet-50 to ConvNeXt-T, one activation a block. Published: 81.27 top-1.
#
#   python tools/train.py configs/roadmap/r50/fewer_activations.py --data-root data/imagenet
_base_ = '../../_base_/roadmap_imagenet.py'

model = dict(backbone=dict(regime='r50', step='fewer_activations', drop_path_rate=0.1))
