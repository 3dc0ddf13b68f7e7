"""mmcv's operators out of torchvision, put here by `python -m convnext_backbone.ops install`; `uninstall` removes it."""

from convnext_backbone.ops.ext import *  # noqa: F403
