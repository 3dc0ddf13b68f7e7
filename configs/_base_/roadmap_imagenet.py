# The steps from ResNet to ConvNeXt (paper, tables 10 and 11): the recipe of ImageNet-1K without averaged weights.
_base_ = 'pretrain_imagenet.py'

model = dict(backbone=dict(_delete_=True, type='ModernizedResNet'))
custom_hooks = _base_.custom_hooks[:-1]
