# Cascade Mask R-CNN, ConvNeXt-XL pre-trained on ImageNet-22K, COCO 3x. Published: 55.2 box AP, 47.7 mask AP.
#
#   python tools/train.py configs/cascade_convnext_xl_22k_coco.py --data-root data/coco
_base_ = 'cascade_convnext_t_coco.py'

model = dict(
    backbone=dict(
        arch='xlarge',
        drop_path_rate=0.8,
        init_cfg=dict(checkpoint='https://dl.fbaipublicfiles.com/convnext/convnext_xlarge_22k_224.pth'),
    ),
    neck=dict(in_channels=[256, 512, 1024, 2048]),
)
optim_wrapper = dict(optimizer=dict(lr=1e-4))
