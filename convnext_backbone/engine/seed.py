"""Seeds each training iteration by its number, so that a resumed run draws what an uninterrupted one draws."""

from typing import Any

import torch
from mmengine.dist import get_rank, get_world_size
from mmengine.hooks import Hook
from mmengine.runner import Runner

from ..datasets.seeded_loader import seed_all, seed_for


class IterationSeedHook(Hook):
    """Seeds each training iteration: stochastic depth, dropout, mixup, the sampling of proposals.

    It also tells a stream of data, which has no sampler, the position to start from.
    """

    priority = 'VERY_HIGH'

    def before_train_epoch(self, runner: Runner) -> None:
        """Set the position of a stream."""
        loader = runner.train_dataloader
        if hasattr(loader.dataset, 'start_at'):
            loader.dataset.seed = runner.seed
            loader.dataset.start_at(runner.epoch, runner.iter - runner.epoch * len(loader))

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        """Seed by the number of the batch among those of all processes."""
        # As one process that accumulates would number them: with one image in a batch it then draws the same.
        seed = seed_for(runner.seed, 0, runner.iter * get_world_size() + get_rank())
        seed_all(seed)
        torch.manual_seed(seed)  # of the other devices too
