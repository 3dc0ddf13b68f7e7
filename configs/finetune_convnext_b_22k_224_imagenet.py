# ConvNeXt-B from ImageNet-22K to ImageNet-1K. Published: 85.8 top-1.
#
#   python tools/train.py configs/finetune_convnext_b_22k_224_imagenet.py --data-root data/imagenet
_base_ = '_base_/finetune_imagenet.py'

model = dict(
    backbone=dict(arch='base', drop_path_rate=0.2),
    init_cfg=dict(type='Pretrained', checkpoint='https://dl.fbaipublicfiles.com/convnext/convnext_base_22k_224.pth'),
)
