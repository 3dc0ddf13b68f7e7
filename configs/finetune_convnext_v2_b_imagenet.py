# ConvNeXt V2-B from FCMAE without labels to ImageNet-1K. Published: 84.9 top-1.
#
#   python tools/train.py configs/finetune_convnext_v2_b_imagenet.py --data-root data/imagenet
_base_ = '_base_/finetune_fcmae_imagenet.py'

model = dict(
    backbone=dict(arch='base'),
    init_cfg=dict(
        type='Pretrained',
        checkpoint='https://dl.fbaipublicfiles.com/convnext/convnextv2/pt_only/convnextv2_base_1k_224_fcmae.pt',
    ),
)
