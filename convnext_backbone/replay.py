"""Randomness that depends on a position and on nothing else, so that a resumed run repeats what was lost to the bit.

Each sample's augmentation is seeded by (seed, rank, epoch, batch, place in the batch) and each training iteration by
(seed, rank, iteration). No generator state then has to be saved, none is lost in a worker process that is killed, and
the batches before a checkpoint are skipped without loading a single image.
"""

import random
from collections.abc import Iterable, Iterator

import numpy as np
import torch
from mmengine.dist import get_rank
from mmengine.hooks import Hook
from torch.utils.data import DataLoader, Dataset


def seed_by(*position: int) -> int:
    """A seed for a position, statistically independent of those of its neighbours."""
    return int(np.random.SeedSequence(position).generate_state(1)[0])


def seed_all(seed: int) -> None:
    """Seeds Python, numpy and torch."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


class SeededDataset(Dataset):
    """A map-style dataset that takes (index, seed) and draws that sample's augmentation from the seed."""

    def __init__(self, dataset: Dataset) -> None:
        self.dataset = dataset

    def __getitem__(self, key: tuple[int, int]) -> object:
        index, seed = key
        seed_all(seed)
        return self.dataset[index]

    def __len__(self) -> int:
        return len(self.dataset)

    def __getattr__(self, name: str) -> object:
        if name == 'dataset':  # while unpickling in a worker
            raise AttributeError(name)
        return getattr(self.dataset, name)


class ReplayBatchSampler:
    """Gives each index of a batch sampler its seed; skips the first batches after a resume."""

    def __init__(self, batch_sampler: Iterable[list[int]], seed: int) -> None:
        self.batch_sampler = batch_sampler
        self.sampler = getattr(batch_sampler, 'sampler', None)
        self.seed = seed
        self._skip, self._epoch = 0, None

    def start_at(self, batch: int, epoch: int | None = None) -> None:
        """Makes the next pass start at a batch, and in an epoch where nothing else sets it."""
        self._skip, self._epoch = batch, epoch

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        skip, self._skip = self._skip, 0
        if self._epoch is not None:
            self.sampler.set_epoch(self._epoch)
            self._epoch = None
        epoch, rank = getattr(self.sampler, 'epoch', 0), get_rank()
        for number, batch in enumerate(self.batch_sampler):
            if number >= skip:
                yield [(index, seed_by(self.seed, rank, epoch, number, place)) for place, index in enumerate(batch)]

    def __len__(self) -> int:
        return len(self.batch_sampler)


class ReplayLoader(DataLoader):
    """A data loader over a :class:`SeededDataset` that starts its workers with the first batch, not before.

    Being lazy, it can still be told where to go on after mmengine has built the training loop around it.
    """

    @classmethod
    def wrap(cls, loader: DataLoader, seed: int) -> 'ReplayLoader':
        """The same loader, made repeatable."""
        kept = ('num_workers', 'collate_fn', 'pin_memory', 'timeout', 'worker_init_fn', 'multiprocessing_context')
        kept += ('prefetch_factor', 'persistent_workers')
        sampler = ReplayBatchSampler(loader.batch_sampler, seed)
        return cls(
            SeededDataset(loader.dataset), batch_sampler=sampler, **{name: getattr(loader, name) for name in kept}
        )

    def __iter__(self) -> Iterator:
        yield from super().__iter__()


class IterationSeedHook(Hook):
    """Seeds each training iteration: stochastic depth, dropout, the random sampling of proposals."""

    priority = 'VERY_HIGH'

    def __init__(self) -> None:
        self._rank = get_rank()

    def before_train_iter(self, runner: object, batch_idx: int, data_batch: object = None) -> None:
        """Seeds by (seed, rank, iteration)."""
        seed_all(seed_by(runner.seed, self._rank, runner.iter))
