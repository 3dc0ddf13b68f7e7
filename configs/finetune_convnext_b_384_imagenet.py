# ConvNeXt-B from ImageNet-1K at 224 pixels to 384. Published: 85.1 top-1.
#
#   python tools/train.py configs/finetune_convnext_b_384_imagenet.py --data-root data/imagenet
_base_ = '_base_/finetune_imagenet_384.py'

model = dict(
    backbone=dict(arch='base', drop_path_rate=0.8),
    init_cfg=dict(type='Pretrained', checkpoint='https://dl.fbaipublicfiles.com/convnext/convnext_base_1k_224.pth'),
)
optim_wrapper = dict(paramwise_cfg=dict(decay_rate=0.7))
