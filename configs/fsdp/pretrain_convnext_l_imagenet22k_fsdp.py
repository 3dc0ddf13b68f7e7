# Pre-training on ImageNet-22K, ConvNeXt-L, the same with weights, gradients and the optimizer's state divided among the GPUs (FSDP).
#
#   tools/dist_train.sh configs/fsdp/pretrain_convnext_l_imagenet22k_fsdp.py 8
_base_ = '../pretrain_convnext_l_imagenet22k.py'

model_wrapper_cfg = dict(type='fully_shard')
