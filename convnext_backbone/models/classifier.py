"""Image classifier for ImageNet pre-training and fine-tuning (arXiv 2201.03545, section 3).

Norm and head have their official names, the backbone has the prefix ``backbone.``: its checkpoints load everywhere
without conversion.
"""

import torch
import torch.nn.functional as F
from mmengine.model import BaseModel
from mmengine.registry import MODELS
from torch import Tensor, nn

from ..utils.validation import COUNT, NOT_NEGATIVE, PROPER_PART
from .backbone import init_from_config
from .layers import init_truncated_normal


@MODELS.register_module()
class ImageClassifier(BaseModel):
    """Backbone, global average pooling, LayerNorm (none before the last step of a ModernizedResNet), linear head.

    Args:
        backbone: Config of a backbone of this package; ``frozen_stages=4`` (isotropic: 1) makes a linear probe.
        num_classes: Outputs of the head.
        head_init_scale: Factor on the head's initial weights; 0.001 in fine-tuning (paper, table 6).
        label_smoothing: Of the loss, and of the soft targets of mixup and CutMix.
        data_preprocessor: Arguments of :class:`ImagePreprocessor`.
        init_cfg: ``dict(type='Pretrained', checkpoint=...)`` also loads norm and head by :func:`.load_backbone`; a head
            with another number of classes is skipped and logged. Others as in mmengine.
    """

    def __init__(
        self,
        backbone: dict,
        num_classes: int = 1000,
        head_init_scale: float = 1.0,
        label_smoothing: float = 0.0,
        data_preprocessor: dict | None = None,
        init_cfg: dict | list[dict] | None = None,
    ) -> None:
        COUNT.check('num_classes', num_classes)
        NOT_NEGATIVE.check('head_init_scale', head_init_scale)
        PROPER_PART.check('label_smoothing', label_smoothing)
        preprocessor = dict(type='ImagePreprocessor', num_classes=num_classes, label_smoothing=label_smoothing)
        super().__init__({**preprocessor, **(data_preprocessor or {})}, init_cfg)
        self.backbone = MODELS.build({**backbone, 'out_norm': False})
        channels = self.backbone.out_channels[-1]
        self.norm = nn.LayerNorm(channels, eps=1e-6) if self.backbone.pooled_norm else nn.Identity()
        self.head = nn.Linear(channels, num_classes)
        self.label_smoothing = label_smoothing
        init_truncated_normal(self.head)
        with torch.no_grad():
            self.head.weight.mul_(head_init_scale)

    def init_weights(self) -> None:
        """Apply the ``init_cfg`` of the backbone, then its own; raises as :meth:`.Backbone.init_weights`."""
        self.backbone.init_weights()
        init_from_config(self)

    def extract_feat(self, inputs: Tensor) -> Tensor:
        """Pooled and normalized features, (N, C), of preprocessed images, (N, 3, H, W)."""
        return self.norm(self.backbone(inputs)[-1].mean(dim=(2, 3)))

    def forward(
        self, inputs: Tensor, labels: Tensor | None = None, mode: str = 'tensor'
    ) -> Tensor | dict[str, Tensor] | list[dict[str, Tensor]]:
        """Compute logits, the loss or predictions.

        Args:
            inputs: Preprocessed images, (N, 3, H, W).
            labels: Classes, (N,), or soft targets, (N, num_classes); required for the loss.
            mode: ``'tensor'``: logits, (N, num_classes). ``'loss'``: the losses. ``'predict'``: for each image a dict
                of ``scores``, the (num_classes,) softmax, and ``label`` if labels are given.
        """
        logits = self.head(self.extract_feat(inputs))
        if mode == 'tensor':
            return logits
        if mode == 'loss':
            assert labels is not None, 'the loss needs labels'
            smoothing = 0.0 if labels.is_floating_point() else self.label_smoothing  # soft targets are smooth already
            return dict(loss=F.cross_entropy(logits, labels, label_smoothing=smoothing))
        predictions = [dict(scores=scores) for scores in logits.float().softmax(dim=1)]
        if labels is not None:
            for prediction, label in zip(predictions, labels, strict=True):
                prediction['label'] = label
        return predictions
