# Mask2Former, ConvNeXt-B pre-trained on ImageNet-22K, COCO instances 50 epochs. Ours, no published score.
# The recipe is that of mask2former_convnext_t_coco.py.
# From DINOv3's weights instead, which are under the DINOv3 License: add
#   --cfg-options model.backbone.init_cfg.checkpoint=hf://facebook/dinov3-convnext-base-pretrain-lvd1689m/model.safetensors
#
#   python tools/train.py configs/mask2former_convnext_b_coco.py --data-root data/coco
_base_ = 'mask2former_convnext_t_coco.py'

model = dict(
    backbone=dict(
        arch='base',
        init_cfg=dict(checkpoint='https://dl.fbaipublicfiles.com/convnext/convnext_base_22k_224.pth'),
    ),
    panoptic_head=dict(in_channels=[128, 256, 512, 1024]),
)
