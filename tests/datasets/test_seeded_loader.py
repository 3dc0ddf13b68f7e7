"""Seeds of samples: by their number in the epoch, whichever process loads them, and in batches of any size."""

import pytest
from mmengine.dataset import DefaultSampler, InfiniteSampler
from torch.utils.data import BatchSampler

from convnext_backbone.datasets import seeded_loader
from convnext_backbone.datasets.seeded_loader import SeededBatchSampler


def batches_of(kind: type, rank: int, world: int, batch_size: int, monkeypatch) -> list[list[tuple[int, int]]]:
    """The indices and seeds of the first 16 samples of an epoch that one of several processes loads."""
    monkeypatch.setattr('mmengine.dataset.sampler.get_dist_info', lambda: (rank, world))
    monkeypatch.setattr(seeded_loader, 'get_rank', lambda: rank)
    monkeypatch.setattr(seeded_loader, 'get_world_size', lambda: world)
    sampler = SeededBatchSampler(BatchSampler(kind(range(16), seed=3), batch_size, drop_last=True), seed=7)
    iterator = iter(sampler)
    return [next(iterator) for _ in range(16 // (world * batch_size))]


@pytest.mark.parametrize('kind', [DefaultSampler, InfiniteSampler])
@pytest.mark.parametrize(('world', 'batch_size'), [(2, 2), (2, 1), (4, 2), (1, 2)])
def test_processes_draw_for_a_sample_what_one_process_draws(kind, world, batch_size, monkeypatch):
    (whole,) = batches_of(kind, 0, 1, 16, monkeypatch)
    assert len({seed for _, seed in whole}) == 16
    parts = [batches_of(kind, rank, world, batch_size, monkeypatch) for rank in range(world)]
    loaded = [sample for part in parts for batch in part for sample in batch]
    assert sorted(loaded) == sorted(whole)
