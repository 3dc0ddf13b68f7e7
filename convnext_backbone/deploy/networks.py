"""Trained models as functions of tensors: the classifier and the segmentor."""

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn


class Network(nn.Module):
    """A trained model as a function of tensors, over its own modules.

    Args:
        model: In eval mode; its modules and their types are those of the MM libraries.

    Attributes:
        outputs: The names of what it returns.
    """

    outputs: tuple[str, ...]

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model: Any = model


class ClassifierNetwork(Network):
    """An :class:`.ImageClassifier`, whose outputs are scores."""

    outputs = ('scores',)

    def forward(self, image: Tensor) -> Tensor:
        """Softmax scores, (N, classes), of normalized images, (N, 3, H, W)."""
        return self.model(image).softmax(1)


class SegmentorNetwork(Network):
    """UperNet of mmseg, equal to its ``encode_decode``."""

    outputs = ('logits',)

    def forward(self, image: Tensor) -> Tensor:
        """Logits, (N, classes, H, W), of normalized images, (N, 3, H, W)."""
        logits = self.model.decode_head(self.model.backbone(image))
        return F.interpolate(logits, image.shape[2:], mode='bilinear', align_corners=False)
