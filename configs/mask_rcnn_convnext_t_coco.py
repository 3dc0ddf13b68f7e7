# Mask R-CNN, ConvNeXt-T pre-trained on ImageNet-1K, COCO 3x. Published: 46.2 box AP, 41.7 mask AP.
#
#   python tools/train.py configs/mask_rcnn_convnext_t_coco.py --data-root data/coco
_base_ = [
    'mmdet::_base_/models/mask-rcnn_r50_fpn.py',
    '_base_/coco_multiscale.py',
    '_base_/schedule_3x.py',
    '_base_/runtime.py',
]

model = dict(
    backbone=dict(
        _delete_=True,
        type='ConvNeXt',
        arch='tiny',
        drop_path_rate=0.4,
        # As in the official detection configs; pre-trained values overwrite it.
        layer_scale_init_value=1.0,
        init_cfg=dict(type='Pretrained', checkpoint='https://dl.fbaipublicfiles.com/convnext/convnext_tiny_1k_224.pth'),
    ),
    neck=dict(in_channels=[96, 192, 384, 768]),
)
optim_wrapper = dict(paramwise_cfg=dict(decay_rate=0.95), optimizer=dict(lr=1e-4))
