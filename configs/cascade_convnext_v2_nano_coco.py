# Cascade Mask R-CNN, ConvNeXt V2-nano pre-trained on ImageNet-1K, COCO 3x. Ours, no published score.
# The recipe is that of V2-T with less stochastic depth; the weights are under CC BY-NC 4.0.
#
#   python tools/train.py configs/cascade_convnext_v2_nano_coco.py --data-root data/coco
_base_ = 'cascade_convnext_v2_t_coco.py'

model = dict(
    backbone=dict(
        arch='nano',
        drop_path_rate=0.1,
        init_cfg=dict(
            checkpoint='https://dl.fbaipublicfiles.com/convnext/convnextv2/im1k/convnextv2_nano_1k_224_ema.pt'
        ),
    ),
    neck=dict(in_channels=[80, 160, 320, 640]),
)
