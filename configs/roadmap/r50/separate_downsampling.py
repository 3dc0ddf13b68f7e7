# From ResNet-50 to ConvNeXt-T, separate downsampling layers, ConvNeXt-T itself. Published: 81.97 top-1.
#
#   python tools/train.py configs/roadmap/r50/separate_downsampling.py --data-root data/imagenet
_base_ = '../../_base_/roadmap_imagenet.py'

model = dict(backbone=dict(regime='r50', step='separate_downsampling', drop_path_rate=0.1))
