# Pre-trains ConvNeXt-atto on 1,000 images of ten ImageNet classes, in minutes on 2 CPU cores: a check that
# training works, before days of GPU time go into it.
#
#   python tools/train.py configs/demo/pretrain_convnext_atto_imagenette.py --data-root data/imagenette
_base_ = '../_base_/pretrain_small.py'
