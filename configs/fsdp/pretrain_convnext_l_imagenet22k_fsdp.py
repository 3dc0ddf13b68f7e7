# Pre-training on ImageNet-22K, ConvNeXt-L, with weights, gradients and optimizer state sharded over the GPUs (FSDP).
#
#   torchrun --nproc-per-node 8 tools/train.py configs/fsdp/pretrain_convnext_l_imagenet22k_fsdp.py --launcher pytorch
_base_ = '../pretrain_convnext_l_imagenet22k.py'

model_wrapper_cfg = dict(type='fully_shard')
