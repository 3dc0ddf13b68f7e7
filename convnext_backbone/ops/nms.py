"""Non-maximum suppression of boxes and lanes, and the overlaps of boxes."""

from functools import lru_cache

import numpy as np
import torch
import torchvision  # noqa: F401  registers torch.ops.torchvision
from torch import Tensor

from .precision import widen

LANE_POINTS = 72  # of a lane of CLRNet (arXiv 2203.10350), which come after its five other values


def nms(boxes: Tensor, scores: Tensor, iou_threshold: float, offset: int, stable: bool = False) -> Tensor:
    """Greedy suppression of boxes that overlap a better one.

    Args:
        boxes: (N, 4) as x1, y1, x2, y2.
        scores: (N,).
        iou_threshold: Boxes with a larger overlap are suppressed.
        offset: 1 where the last pixel belongs to a box, 0 where it does not.
        stable: Whether the first of equal scores is the better one. mmcv takes them as torch's sort leaves them.

    Returns:
        The indices of the boxes that are kept, by falling scores.
    """
    boxes = widen(boxes)
    if offset:
        boxes = boxes + boxes.new_tensor([0, 0, offset, offset])
    # Of its own, torchvision's NMS is always stable.
    order = scores.sort(dim=0, descending=True, stable=stable)[1]
    ranks = torch.arange(order.shape[0], 0, -1, dtype=boxes.dtype, device=boxes.device)
    return order[torch.ops.torchvision.nms(boxes[order], ranks, _as_float32(iou_threshold))]


@lru_cache
def _as_float32(threshold: float) -> float:
    """A threshold as mmcv compares with it: an overlap of exactly 0.6 in fp32 is above the double 0.6."""
    return float(np.float32(threshold))


def softnms(
    boxes: Tensor,
    scores: Tensor,
    dets: Tensor,
    iou_threshold: float,
    sigma: float,
    min_score: float,
    method: int,
    offset: int,
) -> Tensor:
    """Soft-NMS (arXiv 1704.04503): lowers the scores of boxes that overlap a better one.

    Args:
        boxes: (N, 4), on the CPU.
        scores: (N,).
        dets: (N, 5), filled with the boxes that are kept and their new scores.
        iou_threshold: From which overlap on the first two methods lower a score.
        sigma: The width of the third method's Gaussian.
        min_score: Boxes with a lower score are dropped.
        method: 0 drops, 1 multiplies by 1 - overlap, 2 by a Gaussian of the overlap.
        offset: As for :func:`nms`.

    Returns:
        The indices of the boxes that are kept, in the order of ``dets``.
    """
    corners = widen(boxes).numpy().copy()
    left = widen(scores).numpy().copy()
    indices, count = np.arange(len(left)), len(left)
    rows = corners, left, indices
    kept = dets.numpy()
    best = 0
    while best < count:
        if not np.isnan(left[best]):  # no score is higher than one that is not a number, and such a one than no other
            _swap(rows, best, best + int(np.nanargmax(left[best:count])))
        kept[best, :4], kept[best, 4] = corners[best], left[best]
        rest = slice(best + 1, count)
        overlap = _overlaps(corners[best], corners[rest], offset)
        left[rest] *= _decay(overlap, np.float32(iou_threshold), np.float32(sigma), method)
        count = _drop(rows, left[rest] < np.float32(min_score), best + 1, count)
        best += 1
    return torch.from_numpy(indices[:count].copy())


def _swap(rows: tuple[np.ndarray, ...], i: int, j: int) -> None:
    for array in rows:
        array[[i, j]] = array[[j, i]]


def _decay(overlap: np.ndarray, threshold: np.float32, sigma: np.float32, method: int) -> np.ndarray:
    if method == 2:
        return np.exp(-(overlap * overlap) / sigma)
    return np.where(overlap >= threshold, 1 - overlap if method == 1 else np.zeros_like(overlap), np.ones_like(overlap))


def _drop(rows: tuple[np.ndarray, ...], dropped: np.ndarray, first: int, last: int) -> int:
    """Fills the place of each dropped row from the end, as mmcv does: the order decides between equal scores later."""
    end = last - int(dropped.sum())
    holes = first + np.flatnonzero(dropped[: end - first])
    fillers = end + np.flatnonzero(~dropped[end - first :])[::-1]
    for array in rows:
        array[holes] = array[fillers]
    return end


