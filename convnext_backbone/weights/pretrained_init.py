"""``init_cfg=dict(type='Pretrained', ...)`` by strict loading from any supported weights format."""

import re

from mmengine.model import PretrainedInit, update_init_info
from mmengine.registry import WEIGHT_INITIALIZERS
from mmengine.runner import CheckpointLoader
from torch import nn

from ..models.backbone import Backbone
from ..models.classifier import ImageClassifier
from ..utils.errors import ArgumentError, printable
from .load import load_backbone
from .load_model import REVISE_KEYS, load_model


@WEIGHT_INITIALIZERS.register_module(name='Pretrained', force=True)
class StrictPretrainedInit(PretrainedInit):
    """mmengine's ``PretrainedInit``, strict for the models of this package and those that contain its backbones.

    The former are loaded by :func:`.load_backbone`, the latter by :func:`.load_model`: their heads may differ.

    Args:
        checkpoint: Path, address or ``hf://owner/repository/file``.
        prefix: As of :func:`.load_backbone` for models of this package, as of mmengine for others.
        map_location: As of :func:`torch.load`.
        ema: Load the averaged weights of a file that has both; only for models of this package.

    Raises:
        ArgumentError: An argument is unknown, or ``checkpoint`` is missing.
    """

    def __init__(
        self,
        checkpoint: str | None = None,
        prefix: str | None = None,
        map_location: str = 'cpu',
        ema: bool = False,
        **unknown: object,
    ) -> None:
        if checkpoint is None or unknown:
            given = dict(checkpoint=checkpoint, **unknown)
            raise ArgumentError(
                f"init_cfg of type 'Pretrained' has {printable(given)}: it takes checkpoint, and maybe prefix and ema."
            )
        super().__init__(checkpoint, prefix, map_location)
        self.ema = ema

    def __call__(self, module: nn.Module) -> None:
        """Initialize a module.

        Raises:
            CheckpointMismatch: Some tensor of a backbone of this package would not be filled.
            ArgumentError: ``ema`` is set for another model.
        """
        if isinstance(module, (Backbone, ImageClassifier)):
            load_backbone(module, self.checkpoint, self.prefix, self.ema)
        elif self.ema:
            raise ArgumentError(
                f'init_cfg of {type(module).__name__} has ema=True, which only backbones and classifiers '
                f'of this package take: name the file in init_cfg of the backbone.'
            )
        elif any(isinstance(part, Backbone) for part in module.modules()):
            revise_keys = REVISE_KEYS if self.prefix is None else [(rf'^{re.escape(self.prefix.rstrip("."))}\.', '')]
            state = CheckpointLoader.load_checkpoint(self.checkpoint, self.map_location, logger='current')
            load_model(module, state, self.checkpoint, False, revise_keys)
        else:
            super().__call__(module)
            return
        if hasattr(module, '_params_init_info'):
            update_init_info(module, init_info=self._get_init_info())
