"""Seeds each iteration of a training by its number, so that a resumed run draws what an undisturbed one draws."""

import torch
from mmengine.dist import get_rank, get_world_size
from mmengine.hooks import Hook

from ..datasets.seeded_loader import seed_all, seed_for


class IterationSeedHook(Hook):
    """Seeds each training iteration: stochastic depth, dropout, mixup, the random sampling of proposals.

    It also tells a stream of data, which has no sampler, where to begin.
    """

    priority = 'VERY_HIGH'

    def before_train_epoch(self, runner: object) -> None:
        """Sets the place of a stream."""
        loader = runner.train_dataloader
        if hasattr(loader.dataset, 'start_at'):
            loader.dataset.seed = runner.seed
            loader.dataset.start_at(runner.epoch, runner.iter - runner.epoch * len(loader))

    def before_train_iter(self, runner: object, batch_idx: int, data_batch: object = None) -> None:
        """Seeds by the number of the batch among those of all processes."""
        # As one process that accumulates would number them: with one image in a batch it then draws the same.
        seed = seed_for(runner.seed, 0, runner.iter * get_world_size() + get_rank())
        seed_all(seed)
        torch.manual_seed(seed)  # of the other devices too
