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
        number: How many images are drawn, taken evenly from all: neighbours are often of one scene.
    """

    def __init__(self, number: int = 8) -> None:
        COUNT.check('number', number)
        self._number = number
        self._rows: list[np.ndarray] = []

    def _after_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None, mode: str = 'train'
    ) -> None:
        """Draw a batch's share of the images."""
        if mode == 'train' or not is_main_process():
            return
        batches = len(getattr(runner, f'{mode}_dataloader'))
        share = self._number * (batch_idx + 1) // batches - self._number * batch_idx // batches
        drawn = min(share, len(outputs))
        preprocessor = unwrap_model(runner).data_preprocessor
        for i in (len(outputs) * k // drawn for k in range(drawn)):
            found = outputs[i]
            reconstruction = to_pixels(found['reconstruction'], preprocessor.mean, preprocessor.std)
            image = to_pixels(data_batch['inputs'][i])
            self._rows.append(draw_reconstruction(image, found['mask'].cpu().numpy(), reconstruction))

    def _after_epoch(self, runner: Runner, mode: str = 'train') -> None:
        """Write the picture of an evaluation."""
        if mode != 'train' and self._rows:
            write_reconstructions(self._rows, Path(runner.work_dir) / 'reconstructions.png')
            self._rows = []
