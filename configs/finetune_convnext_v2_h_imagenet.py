# ConvNeXt V2-H from FCMAE without labels to ImageNet-1K. Published: 86.3 top-1.
# Its numbers are those of B, the nearest size for which the official code has some.
#
#   python tools/train.py configs/finetune_convnext_v2_h_imagenet.py --data-root data/imagenet
_base_ = 'finetune_convnext_v2_b_imagenet.py'

model = dict(
    backbone=dict(arch='huge'),
    init_cfg=dict(
        type='Pretrained',
        checkpoint='https://dl.fbaipublicfiles.com/convnext/convnextv2/pt_only/convnextv2_huge_1k_224_fcmae.pt',
    ),
)
