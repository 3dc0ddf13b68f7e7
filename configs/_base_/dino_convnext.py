# DINO (arXiv 2203.03605) with four scales, by mmdet's recipe for three epochs times 12: AdamW, 1e-4 and a tenth of it in
# the backbone, weight decay 1e-4, gradients clipped at 0.1, the multi-scale training of DETR, 8 GPUs x 2 images, fp32.
# From its recipe for Swin-L (dino-5scale_swin-l_8xb2-36e_coco): steps after 27 and 33 epochs, stochastic depth of 0.2.
_base_ = ['mmdet::dino/dino-4scale_r50_8xb2-36e_coco.py', 'common.py']

default_hooks = dict(checkpoint=dict(max_keep_ckpts=3))

model = dict(
    backbone=dict(
        _delete_=True,
        type='ConvNeXt',
        arch='tiny',
        drop_path_rate=0.2,
        layer_scale_init_value=1.0,  # pre-trained values overwrite it
        out_indices=(1, 2, 3),  # the neck makes the fourth scale
    ),
    neck=dict(in_channels=[192, 384, 768]),
)
param_scheduler = [dict(type='MultiStepLR', begin=0, end=36, by_epoch=True, milestones=[27, 33], gamma=0.1)]
