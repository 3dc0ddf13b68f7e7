# Cascade Mask R-CNN, ConvNeXt-L, with weights, gradients and optimizer state sharded over the GPUs (FSDP).
#
#   torchrun --nproc-per-node 8 tools/train.py configs/fsdp/cascade_convnext_l_22k_coco_fsdp.py --launcher pytorch
_base_ = '../cascade_convnext_l_22k_coco.py'

model_wrapper_cfg = dict(type='fully_shard')
