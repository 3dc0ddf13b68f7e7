# Cascade Mask R-CNN, ConvNeXt-S pre-trained on ImageNet-1K, COCO 3x. Published: 51.9 box AP, 45.0 mask AP.
#
#   python tools/train.py configs/cascade_convnext_s_coco.py --data-root data/coco
_base_ = 'cascade_convnext_t_coco.py'

model = dict(
    backbone=dict(
        arch='small',
        drop_path_rate=0.6,
        init_cfg=dict(checkpoint='https://dl.fbaipublicfiles.com/convnext/convnext_small_1k_224.pth'),
    ),
)
