# ConvNeXt-XL from ImageNet-22K to ImageNet-1K. Published: 87.0 top-1.
#
#   python tools/train.py configs/finetune_convnext_xl_22k_224_imagenet.py --data-root data/imagenet
_base_ = '_base_/finetune_imagenet.py'

model = dict(
    backbone=dict(arch='xlarge', drop_path_rate=0.4),
    init_cfg=dict(type='Pretrained', checkpoint='https://dl.fbaipublicfiles.com/convnext/convnext_xlarge_22k_224.pth'),
)
custom_hooks = [*_base_.custom_hooks, dict(type='AveragedWeightsHook', decay=0.9999)]
