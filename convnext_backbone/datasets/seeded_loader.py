"""Data loading whose randomness depends only on the seed and the position, so that a resumed run repeats it exactly.

Each sample's augmentation is seeded by (seed, epoch, position in the epoch over all ranks). No generator state has to
be saved or is lost with a killed worker, a resume skips batches without loading images, and two ranks see what one rank
with the same global batch would see.
"""

import itertools
import random
from collections.abc import Iterator
from typing import Any, cast

import numpy as np
import torch
from mmengine.dataset import InfiniteSampler
from mmengine.dist import get_rank, get_world_size
from torch.utils.data import BatchSampler, DataLoader, Dataset

from ..utils.errors import UserError


def seed_for(*position: int) -> int:
    """Derive a seed for a position, statistically independent of those of its neighbours."""
    return int(np.random.SeedSequence(position).generate_state(1)[0])


def seed_all(seed: int) -> None:
    """Seed Python, numpy and torch's CPU generator."""
    random.seed(seed)
    np.random.seed(seed)
    # torch.manual_seed looks at all devices, which takes most of a millisecond: too long for each image.
    torch.default_generator.manual_seed(seed)


class SeededDataset(Dataset):
    """Map-style dataset indexed by (index, seed): the seed determines the sample's augmentation."""

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset

    def __getitem__(self, key: tuple[int, int]) -> Any:
        index, seed = key
        seed_all(seed)
        return self.dataset[index]

    def __len__(self) -> int:
        return len(self.dataset)

    def __getattr__(self, name: str) -> Any:
        if name == 'dataset':  # while unpickling in a worker
            raise AttributeError(name)
        return getattr(self.dataset, name)


class SeededBatchSampler:
    """Batch sampler that adds a seed to each index, and skips the first batches after a resume.

    Args:
        batch_sampler: Chooses the indices.
        seed: Of the run.
        step: Batches of an optimizer step. A finite epoch ends with its last complete step, as in the official code:
            no gradient is left over where a checkpoint is written.

    Raises:
        UserError: An epoch is shorter than one step.
    """

    def __init__(self, batch_sampler: BatchSampler, seed: int, step: int = 1) -> None:
        self.batch_sampler = batch_sampler
        self.sampler: Any = getattr(batch_sampler, 'sampler', None)
        self.seed = seed
        self._skip = 0
        self._epoch: int | None = None
        self._end: int | None = None
        if not isinstance(self.sampler, InfiniteSampler):
            self._end = len(batch_sampler) // step * step
            if not self._end:
                raise UserError(
                    f'An epoch has {len(batch_sampler)} batches and an optimizer step takes {step}: lower '
                    f'auto_scale_lr.base_batch_size or train_dataloader.batch_size, or use more data.'
                )

    def start_at(self, batch: int, epoch: int | None = None) -> None:
        """Start the next pass at a batch, and in an epoch where the loop does not set it."""
        self._skip, self._epoch = batch, epoch

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        skip, self._skip = self._skip, 0
        if self._epoch is not None:
            self.sampler.set_epoch(self._epoch)
            self._epoch = None
        epoch, rank, world = getattr(self.sampler, 'epoch', 0), get_rank(), get_world_size()
        position = rank  # samplers deal the samples out to the ranks in turn
        for number, batch in enumerate(itertools.islice(self.batch_sampler, self._end)):
            if number >= skip:
                yield [(index, seed_for(self.seed, epoch, position + i * world)) for i, index in enumerate(batch)]
            position += len(batch) * world

    def __len__(self) -> int:
        return len(self.batch_sampler) if self._end is None else self._end


class SeededLoader(DataLoader):
    """Data loader over a :class:`SeededDataset` that starts its workers only with the first batch.

    So its start position can still be set after mmengine has built the training loop around it.
    """

    @classmethod
    def wrap(cls, loader: DataLoader, seed: int, step: int = 1) -> 'SeededLoader':
        """Make a loader repeatable; arguments as of :class:`SeededBatchSampler`."""
        kept = (
            'num_workers collate_fn pin_memory timeout worker_init_fn multiprocessing_context prefetch_factor'.split()
        )
        settings = {name: getattr(loader, name) for name in (*kept, 'persistent_workers')}
        sampler = SeededBatchSampler(cast(BatchSampler, loader.batch_sampler), seed, step)
        return cls(SeededDataset(loader.dataset), batch_sampler=cast(Any, sampler), **settings)

    def __iter__(self) -> Any:
        yield from super().__iter__()


class FastForwardIterator:
    """Iterator that is already at the position to which the engine's iteration-based loop will advance it.

    mmengine advances it by taking batches, onedl-mmengine by ``skip_iter``.
    """

    def __init__(self, iterator: Iterator, steps: int) -> None:
        self._iterator, self._idle = iterator, steps

    def __next__(self) -> Any:
        if self._idle:
            self._idle -= 1
            return None
        return next(self._iterator)

    def skip_iter(self, steps: int) -> None:
        """Advance by a number of batches."""
        self._idle -= steps
