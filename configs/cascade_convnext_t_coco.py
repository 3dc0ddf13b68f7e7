# Cascade Mask R-CNN, ConvNeXt-T pre-trained on ImageNet-1K, COCO 3x. Published: 50.4 box AP, 43.7 mask AP.
#
#   python tools/train.py configs/cascade_convnext_t_coco.py --data-root data/coco
_base_ = [
    '_base_/cascade_mask_rcnn_convnext.py',
    '_base_/coco_multiscale.py',
    '_base_/schedule_3x.py',
    '_base_/runtime.py',
]

model = dict(
    backbone=dict(
        # The final weights, not the EMA ones, as in the official detection results.
        init_cfg=dict(type='Pretrained', checkpoint='https://dl.fbaipublicfiles.com/convnext/convnext_tiny_1k_224.pth'),
    )
)
