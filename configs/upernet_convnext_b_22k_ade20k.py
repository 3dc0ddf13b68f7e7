# UperNet, ConvNeXt-B pre-trained on ImageNet-22K, ADE20K at 640 pixels. Published: 52.6 mIoU, 53.1 with --tta.
#
#   python tools/train.py configs/upernet_convnext_b_22k_ade20k.py --data-root data/ade/ADEChallengeData2016
_base_ = '_base_/upernet_ade20k_640.py'

model = dict(
    backbone=dict(
        arch='base',
        init_cfg=dict(
            type='Pretrained', checkpoint='https://dl.fbaipublicfiles.com/convnext/convnext_base_22k_224.pth'
        ),
    ),
    decode_head=dict(in_channels=[128, 256, 512, 1024]),
    auxiliary_head=dict(in_channels=512),
)
