# Cascade Mask R-CNN, ConvNeXt-B pre-trained on ImageNet-1K, COCO 3x. Published: 52.7 box AP, 45.6 mask AP.
#
#   python tools/train.py configs/cascade_convnext_b_coco.py --data-root data/coco
_base_ = 'cascade_convnext_t_coco.py'

model = dict(
    backbone=dict(
        arch='base',
        drop_path_rate=0.7,
        init_cfg=dict(checkpoint='https://dl.fbaipublicfiles.com/convnext/convnext_base_1k_224.pth'),
    ),
    neck=dict(in_channels=[128, 256, 512, 1024]),
)
optim_wrapper = dict(paramwise_cfg=dict(decay_rate=0.8))
