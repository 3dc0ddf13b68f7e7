# ConvNeXt-T from ImageNet-22K to ImageNet-1K at 384 pixels. Published: 84.1 top-1.
#
#   python tools/train.py configs/finetune_convnext_t_22k_384_imagenet.py --data-root data/imagenet
_base_ = '_base_/finetune_imagenet_384.py'

model = dict(
    backbone=dict(arch='tiny', drop_path_rate=0.0),
    init_cfg=dict(type='Pretrained', checkpoint='https://dl.fbaipublicfiles.com/convnext/convnext_tiny_22k_224.pth'),
)
