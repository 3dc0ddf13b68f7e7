# Cascade Mask R-CNN, ConvNeXt V2-T pre-trained on ImageNet-1K, COCO 3x. Ours, no published score.
# The recipe is that of V1's T; the weights are under CC BY-NC 4.0.
#
#   python tools/train.py configs/cascade_convnext_v2_t_coco.py --data-root data/coco
_base_ = 'cascade_convnext_t_coco.py'

# Stochastic depth is V1's for T, B and L. Nano and atto have a half and an eighth of T's parameters, and 0.1.
model = dict(
    backbone=dict(
        use_grn=True,
        init_cfg=dict(
            checkpoint='https://dl.fbaipublicfiles.com/convnext/convnextv2/im1k/convnextv2_tiny_1k_224_ema.pt'
        ),
    )
)
