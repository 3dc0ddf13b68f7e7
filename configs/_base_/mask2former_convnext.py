# Mask2Former (arXiv 2112.01527) for instances, by mmdet's recipe for Swin (mask2former_swin-t-p4-w7-224_8xb2-lsj-50e_coco,
# and its panoptic one for Swin-B): AdamW, 1e-4 and a tenth of it in the backbone, weight decay 0.05, gradients clipped
# at 0.01, images jittered to 0.1 to 2 times 1024 pixels, 368,750 steps of 8 GPUs x 2 images (50 epochs), fp32,
# stochastic depth of 0.3.
_base_ = ['mmdet::mask2former/mask2former_r50_8xb2-lsj-50e_coco.py', 'common.py']

model = dict(
    backbone=dict(
        _delete_=True,
        type='ConvNeXt',
        arch='tiny',
        drop_path_rate=0.3,
        layer_scale_init_value=1.0,  # pre-trained values overwrite it
    ),
    panoptic_head=dict(in_channels=[96, 192, 384, 768]),
)

# The base inherits a folder of panoptic maps, which no instance needs.
train_dataloader = dict(dataset=dict(data_prefix=dict(_delete_=True, img='train2017/')))
val_dataloader = dict(dataset=dict(data_prefix=dict(_delete_=True, img='val2017/')))
test_dataloader = dict(dataset=dict(data_prefix=dict(_delete_=True, img='val2017/')))

# The constructor leaves norms, biases and layer scale without weight decay. The rate does not decay from layer to layer.
not_decayed = dict(decay_mult=0.0)
optim_wrapper = dict(
    constructor='LayerDecayOptimWrapperConstructor',
    paramwise_cfg=dict(
        _delete_=True,
        decay_rate=1.0,
        custom_keys=dict(
            backbone=dict(lr_mult=0.1), query_embed=not_decayed, query_feat=not_decayed, level_embed=not_decayed
        ),
    ),
)
