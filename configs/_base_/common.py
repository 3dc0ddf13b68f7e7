# What every run of this project has, whatever its library.
custom_imports = dict(imports=['convnext_backbone'], allow_failed_imports=False)
runner_type = 'ResumableRunner'
custom_hooks = [dict(type='FiniteCheckHook'), dict(type='CurvesHook')]
