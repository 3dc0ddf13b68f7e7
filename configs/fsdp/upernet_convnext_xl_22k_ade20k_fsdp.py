# UperNet, ConvNeXt-XL, with weights, gradients and optimizer state sharded over the GPUs (FSDP).
#
#   torchrun --nproc-per-node 8 tools/train.py configs/fsdp/upernet_convnext_xl_22k_ade20k_fsdp.py --launcher pytorch
_base_ = '../upernet_convnext_xl_22k_ade20k.py'

model_wrapper_cfg = dict(type='fully_shard')
