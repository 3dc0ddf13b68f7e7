# UperNet, ConvNeXt-XL, the same with weights, gradients and the optimizer's state divided among the GPUs (FSDP).
#
#   tools/dist_train.sh configs/fsdp/upernet_convnext_xl_22k_ade20k_fsdp.py 8
_base_ = '../upernet_convnext_xl_22k_ade20k.py'

model_wrapper_cfg = dict(type='fully_shard')
