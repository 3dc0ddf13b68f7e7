# ConvNeXt V2-nano from FCMAE without labels to ImageNet-1K. Published: 81.9 top-1.
# Its numbers are those of atto, the nearest size for which the official code has some.
#
#   python tools/train.py configs/finetune_convnext_v2_nano_imagenet.py --data-root data/imagenet
_base_ = 'finetune_convnext_v2_atto_imagenet.py'

model = dict(
    backbone=dict(arch='nano'),
    init_cfg=dict(
        type='Pretrained',
        checkpoint='https://dl.fbaipublicfiles.com/convnext/convnextv2/pt_only/convnextv2_nano_1k_224_fcmae.pt',
    ),
)
