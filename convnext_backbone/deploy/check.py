"""Check of an exported file: onnxruntime against the trained model, at other sizes than that of the export."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from ..utils.errors import UserError
from ..utils.image_io import read_image
from .__main__ import Model, prepare
from .networks import Network
from .onnx_file import EXAMPLE

SIZES = ((96, 128), (160, 96), (131, 203), (256, 320))  # of drawn pictures, none of them the example's
SCORE, PIXELS, MATCHED = 1e-4, 0.9999, 0.99  # tolerances: of scores, and of pixels and detections that agree
DETECTION = (0.5, 1e-3, 0.0, 1e-2)  # of one that agrees: pixels of its box, score, label, probabilities of its mask


def draw_inputs(model: Model) -> Iterator[np.ndarray]:
    """Smooth random network inputs, (3, H, W), of several sizes, or of the fixed one."""
    random = np.random.default_rng(0)
    for height, width in [model.meta['size']] * 2 if model.meta['size'] else SIZES:
        coarse = random.integers(0, 256, (height // 16, width // 16, 3), np.uint8)
        image = np.asarray(Image.fromarray(coarse).resize((width, height)), np.float32)
        yield ((image - 127) / 60 + random.normal(0, 0.1, image.shape)).astype(np.float32).transpose(2, 0, 1)


def load_inputs(model: Model, photos: Iterable[Path]) -> Iterator[np.ndarray]:
    """Network inputs of photographs, as of :func:`.prepare`."""
    for path in photos:
        yield prepare(model.meta, Image.fromarray(read_image(path)))


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
    compare = {'scores': _compare_scores, 'logits': _compare_logits}.get(network.outputs[0], compare_detections)
    agreed = total = number = 0
    worst = dict.fromkeys(network.outputs, 0.0)
    for image in inputs:
        height, width = image.shape[1:]
        if not model.meta['size'] and (height, width) == EXAMPLE:
            continue
        with torch.no_grad():
            found = network(torch.from_numpy(model.pad(image)[None]))
        expected = [one.numpy() for one in (found if isinstance(found, tuple) else [found])]
        equal, compared, errors = compare(expected, model(image))
        agreed, total, number = agreed + equal, total + compared, number + 1
        worst = {name: max(worst[name], error) for name, error in zip(worst, errors, strict=False)}
    least = {'scores': 1.0, 'logits': PIXELS}.get(network.outputs[0], MATCHED)
    if agreed < least * total:
        bounds = dict(zip(network.outputs, DETECTION, strict=False)) if len(worst) > 1 else {}
        name = max(worst, key=lambda key: worst[key] / max(bounds.get(key, 1), 1e-9))
        raise UserError(
            f'The export differs from the model: {100 * agreed / total:.2f} % of {total} results agree, and '
            f'{100 * least:g} % have to; worst is {name}, by {worst[name]:.2g}; no file is written.'
        )
    # Rounded, so that another run writes the same.
    return dict(
        inputs=number,
        agree=round(agreed / max(total, 1), 4),
        of=total,
        worst={k: float(f'{v:.0e}') for k, v in worst.items()},
    )


Compared = tuple[int, int, list[float]]  # how many agree, of how many, and the largest difference of each output


def _compare_scores(expected: list[np.ndarray], found: list[np.ndarray]) -> Compared:
    errors = np.abs(expected[0] - found[0])
    return int((errors <= SCORE).sum()), errors.size, [float(errors.max())]


def _compare_logits(expected: list[np.ndarray], found: list[np.ndarray]) -> Compared:
    same = expected[0].argmax(1) == found[0].argmax(1)
    return int(same.sum()), same.size, [float(np.abs(expected[0] - found[0]).max())]


def compare_detections(expected: list[np.ndarray], found: list[np.ndarray]) -> Compared:
    """Match detections one to one: those of almost equal scores may stand in another order."""
    matched, free, worst = 0, np.ones(len(found[0]), bool), [0.0] * len(expected)
    for i in range(len(expected[0]) if len(found[0]) else 0):
        away = np.stack(
            [np.abs(other - one[i]).reshape(len(other), -1).max(1) for one, other in zip(expected, found, strict=True)]
        )
        excess = (away / np.maximum(DETECTION[: len(away)], 1e-9)[:, None]).max(0)
        nearest = int(np.where(free, excess, np.inf).argmin())
        worst = np.maximum(worst, away[:, nearest]).tolist()
        if free[nearest] and excess[nearest] <= 1:
            free[nearest] = False
            matched += 1
    return matched, max(len(expected[0]), len(found[0])), worst
