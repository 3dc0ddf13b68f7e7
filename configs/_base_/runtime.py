# What every run of this project shares, on top of mmdet's default runtime.
_base_ = 'mmdet::_base_/default_runtime.py'

custom_imports = dict(imports=['convnext_backbone'], allow_failed_imports=False)
runner_type = 'ResumableRunner'
default_hooks = dict(checkpoint=dict(max_keep_ckpts=3))
custom_hooks = [dict(type='FiniteCheckHook'), dict(type='CurvesHook')]
