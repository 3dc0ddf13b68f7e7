# Cascade Mask R-CNN, ConvNeXt V2-L pre-trained on ImageNet-1K, COCO 3x. Ours, no published score.
# The recipe is that of V1's L (which starts from ImageNet-22K); the weights are under CC BY-NC 4.0.
#
#   python tools/train.py configs/cascade_convnext_v2_l_coco.py --data-root data/coco
_base_ = 'cascade_convnext_l_22k_coco.py'

model = dict(
    backbone=dict(
        use_grn=True,
        init_cfg=dict(
            checkpoint='https://dl.fbaipublicfiles.com/convnext/convnextv2/im1k/convnextv2_large_1k_224_ema.pt'
        ),
    )
)
