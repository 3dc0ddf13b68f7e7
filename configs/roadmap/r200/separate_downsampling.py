# From ResNet-200 to ConvNeXt-B, separate downsampling layers, ConvNeXt-B itself. Published: 83.60 top-1.
#
#   python tools/train.py configs/roadmap/r200/separate_downsampling.py --data-root data/imagenet
_base_ = '../../_base_/roadmap_imagenet.py'

model = dict(backbone=dict(regime='r200', step='separate_downsampling', drop_path_rate=0.5))
