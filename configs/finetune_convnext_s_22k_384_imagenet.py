# ConvNeXt-S from ImageNet-22K to ImageNet-1K at 384 pixels. Published: 85.8 top-1.
#
#   python tools/train.py configs/finetune_convnext_s_22k_384_imagenet.py --data-root data/imagenet
_base_ = '_base_/finetune_imagenet_384.py'

model = dict(
    backbone=dict(arch='small', drop_path_rate=0.1),
    init_cfg=dict(type='Pretrained', checkpoint='https://dl.fbaipublicfiles.com/convnext/convnext_small_22k_224.pth'),
)
