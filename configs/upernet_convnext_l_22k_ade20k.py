# UperNet, ConvNeXt-L pre-trained on ImageNet-22K, ADE20K at 640 pixels. Published: 53.2 mIoU, 53.7 with --tta.
# The official code trains this one without fp16: --cfg-options optim_wrapper.type=OptimWrapper does so here.
#
#   python tools/train.py configs/upernet_convnext_l_22k_ade20k.py --data-root data/ade/ADEChallengeData2016
_base_ = '_base_/upernet_ade20k_640.py'

model = dict(
    backbone=dict(
        arch='large',
        init_cfg=dict(
            type='Pretrained', checkpoint='https://dl.fbaipublicfiles.com/convnext/convnext_large_22k_224.pth'
        ),
    ),
    decode_head=dict(in_channels=[192, 384, 768, 1536]),
    auxiliary_head=dict(in_channels=768),
)
