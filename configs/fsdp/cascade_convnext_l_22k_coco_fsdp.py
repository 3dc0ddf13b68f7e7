# Cascade Mask R-CNN, ConvNeXt-L, the same with weights, gradients and the optimizer's state divided among the GPUs (FSDP).
#
#   tools/dist_train.sh configs/fsdp/cascade_convnext_l_22k_coco_fsdp.py 8
_base_ = '../cascade_convnext_l_22k_coco.py'

model_wrapper_cfg = dict(type='fully_shard')
