"""Randomness that depends on a position and on nothing else, so that a resumed run repeats what was lost to the bit.

Each sample's augmentation is seeded by (seed, epoch, its place in the epoch over all processes) and each batch by
(seed, its place among those of all processes). No generator state then has to be saved, none is lost in a worker
process that is killed, the batches before a checkpoint are skipped without loading a single image, and two processes
see what one with the same global batch would see.
"""

import itertools
import random
from collections.abc import Iterable, Iterator

import numpy as np
import torch
from mmengine.dataset import InfiniteSampler
from mmengine.dist import get_rank, get_world_size
from torch.utils.data import DataLoader, Dataset

from ..utils.errors import UserError


def seed_for(*position: int) -> int:
    """A seed for a position, statistically independent of those of its neighbours."""
    return int(np.random.SeedSequence(position).generate_state(1)[0])


def seed_all(seed: int) -> None:
    """Seeds Python, numpy and torch's generator on the CPU."""
    random.seed(seed)
    np.random.seed(seed)
    # torch.manual_seed, which looks at all devices, takes most of a millisecond: too long for each image.
    torch.default_generator.manual_seed(seed)


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


class SeededBatchSampler:
    """Gives each index of a batch sampler its seed; skips the first batches after a resume.

    Args:
        batch_sampler: What chooses the indices.
        seed: Of the run.
        step: Batches of an optimizer step. A finite epoch ends with its last whole step, as in the official code: no
            gradient is left over where a checkpoint is written.

    Raises:
        UserError: An epoch is shorter than one step.
    """

    def __init__(self, batch_sampler: Iterable[list[int]], seed: int, step: int = 1) -> None:
        self.batch_sampler = batch_sampler
        self.sampler = getattr(batch_sampler, 'sampler', None)
        self.seed = seed
        self._skip, self._epoch = 0, None
        self._end = None
        if not isinstance(self.sampler, InfiniteSampler):
            self._end = len(batch_sampler) // step * step
            if not self._end:
                raise UserError(
                    f'An epoch has {len(batch_sampler)} batches and an optimizer step takes {step}: lower '
                    f'auto_scale_lr.base_batch_size or train_dataloader.batch_size, or take more data.'
                )

    def start_at(self, batch: int, epoch: int | None = None) -> None:
        """Makes the next pass start at a batch, and in an epoch where nothing else sets it."""
        self._skip, self._epoch = batch, epoch

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        skip, self._skip = self._skip, 0
        if self._epoch is not None:
            self.sampler.set_epoch(self._epoch)
            self._epoch = None
        epoch, rank, world = getattr(self.sampler, 'epoch', 0), get_rank(), get_world_size()
        place = rank  # samplers deal the samples out to the processes in turn
        for number, batch in enumerate(itertools.islice(self.batch_sampler, self._end)):
            if number >= skip:
                yield [(index, seed_for(self.seed, epoch, place + i * world)) for i, index in enumerate(batch)]
            place += len(batch) * world

    def __len__(self) -> int:
        return len(self.batch_sampler) if self._end is None else self._end


class SeededLoader(DataLoader):
    """A data loader over a :class:`SeededDataset` that starts its workers with the first batch, not before.

    Being lazy, it can still be told where to go on after mmengine has built the training loop around it.
    """

    @classmethod
    def wrap(cls, loader: DataLoader, seed: int, step: int = 1) -> 'SeededLoader':
        """The same loader, made repeatable; arguments as of :class:`SeededBatchSampler`."""
        kept = ('num_workers', 'collate_fn', 'pin_memory', 'timeout', 'worker_init_fn', 'multiprocessing_context')
        kept += ('prefetch_factor', 'persistent_workers')
        sampler = SeededBatchSampler(loader.batch_sampler, seed, step)
        return cls(
            SeededDataset(loader.dataset), batch_sampler=sampler, **{name: getattr(loader, name) for name in kept}
        )

    def __iter__(self) -> Iterator:
        yield from super().__iter__()


class FastForwardIterator:
    """The iterator of an iteration-based loop, at the place already to which the loop will advance it.

    mmengine advances it by taking batches, onedl-mmengine by ``skip_iter``.
    """

    def __init__(self, iterator: Iterator, steps: int) -> None:
        self._iterator, self._idle = iterator, steps

    def __next__(self) -> object:
        if self._idle:
            self._idle -= 1
            return None
        return next(self._iterator)

    def skip_iter(self, steps: int) -> None:
        """Advances by so many batches."""
        self._idle -= steps
