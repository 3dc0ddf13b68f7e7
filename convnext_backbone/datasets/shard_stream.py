"""Images and labels out of webdataset shards, for data sets such as ImageNet-22K that are too large for a folder.

The samples of an epoch are numbered through its shuffled shards, and ranges of these positions are dealt to ranks and
workers: no sample is read twice or missed, whatever the number of shards, and a resumed pass is known in advance.
"""

import io
import itertools
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from mmengine.dist import get_rank, get_world_size
from torch.utils.data import IterableDataset, get_worker_info

from ..utils.errors import ArgumentError, UserError, printable
from ..utils.image_io import decode_image
from .seeded_loader import seed_all, seed_for
from .shard_files import Sample, expand_shards, find_lengths, import_webdataset, read_samples

_SHARDS, _BUFFER, _IMAGE = 1, 2, 3  # what a seed is for; not 0, which a seed sequence cannot tell from nothing


class ImageStream(IterableDataset):
    """Yields ``dict(inputs=transform(image), labels=int, broken='')`` from tar files that are read in order.

    All ranks yield the same number of samples with ``shuffle``, for which up to world size - 1 are left out, others
    each epoch; without it every sample comes once and ranks may differ by one. Batches are dealt to workers whole. The
    order depends on the seed, the epoch and the numbers of ranks, workers and samples in a batch.

    An image that cannot be decoded is named in ``broken``, as ``shard.tar/key``. With ``shuffle`` its neighbour takes
    its place, augmented another way; without it a black image does, with the label -1.

    Args:
        shards: A pattern such as ``/data/train-{000000..000099}.tar``, or a list of paths, addresses and patterns; all
            that webdataset opens (``https://``, ``pipe:`` and a command, ...).
        transform: Takes an RGB image of PIL and gives a tensor.
        seed: Of the order and of the augmentation.
        shard_lengths: The number of samples in each shard; by default out of the ``_info.json`` or ``info.json`` that
            timm's data sets have beside their shards, or counted, where the shards are local.
        shuffle: Whether to train: see above.
        shuffle_buffer: How many encoded images each worker holds at most, to choose the next one from.

    Raises:
        UserError: webdataset is not installed, a shard is missing or damaged, or its number of samples is not known.
        ArgumentError: The shards or their lengths cannot be meant.
    """

    def __init__(
        self,
        shards: str | Sequence[str],
        transform: Callable[[Any], torch.Tensor],
        seed: int = 0,
        shard_lengths: Sequence[int] | None = None,
        shuffle: bool = True,
        shuffle_buffer: int = 8192,
    ) -> None:
        self.shards = expand_shards(shards)
        self.shard_lengths = find_lengths(self.shards) if shard_lengths is None else list(shard_lengths)
        if len(self.shard_lengths) != len(self.shards):
            raise ArgumentError(
                f'shard_lengths has {len(self.shard_lengths)} numbers for {len(self.shards)} shards: give one for each.'
            )
        self.transform, self.seed = transform, seed
        self.shuffle, self.shuffle_buffer = shuffle, shuffle_buffer
        self._rank, self._world_size = get_rank(), get_world_size()  # workers have no process group to ask
        self._batch_size, self._drop_last, self._step = None, False, 1
        self._start = torch.zeros(2, dtype=torch.int64).share_memory_()  # persistent workers must see it change

    def set_batch_size(self, batch_size: int, drop_last: bool, step: int = 1) -> None:
        """Says what the data loader makes batches of, before it starts any worker.

        Args:
            batch_size: Images of a batch.
            drop_last: Whether a shorter last batch is left out.
            step: Batches of an optimizer step: with ``drop_last``, an epoch ends with its last whole step.
        """
        self._batch_size, self._drop_last, self._step = batch_size, drop_last, step

    def start_at(self, epoch: int, batch: int = 0) -> None:
        """Makes every next pass that of an epoch, from one of this rank's batches on, bit for bit as without a break.

        To be called before each ``iter(loader)``, in its process.
        """
        self._start.copy_(torch.tensor([epoch, batch]))

    def __len__(self) -> int:
        first, stop = self._range_of_rank()
        samples = stop - first
        # The loader divides it by the size of a batch.
        return self._batches(samples) * self._batch_size if self._drop_last else samples

    def __iter__(self) -> Iterator[dict]:
        info = get_worker_info()
        if info is not None and self._batch_size is None:
            raise RuntimeError('ImageStream.set_batch_size must be called before the data loader starts workers.')
        worker, workers = (info.id, info.num_workers) if info is not None else (0, 1)
        epoch, batch = self._start.tolist()  # at once, not with the first sample
        # The loader asks its workers in turn, beginning with the first: each takes the part of whoever would be next.
        skip, part = divmod(batch + worker, workers)
        return self._batches_of_part(epoch, part, workers, skip)

    def _range_of_rank(self) -> tuple[int, int]:
        """The positions of this rank, without the last."""
        total, rank, world_size = sum(self.shard_lengths), self._rank, self._world_size
        if self.shuffle:
            return total // world_size * rank, total // world_size * (rank + 1)
        return total * rank // world_size, total * (rank + 1) // world_size

    def _batches(self, samples: int) -> int:
        """How many batches so many samples make."""
        size = self._batch_size or 1
        return samples // size // self._step * self._step if self._drop_last else -(-samples // size)

    def _range_of_part(self, part: int, parts: int) -> tuple[int, int]:
        """The positions of one of the equal parts that a rank's batches are dealt into, without the last."""
        first, stop = self._range_of_rank()
        size = self._batch_size or 1
        batches = self._batches(stop - first)
        lacking = max(0, batches * size - (stop - first))  # in the last batch, which is the last of its part as well
        short = (batches - 1) % parts
        each, more = divmod(batches, parts)
        begin, end = (each * number + min(number, more) for number in (part, part + 1))
        return first + begin * size - lacking * (part > short), first + end * size - lacking * (part >= short)

    def _batches_of_part(self, epoch: int, part: int, parts: int, skip: int) -> Iterator[dict]:
        """The samples of a part from a batch on."""
        size = self._batch_size or 1
        samples = self._order(epoch, part, parts, skip * size)
        batches = iter(lambda: list(itertools.islice(samples, size)), [])
        for batch, following in itertools.pairwise(itertools.chain(batches, [[]])):
            for place, (position, sample) in enumerate(batch):
                # Nothing before this batch may stand in: after a resume it was not read.
                neighbours = batch[place + 1 :] + batch[:place] + following
                seed = seed_for(self.seed, _IMAGE, epoch, position)
                yield self._decode(sample, seed, (neighbour for _, neighbour in neighbours))

    def _order(self, epoch: int, part: int, parts: int, skip: int) -> Iterator[tuple[int, Sample]]:
        """The positions and samples of a part as they are yielded, from the ``skip``-th on.

        The shuffle buffer holds positions, so that it can be advanced without reading; samples are read when the first
        of them is needed and kept until it is their turn, never more of them than the buffer holds. Of what comes
        before ``skip``, all shards are left out but those of which a sample is still to come.
        """
        first, stop = self._range_of_part(part, parts)
        positions = iter(range(first, stop))
        if self.shuffle:
            draw = random.Random(seed_for(self.seed, _BUFFER, epoch, self._rank, part))
            shuffled = import_webdataset().shuffle(self.shuffle_buffer, initial=self.shuffle_buffer // 4, rng=draw)
            positions = shuffled(positions)
        wanted = np.ones(max(0, stop - first), bool)
        for position in itertools.islice(positions, skip):
            wanted[position - first] = False
        reader, waiting = self._read(epoch, first, wanted), {}
        for position in positions:
            while position not in waiting:
                found, sample = next(reader)
                waiting[found] = sample
            yield position, waiting.pop(position)

    def _read(self, epoch: int, first: int, wanted: np.ndarray) -> Iterator[tuple[int, Sample]]:
        """The wanted positions after the first, rising, with their samples."""
        order = np.arange(len(self.shards))
        if self.shuffle:
            np.random.default_rng(seed_for(self.seed, _SHARDS, epoch)).shuffle(order)
        start = -first  # of the shard, in `wanted`
        for shard in order:
            length = self.shard_lengths[shard]
            places = np.flatnonzero(wanted[max(0, start) : max(0, start + length)]) + max(0, start)
            if len(places):
                for place, sample in enumerate(read_samples(self.shards[shard], length, places[-1] - start + 1), start):
                    if place >= 0 and wanted[place]:
                        yield first + place, sample
            start += length

    def _decode(self, sample: Sample, seed: int, neighbours: Iterable[Sample]) -> dict:
        """What is yielded for a sample."""
        image, label, broken = _image(sample.image), sample.label, ''
        if image is None:
            broken = sample.name
            if self.shuffle:
                decoded = ((_image(neighbour.image), neighbour.label) for neighbour in neighbours)
                image, label = next((pair for pair in decoded if pair[0] is not None), (None, None))
            else:
                image, label = _image(None), -1
        if image is None:
            raise UserError(f'The image {printable(broken)} cannot be decoded, nor can its neighbours: write it anew.')
        seed_all(seed)
        return dict(inputs=self.transform(image), labels=label, broken=broken)


def _image(data: bytes | None) -> Any:
    """An encoded image in RGB, None if it is broken; a black one for None."""
    from PIL import Image

    try:
        return Image.new('RGB', (256, 256)) if data is None else decode_image(io.BytesIO(data))
    except Exception:  # of any type: OSError, SyntaxError, ValueError, struct.error, DecompressionBombError, ...
        return None
