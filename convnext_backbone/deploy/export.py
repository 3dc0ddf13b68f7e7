"""From a config and a checkpoint to one file: build, refuse what is unknown, write, and check before it is kept."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mmengine.config import Config

from ..apis.builders import build_classifier, build_detector, build_segmentor
from ..config.recipes import task_of
from ..utils.errors import UserError
from ..utils.files import replaced_atomically
from .__main__ import Model
from .check import check_export, draw_inputs, load_inputs
from .metadata import describe
from .onnx_file import export_network, write_metadata
from .supported import build_network

_BUILDERS = {'classification': build_classifier, 'segmentation': build_segmentor, 'detection': build_detector}


def export_model(
    cfg: Config,
    checkpoint: str,
    path: Path,
    size: tuple[int, int] | None = None,
    photos: Sequence[Path] = (),
    score_thr: float = 0.3,
    licence: str = '',
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

    Returns:
        The metadata of the file; ``check`` is what :func:`.check_export` measured.

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
    about = {**describe(model, cfg, size, score_thr), 'licence': licence}
    with replaced_atomically(path) as temporary:
        export_network(network, temporary, size)
        write_metadata(temporary, about)
        exported = Model(temporary)
        inputs = [*draw_inputs(exported), *load_inputs(exported, photos)]
        about['check'] = check_export(network, exported, inputs)
        write_metadata(temporary, about)
    return about
