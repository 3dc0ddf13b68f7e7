# Cascade Mask R-CNN, ConvNeXt V2-B pre-trained on ImageNet-1K, COCO 3x. Ours, no published score.
# The recipe is that of V1's B; the weights are under CC BY-NC 4.0.
#
#   python tools/train.py configs/cascade_convnext_v2_b_coco.py --data-root data/coco
_base_ = 'cascade_convnext_b_coco.py'

model = dict(
    backbone=dict(
        use_grn=True,
        init_cfg=dict(
            checkpoint='https://dl.fbaipublicfiles.com/convnext/convnextv2/im1k/convnextv2_base_1k_224_ema.pt'
        ),
    )
)
