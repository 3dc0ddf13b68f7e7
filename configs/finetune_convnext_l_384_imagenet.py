# ConvNeXt-L from ImageNet-1K at 224 pixels to 384. Published: 85.5 top-1.
#
#   python tools/train.py configs/finetune_convnext_l_384_imagenet.py --data-root data/imagenet
_base_ = '_base_/finetune_imagenet_384.py'

model = dict(
    backbone=dict(arch='large', drop_path_rate=0.95),
    # The averaged weights, in the paper for this model alone.
    init_cfg=dict(
        type='Pretrained', checkpoint='https://dl.fbaipublicfiles.com/convnext/convnext_large_1k_224_ema.pth'
    ),
)
optim_wrapper = dict(paramwise_cfg=dict(decay_rate=0.7))
