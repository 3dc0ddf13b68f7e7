# What every detection run shares, on top of mmdet's default runtime.
_base_ = ['mmdet::_base_/default_runtime.py', 'common.py']

default_hooks = dict(checkpoint=dict(max_keep_ckpts=3))
