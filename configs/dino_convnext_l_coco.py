# DINO, ConvNeXt-L pre-trained on ImageNet-22K, COCO 36 epochs. Ours, no published score.
# The recipe is that of dino_convnext_t_coco.py.
# From DINOv3's weights instead, which are under the DINOv3 License: add
#   --cfg-options model.backbone.init_cfg.checkpoint=hf://facebook/dinov3-convnext-large-pretrain-lvd1689m/model.safetensors
#
#   python tools/train.py configs/dino_convnext_l_coco.py --data-root data/coco
_base_ = 'dino_convnext_t_coco.py'

model = dict(
    backbone=dict(
        arch='large',
        init_cfg=dict(checkpoint='https://dl.fbaipublicfiles.com/convnext/convnext_large_22k_224.pth'),
    ),
    neck=dict(in_channels=[384, 768, 1536]),
)
