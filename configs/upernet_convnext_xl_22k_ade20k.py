# UperNet, ConvNeXt-XL pre-trained on ImageNet-22K, ADE20K at 640 pixels. Published: 53.6 mIoU, 54.0 with --tta.
# The official code trains this one without fp16: --cfg-options optim_wrapper.type=OptimWrapper does so here.
#
#   python tools/train.py configs/upernet_convnext_xl_22k_ade20k.py --data-root data/ade/ADEChallengeData2016
_base_ = '_base_/upernet_ade20k_640.py'

model = dict(
    backbone=dict(
        arch='xlarge',
        init_cfg=dict(
            type='Pretrained', checkpoint='https://dl.fbaipublicfiles.com/convnext/convnext_xlarge_22k_224.pth'
        ),
    ),
    decode_head=dict(in_channels=[256, 512, 1024, 2048]),
    auxiliary_head=dict(in_channels=1024),
)
optim_wrapper = dict(optimizer=dict(lr=8e-5))
