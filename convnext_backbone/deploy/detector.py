"""Mask R-CNN, Faster R-CNN and Cascade R-CNN of mmdet in tensors alone, over their trained modules."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..ops.nms import nms
from .networks import Network

Size = tuple[int, int]  # height and width


class DetectorNetwork(Network):
    """Detector of one image, equal to ``model.predict(..., rescale=False)`` of mmdet.

    Args:
        model: A trained detector, in eval mode.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model)
        masks = ('masks',) if self.model.roi_head.with_mask else ()
        self.outputs = ('boxes', 'scores', 'labels', *masks)
        self.divisor = self.model.data_preprocessor.pad_size_divisor
        self.pad_value = float(self.model.data_preprocessor.pad_value)

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """Detect objects.

        Args:
            image: Normalized, (1, 3, H, W); it is padded here.

        Returns:
            Boxes, (n, 4), as x1, y1, x2, y2 in pixels of the input; scores, (n,), falling; labels, (n,); from a
            detector of masks, too, the probability of the object at each of (n, 28, 28) positions in its box.
        """
        height, width = image.shape[2:]
        margins = (0, -width % self.divisor, 0, -height % self.divisor)
        features = self.model.neck(self.model.backbone(F.pad(image, margins, value=self.pad_value)))
        head = self.model.roi_head
        boxes, scores, labels = self._classify(features, self._propose(features, (height, width)), (height, width))
        if not head.with_mask:
            return boxes, scores, labels
        extractors, heads = _as_list(head.mask_roi_extractor), _as_list(head.mask_head)
        masks = []
        for extractor, mask_head in zip(extractors, heads, strict=True):
            maps = mask_head(extract(extractor, features, boxes))  # (n, classes or 1, h, w)
            if not mask_head.class_agnostic:
                maps = maps[torch.arange(labels.shape[0], device=labels.device), labels][:, None]
            masks.append(maps[:, 0].sigmoid())
        return boxes, scores, labels, torch.stack(masks).mean(0)

    def _propose(self, features: Sequence[Tensor], size: Size) -> Tensor:
        """Region proposals of the RPN, (n, 4), the best first."""
        head = self.model.rpn_head
        settings = head.test_cfg
        rows = []
        for level, (logits, deltas) in enumerate(zip(*head(features), strict=True)):
            anchors = place_anchors(head.prior_generator, level, logits)
            deltas = deltas.permute(0, 2, 3, 1).reshape(-1, 4)
            logits = logits.permute(0, 2, 3, 1).reshape(-1, head.cls_out_channels)
            scores = logits[:, 0].sigmoid() if head.use_sigmoid_cls else logits.softmax(1)[:, 0]
            best = scores.sort(descending=True, stable=True)[1][: settings.nms_pre]
            rows.append((anchors[best], deltas[best], scores[best], torch.full_like(best, level)))
        anchors, deltas, scores, levels = (torch.cat(parts) for parts in zip(*rows, strict=True))
        boxes = decode(head.bbox_coder, anchors, deltas, size)
        if settings.min_bbox_size >= 0:
            sides = boxes[:, 2:] - boxes[:, :2]
            large = (sides > settings.min_bbox_size).all(1).nonzero()[:, 0]
            boxes, scores, levels = boxes[large], scores[large], levels[large]
        return boxes[suppress(boxes, scores, levels, settings.nms.iou_threshold)[: settings.max_per_img]]

    def _classify(self, features: Sequence[Tensor], boxes: Tensor, size: Size) -> tuple[Tensor, Tensor, Tensor]:
        """Boxes, scores and labels of the objects in proposals."""
        roi_head = self.model.roi_head
        extractors, heads = _as_list(roi_head.bbox_roi_extractor), _as_list(roi_head.bbox_head)
        logits: list[Tensor] = []
        deltas = boxes  # of the stage before
        for stage, (extractor, head) in enumerate(zip(extractors, heads, strict=True)):
            if stage:
                boxes = refine(heads[stage - 1], boxes, logits[-1], deltas, size)
            found, deltas = head(extract(extractor, features, boxes))
            logits.append(found)
        scores = (sum(logits[1:], logits[0]) / float(len(logits))).softmax(1)[:, :-1]
        number = 1 if head.reg_class_agnostic else head.num_classes
        boxes = decode(head.bbox_coder, boxes.repeat_interleave(number, 0), deltas.reshape(-1, 4), size)
        settings = roi_head.test_cfg
        row, labels = (scores > settings.score_thr).nonzero().unbind(1)
        scores = scores[row, labels]
        boxes = boxes[row if head.reg_class_agnostic else row * number + labels]
        kept = suppress(boxes, scores, labels, settings.nms.iou_threshold)[: settings.max_per_img]
        return boxes[kept], scores[kept], labels[kept]


