# DINO, ConvNeXt-T pre-trained on ImageNet-22K, COCO 36 epochs. Ours, no published score.
# The recipe is that of mmdet's DINO with Swin-L, of four scales: its base says what was taken.
# From DINOv3's weights instead, which are under the DINOv3 License: add
#   --cfg-options model.backbone.init_cfg.checkpoint=hf://facebook/dinov3-convnext-tiny-pretrain-lvd1689m/model.safetensors
#
#   python tools/train.py configs/dino_convnext_t_coco.py --data-root data/coco
_base_ = '_base_/dino_convnext.py'

model = dict(
    backbone=dict(
        init_cfg=dict(type='Pretrained', checkpoint='https://dl.fbaipublicfiles.com/convnext/convnext_tiny_22k_224.pth')
    )
)
