# Cascade Mask R-CNN, ConvNeXt-L pre-trained on ImageNet-22K, COCO 3x. Published: 54.8 box AP, 47.6 mask AP.
#
#   python tools/train.py configs/cascade_convnext_l_22k_coco.py --data-root data/coco
_base_ = 'cascade_convnext_t_coco.py'

model = dict(
    backbone=dict(
        arch='large',
        drop_path_rate=0.7,
        init_cfg=dict(checkpoint='https://dl.fbaipublicfiles.com/convnext/convnext_large_22k_224.pth'),
    ),
    neck=dict(in_channels=[192, 384, 768, 1536]),
)
optim_wrapper = dict(optimizer=dict(lr=1e-4))
