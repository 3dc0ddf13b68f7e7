"""Streaming of webdataset shards, for data sets such as ImageNet-22K that are too large for a folder.

The samples of an epoch are numbered across its shuffled shards, and ranges of these positions are assigned to ranks and
workers: no sample is read twice or missed, whatever the number of shards, and a resume can skip without reading.
"""

import contextlib
import io
import itertools
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from mmengine.dist import get_rank, get_world_size
from torch.utils.data import IterableDataset, get_worker_info

from ..utils.errors import ArgumentError, UserError, printable
from ..utils.image_io import decode_image
from .seeded_loader import seed_all, seed_for
from .shard_files import Sample, expand_shards, find_lengths, import_webdataset, read_samples

if TYPE_CHECKING:
    from PIL.Image import Image

_SHARDS, _BUFFER, _IMAGE = 1, 2, 3  # purpose of a seed; not 0, which a seed sequence cannot tell from nothing


class ImageStream(IterableDataset):
    """Stream of ``dict(inputs=transform(image), labels=int, names=str, broken='')`` from tar files, read sequentially.

    With ``shuffle`` all ranks yield the same number of samples, so that up to world size - 1 are left out, others each
    epoch; without it every sample is yielded once and ranks may differ by one. The order depends on the seed, the
    epoch, the batch size and the numbers of ranks and workers.

    An image is named ``shard.tar/key``. One that cannot be decoded is named in ``broken``: with ``shuffle`` a neighbour
    replaces it, augmented differently; without it a black image does, with the label -1.

    Args:
        shards: A pattern such as ``/data/train-{000000..000099}.tar``, or a list of paths, URLs and patterns; anything
            that webdataset opens (``https://``, ``pipe:`` and a command, ...).
        transform: Converts a PIL image to a tensor.
        seed: Of order and augmentation.
        shard_lengths: The number of samples of each shard; by default from the ``_info.json`` or ``info.json`` that
            timm's data sets have beside their shards, or counted if the shards are local.
        shuffle: Whether to shuffle, for training.
        shuffle_buffer: The number of encoded images among which each worker chooses the next one.
        labelled: Whether the samples have labels. Without, they have no ``labels``, and a neighbour always replaces an
            image that cannot be decoded.

    Raises:
        UserError: webdataset is not installed, a shard is missing or corrupt, or its number of samples is unknown.
        ArgumentError: The shards or their lengths are invalid.
    """

    def __init__(
        self,
        shards: str | Sequence[str],
        transform: Callable[[Any], torch.Tensor],
        seed: int = 0,
        shard_lengths: Sequence[int] | None = None,
        shuffle: bool = True,
        shuffle_buffer: int = 8192,
        labelled: bool = True,
    ) -> None:
        self.shards = expand_shards(shards)
        self.shard_lengths = find_lengths(self.shards) if shard_lengths is None else list(shard_lengths)
        if len(self.shard_lengths) != len(self.shards):
            raise ArgumentError(
                f'shard_lengths has {len(self.shard_lengths)} numbers for {len(self.shards)} shards: give one for each.'
            )
        self.transform, self.seed = transform, seed
        self.shuffle, self.shuffle_buffer, self.labelled = shuffle, shuffle_buffer, labelled
        self._rank, self._world_size = get_rank(), get_world_size()  # workers have no process group to ask
        self.metainfo: dict[str, Any] = dict(classes=())
        self._batch_size: int | None = None
        self._drop_last, self._step = False, 1
        self._start = torch.zeros(2, dtype=torch.int64).share_memory_()  # persistent workers must see it change

    def set_batch_size(self, batch_size: int, drop_last: bool, step: int = 1) -> None:
        """Tell the stream how the data loader will batch it; call before any worker starts.

        With ``drop_last`` an epoch ends with its last complete optimizer step, of ``step`` batches.
        """
        self._batch_size, self._drop_last, self._step = batch_size, drop_last, step

    def start_at(self, epoch: int, batch: int = 0) -> None:
        """Start the next pass at a batch of an epoch; what follows is bit for bit that of an uninterrupted pass.

        Call before each ``iter(loader)``, in the loader's process.
        """
        self._start.copy_(torch.tensor([epoch, batch]))

    def __len__(self) -> int:
        samples = len(self._positions_of_rank())
        # The loader divides it by the batch size.
        return self._batches(samples) * (self._batch_size or 1) if self._drop_last else samples

    def __iter__(self) -> Iterator[dict]:
        info = get_worker_info()
        if info is not None and self._batch_size is None:
            raise RuntimeError('ImageStream.set_batch_size must be called before the data loader starts workers.')
        worker, workers = (info.id, info.num_workers) if info is not None else (0, 1)
        epoch, batch = self._start.tolist()  # read now, not with the first sample
        # The loader asks its workers in turn, starting with the first: each takes the part that would be next.
        skip, part = divmod(batch + worker, workers)
        return self._read_part(epoch, part, workers, skip)

    def _positions_of_rank(self) -> range:
        total = sum(self.shard_lengths)
        if self.shuffle:
            total -= total % self._world_size
        return range(*(total * rank // self._world_size for rank in (self._rank, self._rank + 1)))

    def _batches(self, samples: int) -> int:
        """The number of batches of so many samples."""
        size = self._batch_size or 1
        return samples // size // self._step * self._step if self._drop_last else -(-samples // size)

    def _positions_of_part(self, part: int, parts: int) -> range:
        """The positions of a worker's part of this rank: whole batches, as equal as possible."""
        whole, size = self._positions_of_rank(), self._batch_size or 1
        batches = self._batches(len(whole))
        lacking = max(0, batches * size - len(whole))  # in the last batch, which is also the last of its part
        short = (batches - 1) % parts
        each, more = divmod(batches, parts)
        begin, end = (whole.start + (each * number + min(number, more)) * size for number in (part, part + 1))
        return range(begin - lacking * (part > short), end - lacking * (part >= short))

    def _read_part(self, epoch: int, part: int, parts: int, skip: int) -> Iterator[dict]:
        """The decoded samples of a part from a batch on."""
        size = self._batch_size or 1
        samples = self._order(epoch, part, parts, skip * size)
        batches = iter(lambda: list(itertools.islice(samples, size)), [])
        for batch, following in itertools.pairwise(itertools.chain(batches, [[]])):
            for i, (position, sample) in enumerate(batch):
                # No earlier batch may provide a replacement: after a resume it was not read.
                neighbours = batch[i + 1 :] + batch[:i] + following
                seed = seed_for(self.seed, _IMAGE, epoch, position)
                yield self._decode(sample, seed, (neighbour for _, neighbour in neighbours))

    def _order(self, epoch: int, part: int, parts: int, skip: int) -> Iterator[tuple[int, Sample]]:
        """The positions and encoded samples of a part in their shuffled order, without the first ``skip``.

        The shuffle buffer holds positions, so that it can advance without reading; samples are read when the first of
        them is needed and kept until their turn, never more than the buffer's size. Of what is skipped, only shards
        that also hold a later sample are read.
        """
        whole = self._positions_of_part(part, parts)
        positions = iter(whole)
        if self.shuffle:
            draw = random.Random(seed_for(self.seed, _BUFFER, epoch, self._rank, part))
            shuffled = import_webdataset().shuffle(self.shuffle_buffer, initial=self.shuffle_buffer // 4, rng=draw)
            positions = shuffled(positions)
        wanted = np.ones(len(whole), bool)
        for position in itertools.islice(positions, skip):
            wanted[position - whole.start] = False
        reader = self._read(epoch, whole.start, wanted)
        waiting: dict[int, Sample] = {}
        for position in positions:
            while position not in waiting:
                found, sample = next(reader)
                waiting[found] = sample
            yield position, waiting.pop(position)

    def _read(self, epoch: int, first: int, wanted: np.ndarray) -> Iterator[tuple[int, Sample]]:
        """The wanted positions from the first on, in ascending order, with their samples."""
        order = np.arange(len(self.shards))
        if self.shuffle:
            np.random.default_rng(seed_for(self.seed, _SHARDS, epoch)).shuffle(order)
        start = -first  # where the shard begins in `wanted`
        for shard in order:
            length = self.shard_lengths[shard]
            needed = np.flatnonzero(wanted[max(0, start) : max(0, start + length)]) + max(0, start)
            if len(needed):
                stop = needed[-1] - start + 1
                for i, sample in enumerate(read_samples(self.shards[shard], length, stop, self.labelled), start):
                    if i >= 0 and wanted[i]:
                        yield first + i, sample
            start += length

    def _decode(self, sample: Sample, seed: int, neighbours: Iterable[Sample]) -> dict:
        """Decode and transform a sample; if it is broken, a neighbour or a black image."""
        broken, replaces = '', self.shuffle or not self.labelled
        for used in itertools.chain([sample], neighbours if replaces else ()):
            with contextlib.suppress(Exception):  # decoders raise anything
                image, label = decode_image(io.BytesIO(used.image)), used.label
                break
            broken = sample.name
        else:
            if replaces:
                raise UserError(
                    f'The image {printable(sample.name)} cannot be decoded, nor can its neighbours: write it again.'
                )
            image, label = black_image(), -1
        seed_all(seed)
        labels = dict(labels=label) if self.labelled else {}
        return dict(inputs=self.transform(image), **labels, names=used.name, broken=broken)


def black_image() -> 'Image':
    """Create the image that replaces an unreadable one of the validation data."""
    from PIL import Image

    return Image.new('RGB', (256, 256))
