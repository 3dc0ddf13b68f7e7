"""mmcv's operators out of torchvision and torch, for its build without compiled ones (mmcv-lite).

``provide()`` lets ``mmcv.ops`` be imported in this process; importing ``convnext_backbone`` calls it. ``python -m
convnext_backbone.ops install`` does so for every process. Compiled operators are used in preference wherever they are.
"""

from .installation import OperatorsError, install, provide, uninstall

__all__ = ['OperatorsError', 'install', 'provide', 'uninstall']
