"""Reconstructions of a masked autoencoder, drawn at each evaluation."""

from pathlib import Path
from typing import Any

import numpy as np
from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner

from ..evaluation.reconstruction_pictures import draw_reconstruction, to_pixels, write_reconstructions
from ..utils.validation import COUNT
from .fsdp import unwrap_model


@HOOKS.register_module()
class ReconstructionsHook(Hook):
    """Draws images of each evaluation, original, masked and reconstructed, to ``<work_dir>/reconstructions.png``.

    Args:
        number: How many images are drawn, the first ones.
    """

    def __init__(self, number: int = 8) -> None:
        COUNT.check('number', number)
        self._number = number
        self._rows: list[np.ndarray] = []

    def _after_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None, mode: str = 'train'
    ) -> None:
        """Draw images of a batch until there are enough."""
        missing = self._number - len(self._rows)
        if mode == 'train' or not is_main_process() or missing <= 0:
            return
        preprocessor = unwrap_model(runner).data_preprocessor
        for image, found in zip(data_batch['inputs'][:missing], outputs, strict=False):
            reconstruction = to_pixels(found['reconstruction'], preprocessor.mean, preprocessor.std)
            self._rows.append(draw_reconstruction(to_pixels(image), found['mask'].cpu().numpy(), reconstruction))

    def _after_epoch(self, runner: Runner, mode: str = 'train') -> None:
        """Write the picture of an evaluation."""
        if mode != 'train' and self._rows:
            write_reconstructions(self._rows, Path(runner.work_dir) / 'reconstructions.png')
            self._rows = []