def nms_match(dets: Tensor, iou_threshold: float) -> list[list[int]]:
    """Greedy suppression that tells which boxes each kept one has suppressed.

    Args:
        dets: (N, 5), boxes with scores, on the CPU.
        iou_threshold: From which overlap on a box is suppressed.

    Returns:
        A list for each box that is kept: its index, then those that it suppressed, by falling scores.
    """
    array = widen(dets).numpy()
    order = dets[:, 4].sort(0, descending=True)[1].numpy()
    groups = []
    while len(order):
        overlap = _overlaps(array[order[0]], array[order[1:]], 0)
        matched = np.concatenate([[True], overlap >= np.float32(iou_threshold)])
        groups.append(order[matched].tolist())
        order = order[~matched]
    return groups


def _overlaps(box: np.ndarray, boxes: np.ndarray, offset: int) -> np.ndarray:
    """Intersection over union of one box with others; not a number where both have no area, as in mmcv."""
    low, high = np.maximum(box[:2], boxes[:, :2]), np.minimum(box[2:4], boxes[:, 2:4])
    intersection = (high - low + offset).clip(0).prod(1)
    areas = (boxes[:, 2:4] - boxes[:, :2] + offset).prod(1)
    with np.errstate(invalid='ignore', divide='ignore'):
        return intersection / ((box[2:4] - box[:2] + offset).prod() + areas - intersection)


def bbox_overlaps(bboxes1: Tensor, bboxes2: Tensor, ious: Tensor, mode: int, aligned: bool, offset: int) -> None:
    """Overlaps of boxes.

    Args:
        bboxes1: (M, 4).
        bboxes2: (N, 4).
        ious: (M, N), or (M,) where aligned; filled.
        mode: 0 for intersection over union, 1 for intersection over the area of the first box.
        aligned: Row by row in the place of each with each.
        offset: As for :func:`nms`.
    """
    first, second = widen(bboxes1), widen(bboxes2)
    if not aligned:
        first = first[:, None]
    low, high = torch.maximum(first[..., :2], second[..., :2]), torch.minimum(first[..., 2:], second[..., 2:])
    intersection = (high - low + offset).clamp(min=0).prod(-1)
    area = (first[..., 2:] - first[..., :2] + offset).prod(-1)
    if mode == 0:
        area = area + (second[..., 2:] - second[..., :2] + offset).prod(-1) - intersection
    ious.copy_(intersection / area)


def line_nms_forward(lanes: Tensor, scores: Tensor, overlap: float, top_k: int) -> list[Tensor]:
    """Greedy suppression of lanes (CLRNet, arXiv 2203.10350): by the mean distance where both lanes have points.

    Args:
        lanes: (N, 77): two values, the start, one value, the length, and 72 positions along the lane.
        scores: (N,).
        overlap: Lanes that are nearer than this are suppressed.
        top_k: At most so many are kept.

    Returns:
        The indices of the lanes that are kept, padded to N by zeros; their number; and for each lane the place, from
        1 on, of the last one kept that it is near to, or 0.
    """
    table, order = widen(lanes).cpu().numpy(), scores.sort(0, descending=True)[1].cpu().numpy()
    keep: list[int] = []
    parents, removed = np.zeros(len(order), np.int64), np.zeros(len(order), bool)
    for place, index in enumerate(order):
        if removed[place] or len(keep) == top_k:
            continue
        keep.append(index)
        near = np.array([_lanes_are_near(table[index], table[other], overlap) for other in order[place + 1 :]], bool)
        removed[place + 1 :] |= near
        parents[index] = parents[order[place + 1 :][near]] = len(keep)
    padded = np.array(keep + [0] * (len(order) - len(keep)), np.int64)
    return [torch.from_numpy(array).to(lanes.device) for array in (padded, np.array(len(keep)), parents)]


def _lanes_are_near(a: np.ndarray, b: np.ndarray, overlap: float) -> bool:
    starts = [int(lane[2] * (LANE_POINTS - 1) + 0.5) for lane in (a, b)]
    start = max(starts)
    end = min(LANE_POINTS - 1, *(first + int(lane[4]) - 1 for first, lane in zip(starts, (a, b), strict=True)))
    if start < 0 or end < start:
        return False
    points = slice(5 + start, 6 + end)
    return bool(np.abs(a[points] - b[points]).sum() < overlap * (end - start + 1))
