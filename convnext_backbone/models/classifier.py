"""ConvNeXt as a classifier (arXiv 2201.03545, section 3): what ImageNet pre-training and fine-tuning train.

Its checkpoints need no conversion: the backbone stands below ``backbone.``, the norm after pooling and the head beside
it by their official names, and :func:`.load_backbone` knows all of them.
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
    """Backbone -> mean over the last map -> LayerNorm -> linear head; a ResNet's features are not normalised.

    Args:
        backbone: A config of a model of this package. With ``frozen_stages=4`` (isotropic: 1)
            only norm and head learn: a linear probe.
        num_classes: Outputs of the head.
        head_init_scale: Factor on the head's random weights; 0.001 in fine-tuning (paper, table 6).
        label_smoothing: Of the loss, and of the targets that mixing makes soft.
        data_preprocessor: Arguments of :class:`ImagePreprocessor`.
        init_cfg: mmengine's; ``dict(type='Pretrained', checkpoint=...)`` goes through :func:`.load_backbone`, for norm
            and head too. A head of another number of classes stays behind, and the log says so.
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
        """Does what the ``init_cfg`` of the backbone says, then what its own does.

        Raises:
            ArgumentError: An entry for a checkpoint has a key that it does not take.
            CheckpointMismatch: A pretrained checkpoint does not fill every tensor of the backbone.
        """
        self.backbone.init_weights()
        init_from_config(self)

    def extract_feat(self, inputs: Tensor) -> Tensor:
        """Pooled and normalised features, (N, C), of normalised images, (N, 3, H, W)."""
        return self.norm(self.backbone(inputs)[-1].mean(dim=(2, 3)))

    def forward(
        self, inputs: Tensor, labels: Tensor | None = None, mode: str = 'tensor'
    ) -> Tensor | dict[str, Tensor] | list[dict[str, Tensor]]:
        """Computes what the mode asks for.

        Args:
            inputs: Normalised images, (N, 3, H, W).
            labels: Classes, (N,), or soft targets, (N, num_classes).
            mode: ``'tensor'``: logits, (N, num_classes). ``'loss'``: the losses. ``'predict'``: for each image its
                ``scores``, (num_classes,), which add up to 1, and its ``label`` if labels are given.
        """
        logits = self.head(self.extract_feat(inputs))
        if mode == 'tensor':
            return logits
        if mode == 'loss':
            smoothing = 0.0 if labels.is_floating_point() else self.label_smoothing  # soft targets are smooth already
            return dict(loss=F.cross_entropy(logits, labels, label_smoothing=smoothing))
        predictions = [dict(scores=scores) for scores in logits.float().softmax(dim=1)]
        if labels is not None:
            for prediction, label in zip(predictions, labels, strict=True):
                prediction['label'] = label
        return predictions
