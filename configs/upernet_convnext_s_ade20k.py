# UperNet, ConvNeXt-S pre-trained on ImageNet-1K, ADE20K at 512 pixels. Published: 48.7 mIoU, 49.6 with --tta.
#
#   python tools/train.py configs/upernet_convnext_s_ade20k.py --data-root data/ade/ADEChallengeData2016
_base_ = 'upernet_convnext_t_ade20k.py'

model = dict(
    backbone=dict(
        arch='small',
        drop_path_rate=0.3,
        init_cfg=dict(
            type='Pretrained', checkpoint='https://dl.fbaipublicfiles.com/convnext/convnext_small_1k_224.pth'
        ),
    ),
)
