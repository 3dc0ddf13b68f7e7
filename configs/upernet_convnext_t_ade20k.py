# UperNet, ConvNeXt-T pre-trained on ImageNet-1K, ADE20K at 512 pixels. Published: 46.0 mIoU, 46.7 with --tta.
#
#   python tools/train.py configs/upernet_convnext_t_ade20k.py --data-root data/ade/ADEChallengeData2016
_base_ = [
    '_base_/upernet_convnext.py',
    '_base_/ade20k.py',
    '_base_/schedule_160k.py',
    '_base_/segmentation_runtime.py',
]

model = dict(
    backbone=dict(
        # The final weights, not the EMA ones, as in the official segmentation results.
        init_cfg=dict(type='Pretrained', checkpoint='https://dl.fbaipublicfiles.com/convnext/convnext_tiny_1k_224.pth'),
    ),
)
