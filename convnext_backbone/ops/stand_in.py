"""mmcv's operators out of torchvision, put here by `python -m convnext_backbone.ops install` (or `uninstall`)."""

from convnext_backbone.ops.ext import *  # noqa: F403
