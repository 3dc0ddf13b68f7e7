# UperNet, ConvNeXt-B pre-trained on ImageNet-1K, ADE20K at 512 pixels. Published: 49.1 mIoU, 49.9 with --tta.
#
#   python tools/train.py configs/upernet_convnext_b_ade20k.py --data-root data/ade/ADEChallengeData2016
_base_ = 'upernet_convnext_t_ade20k.py'

model = dict(
    backbone=dict(
        arch='base',
        init_cfg=dict(type='Pretrained', checkpoint='https://dl.fbaipublicfiles.com/convnext/convnext_base_1k_224.pth'),
    ),
    decode_head=dict(in_channels=[128, 256, 512, 1024]),
    auxiliary_head=dict(in_channels=512),
)
