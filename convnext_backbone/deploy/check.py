"""Check of an exported file: onnxruntime against the trained model, at other sizes than that of the export."""

import functools
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torchvision.ops import box_iou

from ..utils.errors import UserError
from ..utils.image_io import read_image
from .__main__ import Model, Size, paste_mask, prepare, slide
from .networks import Network
from .onnx_file import EXAMPLE

SIZES = ((96, 128), (160, 96), (131, 203), (256, 320))  # of drawn pictures, none of them the example's
SCORE, PIXELS, MATCHED = 1e-4, 0.9999, 0.99  # tolerances: of scores, and of pixels and detections that agree
DETECTION = (0.5, 1e-3, 0.0, 1e-2)  # of one that agrees: pixels of its box, score, label, what its masks do not share
OVERLAP = 0.75  # of the boxes of one object that files of different precision find
SURE = 0.3  # score of an object that both have to find, whatever is reported


def draw_inputs(model: Model) -> Iterator[np.ndarray]:
    """Smooth random network inputs, (3, H, W), of several sizes, or of the fixed one."""
    random = np.random.default_rng(0)
    for height, width in [model.meta['size']] * 2 if model.meta['size'] else SIZES:
        coarse = random.integers(0, 256, (height // 16, width // 16, 3), np.uint8)
        image = np.asarray(Image.fromarray(coarse).resize((width, height)), np.float32)
        yield ((image - 127) / 60 + random.normal(0, 0.1, image.shape)).astype(np.float32).transpose(2, 0, 1)


def load_inputs(model: Model, photos: Iterable[Path]) -> Iterator[np.ndarray]:
    """Network inputs of photographs, as of :func:`.prepare`; of a segmentor that slides, its windows."""
    for path in photos:
        image = prepare(model.meta, Image.fromarray(read_image(path)))
        parts: list[np.ndarray] = []

        def keep(part: np.ndarray, parts: list = parts) -> np.ndarray:
            parts.append(part)
            return part

        if model.meta['window']:
            slide(keep, image, model.meta['window'], model.meta['stride'])
        yield from parts or [image]


def check_export(network: Network, model: Model, inputs: Iterable[np.ndarray]) -> dict[str, Any]:
    """Compare a file with the network that it was exported from.

    Args:
        network: As of :func:`.build_network`.
        model: The file.
        inputs: Normalized images, (3, H, W).

    Returns:
        ``inputs``: their number; ``agree``: the share of scores, pixels or detections that are equal within the
        tolerance; ``of``: their number; ``worst``: the largest difference of each output.

    Raises:
        UserError: Less agree than is tolerated; the text names the worst output.
    """
    detections = functools.partial(compare_detections, threshold=model.meta.get('mask_thr', 0.5))
    compare = {'scores': _compare_scores, 'logits': _compare_logits}.get(network.outputs[0], detections)
    report = _compare_outputs(network, model, inputs, compare)
    least = {'scores': 1.0, 'logits': PIXELS}.get(network.outputs[0], MATCHED)
    if report['agree'] < least:
        worst = report['worst']
        bounds = dict(zip(network.outputs, DETECTION, strict=False)) if len(worst) > 1 else {}
        name = max(worst, key=lambda key: worst[key] / max(bounds.get(key, 1), 1e-9))
        raise UserError(
            f'The export differs from the model: {100 * report["agree"]:.2f} % of {report["of"]} results agree, and '
            f'{100 * least:g} % have to; worst is {name}, by {worst[name]:.2g}; no file is written.'
        )
    return _rounded(report)


def measure_cost(
    network: Network, model: Model, inputs: Iterable[np.ndarray], least: float, remedy: str
) -> dict[str, Any]:
    """Count what a file of fewer bits finds as its model does: best classes of images or pixels, and objects.

    Args:
        network: As of :func:`.build_network`, in fp32.
        model: The file.
        inputs: Normalized images, (3, H, W).
        least: The share that has to agree.
        remedy: What to do if less does.

    Returns:
        As :func:`check_export`; of detections those count that the runner reports, from a score of 0.3 on. ``worst`` is
        that of scores and logits.

    Raises:
        UserError: Less agree.
    """
    score = max(model.meta.get('score_thr', 0.0), SURE)

    def compare_objects(*sides: list[np.ndarray]) -> Compared:
        return _match_objects(*([one[side[1] >= score] for one in side] for side in sides))

    compare = {'scores': _compare_best, 'logits': _compare_logits}.get(network.outputs[0], compare_objects)
    report = _compare_outputs(network, model, inputs, compare)
    if report['agree'] < least:
        raise UserError(
            f'Fewer bits cost too much: {100 * report["agree"]:.1f} % of {report["of"]} results are those of the '
            f'model, and {100 * least:g} % have to be; no file is written: {remedy}.'
        )
    return _rounded(report)


def _compare_outputs(network: Network, model: Model, inputs: Iterable[np.ndarray], compare: Callable) -> dict[str, Any]:
    agreed = total = number = 0
    worst: dict[str, float] = {}
    for image in inputs:
        height, width = image.shape[1:]
        if not model.meta['size'] and (height, width) == EXAMPLE:
            continue
        with torch.no_grad():
            found = network(torch.from_numpy(model.pad(image)[None]))
        expected = [one.numpy() for one in (found if isinstance(found, tuple) else [found])]
        equal, compared, errors = compare(expected, model(image))
        agreed, total, number = agreed + equal, total + compared, number + 1
        worst = {name: max(worst.get(name, 0.0), e) for name, e in zip(network.outputs, errors, strict=False)}
    return dict(inputs=number, agree=agreed / total if total else 1.0, of=total, worst=worst)


def _rounded(report: dict[str, Any]) -> dict[str, Any]:
    """The same report of another run, whose last digits are others."""
    worst = {name: float(f'{error:.0e}') for name, error in report['worst'].items()}
    return {**report, 'agree': round(report['agree'], 4), 'worst': worst}


Compared = tuple[int, int, list[float]]  # how many agree, of how many, and the largest difference of each output


def _compare_scores(expected: list[np.ndarray], found: list[np.ndarray]) -> Compared:
    errors = np.abs(expected[0] - found[0])
    return int((errors <= SCORE).sum()), errors.size, [float(errors.max())]


def _compare_logits(expected: list[np.ndarray], found: list[np.ndarray]) -> Compared:
    same = expected[0].argmax(1) == found[0].argmax(1)
    return int(same.sum()), same.size, [float(np.abs(expected[0] - found[0]).max())]


def _compare_best(expected: list[np.ndarray], found: list[np.ndarray]) -> Compared:
    same = expected[0].argmax(1) == found[0].argmax(1)
    return int(same.sum()), same.size, [float(np.abs(expected[0] - found[0]).max())]


def _match_objects(expected: list[np.ndarray], found: list[np.ndarray]) -> Compared:
    """Match objects one to one: of the same class, the boxes share :data:`OVERLAP` of their union."""
    overlaps = box_iou(torch.from_numpy(expected[0]), torch.from_numpy(found[0])).numpy()
    overlaps[expected[2][:, None] != found[2][None]] = 0
    matched = 0
    for row in overlaps if overlaps.size else ():
        best = row.argmax()
        if row[best] >= OVERLAP:
            matched += 1
            overlaps[:, best] = 0
    return matched, max(len(expected[0]), len(found[0])), []


def compare_detections(expected: list[np.ndarray], found: list[np.ndarray], threshold: float = 0.5) -> Compared:
    """Match detections one to one: those of almost equal scores may stand in another order.

    Args:
        expected: Boxes, (n, 4), scores and labels, (n,), and the probabilities of the masks, (n, h, w), if there are.
        found: The same of the file.
        threshold: Least probability of an object's pixel. Masks are compared as they are pasted: by 1 - IoU.
    """
    matched, free, worst = 0, np.ones(len(found[0]), bool), [0.0] * len(expected)
    bounds = np.maximum(DETECTION[: len(expected)], 1e-9)
    for i in range(len(expected[0])):
        if not free.any():
            break
        pairs = zip(expected[:3], found[:3], strict=True)
        away = np.stack([np.abs(other - one[i]).reshape(len(other), -1).max(1) for one, other in pairs], 1)
        nearest = int(np.where(free, (away / bounds[:3]).max(1), np.inf).argmin())
        errors = away[nearest].tolist()
        if len(expected) > 3:
            width, height = np.ceil(np.maximum(expected[0][i], found[0][nearest])).astype(int)[2:].tolist()
            one, other = (
                _paste(masks[k], boxes[k], (height + 1, width + 1), threshold)
                for (boxes, _, _, masks), k in ((expected, i), (found, nearest))
            )
            errors.append(float((one ^ other).sum() / max(1, (one | other).sum())))
        worst = np.maximum(worst, errors).tolist()
        if (np.array(errors) <= bounds).all():
            free[nearest] = False
            matched += 1
    return matched, max(len(expected[0]), len(found[0])), worst


def _paste(mask: np.ndarray, box: np.ndarray, size: Size, threshold: float) -> np.ndarray:
    pixels, left, top = paste_mask(mask, box, size, size, threshold)
    image = np.zeros(size, bool)
    image[top : top + pixels.shape[0], left : left + pixels.shape[1]] = pixels
    return image
