# Cascade Mask R-CNN, ConvNeXt-B pre-trained on ImageNet-22K, COCO 3x. Published: 54.0 box AP, 46.9 mask AP.
#
#   python tools/train.py configs/cascade_convnext_b_22k_coco.py --data-root data/coco
_base_ = 'cascade_convnext_t_coco.py'

model = dict(
    backbone=dict(
        arch='base',
        drop_path_rate=0.6,
        init_cfg=dict(checkpoint='https://dl.fbaipublicfiles.com/convnext/convnext_base_22k_224.pth'),
    ),
    neck=dict(in_channels=[128, 256, 512, 1024]),
)
optim_wrapper = dict(paramwise_cfg=dict(decay_rate=0.8), optimizer=dict(lr=1e-4))
