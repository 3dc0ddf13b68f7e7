# Cascade Mask R-CNN on frozen features of DINOv3's ConvNeXt-T, COCO 3x. Ours, no published score.
# The output norms, the neck and the heads are trained. The weights are under the DINOv3 License: accept it on
# https://huggingface.co/facebook/dinov3-convnext-tiny-pretrain-lvd1689m, then `hf auth login`.
#
#   python tools/train.py configs/cascade_dinov3_convnext_t_coco.py --data-root data/coco
_base_ = 'cascade_convnext_t_coco.py'

model = dict(
    backbone=dict(
        # Frozen blocks are in eval mode: they have no stochastic depth, and keep no activations for a backward pass.
        frozen_stages=4,
        init_cfg=dict(checkpoint='hf://facebook/dinov3-convnext-tiny-pretrain-lvd1689m/model.safetensors'),
    )
)
