# UperNet on frozen features of DINOv3's ConvNeXt-T, ADE20K at 512 pixels. Ours, no published score.
# The output norms and the heads are trained. The weights are under the DINOv3 License: accept it on
# https://huggingface.co/facebook/dinov3-convnext-tiny-pretrain-lvd1689m, then `hf auth login`.
#
#   python tools/train.py configs/upernet_dinov3_convnext_t_ade20k.py --data-root data/ade/ADEChallengeData2016
_base_ = 'upernet_convnext_t_ade20k.py'

model = dict(
    backbone=dict(
        # Frozen blocks are in eval mode: they have no stochastic depth, and keep no activations for a backward pass.
        frozen_stages=4,
        init_cfg=dict(checkpoint='hf://facebook/dinov3-convnext-tiny-pretrain-lvd1689m/model.safetensors'),
    )
)