def _as_list(heads: nn.Module) -> list[Any]:
    return list(heads) if isinstance(heads, nn.ModuleList) else [heads]


def place_anchors(generator: Any, level: int, scores: Tensor) -> Tensor:
    """The anchors at all positions of a map (1, A, H, W), (H * W * A, 4), as ``grid_priors`` of mmdet."""
    height, width = scores.shape[2:]
    step_x, step_y = generator.strides[level]
    x = (torch.arange(width, device=scores.device) * step_x).to(scores.dtype)
    y = (torch.arange(height, device=scores.device) * step_y).to(scores.dtype)
    x, y = x[None, :].expand(height, width), y[:, None].expand(height, width)
    shifts = torch.stack([x, y, x, y], 2).reshape(-1, 1, 4)
    return (generator.base_anchors[level].to(scores) + shifts).reshape(-1, 4)


def decode(coder: Any, boxes: Tensor, deltas: Tensor, size: Size) -> Tensor:
    """``DeltaXYWHBBoxCoder.decode`` of mmdet: shift and scale boxes, (n, 4), and clip them to the image."""
    deltas = deltas * deltas.new_tensor(coder.stds) + deltas.new_tensor(coder.means)
    centres, sides = (boxes[:, :2] + boxes[:, 2:]) * 0.5, boxes[:, 2:] - boxes[:, :2]
    limit = abs(float(np.log(16 / 1000)))
    centres = centres + sides * deltas[:, :2]
    sides = sides * deltas[:, 2:].clamp(-limit, limit).exp()
    left, top = (centres - sides * 0.5).unbind(1)
    right, bottom = (centres + sides * 0.5).unbind(1)
    height, width = size
    clipped = left.clamp(0, width), top.clamp(0, height), right.clamp(0, width), bottom.clamp(0, height)
    return torch.stack(clipped, 1)


def refine(head: Any, boxes: Tensor, logits: Tensor, deltas: Tensor, size: Size) -> Tensor:
    """The boxes of a stage of a cascade for the next one: those of the likeliest class."""
    if not head.reg_class_agnostic:
        labels = logits[:, :-1].argmax(1)
        deltas = deltas.reshape(-1, head.num_classes, 4)[torch.arange(labels.shape[0], device=labels.device), labels]
    return decode(head.bbox_coder, boxes, deltas, size)


def suppress(boxes: Tensor, scores: Tensor, groups: Tensor, threshold: float) -> Tensor:
    """Non-maximum suppression among the boxes of each group, as ``batched_nms`` of mmcv.

    Returns:
        The indices of the boxes that are kept, by falling scores.
    """
    largest = torch.cat([boxes.flatten(), boxes.new_zeros(1)]).max()  # of no box, too
    return nms(boxes + (groups.to(boxes) * (largest + 1))[:, None], scores, threshold, 0, stable=True)


def extract(extractor: Any, features: Sequence[Tensor], boxes: Tensor) -> Tensor:
    """``SingleRoIExtractor`` of mmdet: RoIAlign of each box on the map that suits its size, (n, C, h, w)."""
    layers = extractor.roi_layers
    sides = boxes[:, 2:] - boxes[:, :2]
    scale = torch.sqrt(sides[:, 0] * sides[:, 1])
    levels = torch.log2(scale / extractor.finest_scale + 1e-6).floor().clamp(0, len(layers) - 1).long()
    rois = torch.cat([torch.zeros_like(boxes[:, :1]), boxes], 1)
    parts, order = [], []
    for level, (layer, feature) in enumerate(zip(layers, features[: len(layers)], strict=True)):
        chosen = (levels == level).nonzero()[:, 0]
        arguments = layer.spatial_scale, *layer.output_size, layer.sampling_ratio, layer.aligned
        parts.append(torch.ops.torchvision.roi_align(feature, rois[chosen], *arguments))
        order.append(chosen)
    return torch.cat(parts)[torch.cat(order).argsort()]
