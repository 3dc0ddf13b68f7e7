"""From a config and a checkpoint to one file: build, refuse what is unknown, write, and check before it is kept."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.config import Config
from tqdm import tqdm

from ..apis.builders import build_classifier, build_detector, build_segmentor
from ..config.recipes import task_of
from ..utils.errors import UserError
from ..utils.files import replaced_atomically
from .__main__ import Model
from .check import check_export, draw_inputs, load_inputs, measure_cost
from .metadata import describe
from .onnx_file import export_network, write_metadata
from .precision import quantize, store_half
from .supported import build_network

# The share of results that fewer bits may not change, and what to do if they change more.
HALF = 0.95, 'export it without --half'
INT8 = 0.75, 'calibrate with more photographs of the kind that is to be predicted, or export it without --int8'
_BUILDERS = {'classification': build_classifier, 'segmentation': build_segmentor, 'detection': build_detector}


def export_model(
    cfg: Config,
    checkpoint: str,
    path: Path,
    size: tuple[int, int] | None = None,
    photos: Sequence[Path] = (),
    score_thr: float = 0.3,
    licence: str = '',
    half: bool = False,
    calibration: Sequence[Path] = (),
) -> dict[str, Any]:
    """Export a trained model to an ONNX file, which is kept if it agrees with the model.

    Args:
        cfg: Config of a classifier, a segmentor or a detector.
        checkpoint: Its weights.
        path: Of the file.
        size: Fixed height and width of the network's input, for runtimes that need it; by default they are free.
        photos: Images that the file is checked with, besides drawn ones.
        score_thr: Least score of a detection that the runner reports.
        licence: Of the weights, for the metadata.
        half: Whether weights are stored in fp16.
        calibration: Photographs; with some, linear layers are quantized to int8.

    Returns:
        The metadata of the file; ``check`` is what :func:`.check_export` measured before, and ``cost`` what
        :func:`.measure_cost` did after weights got fewer bits.

    Raises:
        UserError: The model is none of the kinds that are computed exactly, does not fit into a file, or the file
            differs from it.
    """
    if (task := task_of(cfg)) not in _BUILDERS:
        raise UserError(
            f'{cfg.filename} is for pre-training, whose model predicts nothing: train a classifier, a segmentor or a '
            f'detector from its weights, and export that.'
        )
    model = _BUILDERS[task](cfg, checkpoint).cpu()
    network = build_network(model)
    about = {**describe(model, cfg, size, score_thr), 'licence': licence, 'precision': 'fp32', 'cost': None}
    with replaced_atomically(path) as temporary:
        export_network(network, temporary, size)
        write_metadata(temporary, about)
        exported = Model(temporary)
        inputs: Iterable[np.ndarray] = [*draw_inputs(exported), *load_inputs(exported, photos)]
        about['check'] = check_export(network, exported, inputs)
        if half:
            store_half(temporary)
            about['precision'] = 'fp16 weights'
        elif calibration:
            shown = tqdm(calibration, 'Calibration', unit=' photographs')
            quantize(temporary, map(exported.pad, load_inputs(exported, shown)))
            inputs = load_inputs(exported, tqdm(photos or calibration, 'What it costs'))
            about['precision'] = f'int8 linear layers, by {len(calibration)} photographs'
        write_metadata(temporary, about)
        if half or calibration:
            about['cost'] = measure_cost(network, Model(temporary), inputs, *(HALF if half else INT8))
            write_metadata(temporary, about)
    return about
