"""Streams of shards: every image once an epoch over all ranks and workers, and the same after a resume. Exact."""

import functools
import http.server
import importlib.util
import io
import itertools
import json
import pickle
import random
import shutil
import sys
import tarfile
import threading
from multiprocessing.reduction import ForkingPickler

import numpy as np
import pytest
import torch
import torch.distributed as dist
from PIL import Image
from torch.utils.data import DataLoader

from convnext_backbone import ArgumentError, ImagePreprocessor, UserError
from convnext_backbone.datasets import shard_stream as stream_module
from convnext_backbone.datasets.shard_stream import ImageStream

webdataset = pytest.importorskip('webdataset')
pytestmark = pytest.mark.filterwarnings('error:Length of IterableDataset')


def augment(image):
    """Use the random generators of Python, numpy and torch."""
    pixels = torch.from_numpy(np.array(image)[:2, :2]).float()
    return pixels + random.random() + np.random.rand() + torch.rand(())


def plain(image):
    return torch.from_numpy(np.array(image)[0, 0])


def write_shard(path, samples):
    """Write a tar file of (name, content)."""
    with tarfile.open(path, 'w') as archive:
        for name, content in samples:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))


def image_of(label):
    content = io.BytesIO()
    Image.new('RGB', (4, 4), (label % 256, label // 256, 7)).save(content, 'png')
    return content.getvalue()


def write_shards(folder, lengths, broken=(), info=False):
    """Write shards whose labels number all samples and are encoded in the pixels; return their pattern."""
    extensions, label = ['png', 'PNG', 'jpg', 'jpeg', 'webp'], 0  # the content decides the format
    for shard, length in enumerate(lengths):
        samples = []
        for _ in range(length):
            content = b'not an image' if label in broken else image_of(label)
            samples.append((f'./n{label:04d}.{extensions[label % 5]}', content))
            samples += [(f'./n{label:04d}.json', b'{}'), (f'./n{label:04d}.cls', b'%d' % label)]
            label += 1
        write_shard(folder / f'x-{shard:06d}.tar', samples)
    names = [f'x-{shard:06d}.tar' for shard in range(len(lengths))]
    if info:
        split = dict(name='train', num_samples=label, filenames=names, shard_lengths=lengths)
        (folder / '_info.json').write_text(json.dumps(dict(splits=dict(train=split))))
    return str(folder / f'x-{{000000..{len(lengths) - 1:06d}}}.tar')


def build_loader(stream, batch_size, workers=0, drop_last=False, **options):
    stream.set_batch_size(batch_size, drop_last)
    if workers:
        options = dict(persistent_workers=True, multiprocessing_context='fork') | options
    return DataLoader(stream, batch_size, num_workers=workers, drop_last=drop_last, **options)


def take(loader, epoch, batch=0):
    """The batches of a pass."""
    loader.dataset.start_at(epoch, batch)
    return list(loader)


def stop(loader):
    """End the workers: the garbage collector would wait 5 s for each."""
    if loader.num_workers:
        loader._iterator._shutdown_workers()


def labels_of(batches):
    return torch.cat([batch['labels'] for batch in batches]).tolist() if batches else []


def same(batches, others):
    return len(batches) == len(others) and all(
        torch.equal(one['inputs'], other['inputs'])
        and torch.equal(one['labels'], other['labels'])
        and one['broken'] == other['broken']
        for one, other in zip(batches, others, strict=True)
    )


@pytest.fixture
def as_rank(monkeypatch):
    def set_rank(rank, world_size):
        monkeypatch.setattr('convnext_backbone.datasets.shard_stream.get_rank', lambda: rank)
        monkeypatch.setattr('convnext_backbone.datasets.shard_stream.get_world_size', lambda: world_size)

    return set_rank


@pytest.mark.parametrize('drop_last', [False, True])
@pytest.mark.parametrize('shuffle', [False, True])
@pytest.mark.parametrize(
    ('lengths', 'world_size', 'workers', 'batch_size'),
    [
        ([7, 1, 12, 3], 1, 0, 4),
        ([7, 1, 12, 3], 3, 0, 2),
        ([7, 1, 12, 3], 2, 2, 3),
        ([5, 0, 9], 4, 3, 1),
        ([2] * 9 + [30], 2, 3, 5),
        ([3, 1], 2, 3, 4),  # fewer samples than in a batch, fewer batches than workers
    ],
)
@pytest.mark.filterwarnings('ignore:This DataLoader will create')  # more workers than there are cores
def test_every_sample_is_yielded_once(lengths, world_size, workers, batch_size, shuffle, drop_last, tmp_path, as_rank):
    pattern, total, seen = write_shards(tmp_path, lengths), sum(lengths), []
    for rank in range(world_size):
        as_rank(rank, world_size)
        stream = ImageStream(pattern, plain, shuffle=shuffle, shuffle_buffer=6)
        loader = build_loader(stream, batch_size, workers, drop_last, persistent_workers=False)
        batches = take(loader, epoch=3)
        whole, rest = divmod(len(stream), batch_size)
        sizes = [batch_size] * whole + [rest] * (rest > 0 and not drop_last)
        assert [len(batch['labels']) for batch in batches] == sizes and len(loader) == len(sizes)
        for batch in batches:  # each has its own label
            assert (batch['inputs'][:, :2].int() @ torch.tensor([1, 256], dtype=torch.int32)).tolist() == labels_of(
                [batch]
            )
        seen.append(labels_of(batches))
        assert drop_last or len(seen[-1]) == len(stream)
    everything = [label for labels in seen for label in labels]
    assert len(set(everything)) == len(everything)
    counts = [len(labels) for labels in seen]
    assert max(counts) - min(counts) <= (0 if shuffle else batch_size if drop_last else 1)
    if not drop_last:
        assert len(everything) == (total // world_size * world_size if shuffle else total)


@pytest.mark.parametrize('workers', [0, 2])
def test_an_epoch_ends_with_its_last_complete_optimizer_step(workers, tmp_path):
    stream = ImageStream(write_shards(tmp_path, [10, 13]), plain)
    loader = DataLoader(stream, 2, num_workers=workers, drop_last=True)
    stream.set_batch_size(2, drop_last=True, step=3)  # 11 batches, of which 9 make whole steps
    labels = labels_of(take(loader, epoch=0))
    assert len(loader) == 9 and len(labels) == len(set(labels)) == 18
    assert labels_of(take(loader, 0, batch=7)) == labels[14:]


def test_order(tmp_path):
    pattern = write_shards(tmp_path, [15, 25, 10])

    def labels(seed, epoch, workers=0, **arguments):
        loader = build_loader(ImageStream(pattern, plain, seed, **arguments), 5, workers)
        epochs = [labels_of(take(loader, each)) for each in (epoch, epoch + 1)]
        stop(loader)
        return epochs

    first, second = labels(1, 0)
    assert sorted(first) == sorted(second) == list(range(50))
    assert first != second and first != sorted(first)
    assert labels(1, 0) == [first, second] and labels(1, 1)[0] == second  # whichever epoch was before
    assert labels(2, 0)[0] != first
    assert labels(1, 0, workers=2) == labels(1, 0, workers=2)
    assert labels(1, 0, shuffle=False) == [list(range(50))] * 2
    by_shards = labels(1, 0, shuffle_buffer=1)  # the shards alone are shuffled
    assert by_shards[0] != by_shards[1]
    assert all(sum(b != a + 1 for a, b in itertools.pairwise(order)) <= 2 for order in by_shards)


def test_the_shuffle_differs_by_epoch_and_worker(tmp_path):
    loader = build_loader(ImageStream(write_shards(tmp_path, [40]), plain), 1, 2)
    first, second = (labels_of(take(loader, epoch)) for epoch in range(2))
    stop(loader)
    assert sorted(first) == sorted(second) == list(range(40)) and first != second
    assert sorted(first[::2]) == list(range(20))  # of the first worker
    assert [label + 20 for label in first[::2]] != first[1::2]


@pytest.mark.parametrize('shuffle', [True, False])
@pytest.mark.parametrize(('workers', 'context'), [(0, None), (2, 'fork'), (3, 'fork')])
@pytest.mark.filterwarnings('ignore:This DataLoader will create')
def test_start_at_is_exact(workers, context, shuffle, tmp_path, as_rank):
    """In the middle of an epoch, in the same and in another loader, with persistent workers."""
    as_rank(1, 2)
    pattern = write_shards(tmp_path, [31, 5, 22, 17], broken={33, 50, 62})
    loaders = [
        build_loader(ImageStream(pattern, augment, 3, shuffle=shuffle, shuffle_buffer=9), 4, workers) for _ in 'ab'
    ]
    whole = take(loaders[0], epoch=2)
    assert len(whole) == 10 and not same(take(loaders[1], epoch=1), whole)
    for batch in (0, 1, 5, 10):
        for loader in loaders:
            torch.manual_seed(batch)  # and nothing depends on the state of a generator
            assert same(take(loader, epoch=2, batch=batch), whole[batch:])
    for loader in loaders:
        stop(loader)


def test_start_at_reaches_spawned_workers(tmp_path):
    """They receive the data set pickled by multiprocessing."""
    loader = build_loader(ImageStream(write_shards(tmp_path, [9, 8]), augment), 4)
    copy = DataLoader(pickle.loads(ForkingPickler.dumps(loader.dataset)), 4)
    for epoch, batch in (1, 0), (2, 2):
        whole = take(loader, epoch, batch)
        assert whole and same(list(copy), whole)


@pytest.mark.parametrize('shuffle', [True, False])
def test_skipping_decodes_nothing_and_opens_only_needed_shards(shuffle, tmp_path, monkeypatch):
    stream = ImageStream(write_shards(tmp_path, [10] * 20), plain, shuffle=shuffle, shuffle_buffer=12)
    loader, opened, decoded = build_loader(stream, 10), [], []
    gopen, open_image = webdataset.gopen, Image.open
    monkeypatch.setattr(webdataset, 'gopen', lambda url: opened.append(url) or gopen(url))
    monkeypatch.setattr(Image, 'open', lambda file, **options: decoded.append(file) or open_image(file, **options))
    assert len(take(loader, epoch=0, batch=18)) == 2
    assert len(decoded) == 20
    assert opened == stream.shards[18:] if not shuffle else 2 <= len(opened) < 10


def test_lengths(tmp_path):
    counted = ImageStream(write_shards(tmp_path, [3, 0, 11]), plain)
    assert counted.shard_lengths == [3, 0, 11] and len(counted) == 14
    write_shards(tmp_path, [4, 2, 11], info=True)  # other shards
    write_shards(tmp_path, [3, 0, 11])
    assert ImageStream(counted.shards[::-1], plain).shard_lengths == [11, 2, 4]
    with pytest.raises(UserError, match=r'x-000000\.tar holds 3 samples instead of 4'):
        list(ImageStream(counted.shards, plain, shuffle=False))
    with pytest.raises(UserError, match=r'x-000002\.tar holds more samples instead of 9'):
        list(ImageStream(counted.shards, plain, shard_lengths=[3, 0, 9], shuffle=False))
    with pytest.raises(UserError, match='shard_lengths has 2 numbers for 3 shards'):
        ImageStream(counted.shards, plain, shard_lengths=[3, 0])
    (tmp_path / '_info.json').rename(tmp_path / 'info.json')
    assert ImageStream(counted.shards, plain).shard_lengths == [4, 2, 11]
    (tmp_path / 'info.json').write_text('{"description": "of something else"}')
    assert ImageStream(counted.shards, plain).shard_lengths == [3, 0, 11]


def test_commands_and_urls(tmp_path):
    write_shards(tmp_path, [3, 40], info=True)
    commands = f'pipe:cat {tmp_path}/x-{{000000..000001}}.tar'
    with pytest.raises(UserError, match='x-000001.tar; give shard_lengths'):
        ImageStream(commands, plain)
    piped = build_loader(ImageStream(commands, plain, shard_lengths=[3, 40], shuffle=False), 8)
    assert labels_of(take(piped, 0)) == list(range(43))
    with pytest.raises(UserError, match='pipe:exit 3 is missing, truncated or corrupt'):
        list(ImageStream('pipe:exit 3', plain, shard_lengths=[3]))
    if not shutil.which('curl'):
        pytest.skip('webdataset opens http addresses by curl, which is not installed')
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=tmp_path)
    handler.log_message = handler.func.log_message = lambda *arguments: None
    with http.server.ThreadingHTTPServer(('127.0.0.1', 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f'http://127.0.0.1:{server.server_port}'
        served = build_loader(ImageStream(f'{address}/x-{{000000..000001}}.tar', plain, shuffle=False), 8)
        assert labels_of(take(served, 0)) == list(range(43))
        with pytest.raises(UserError, match='only local shards can be counted: .*/y.tar; give shard_lengths'):
            ImageStream(f'{address}/y.tar', plain)
        with pytest.raises(UserError, match=r'/y\.tar is missing'):
            list(ImageStream(f'{address}/y.tar', plain, shard_lengths=[1]))
        server.shutdown()


def test_broken_images_are_named_and_replaced(tmp_path, as_rank):
    broken = {4, 5, 17, 39}
    pattern = write_shards(tmp_path, [20, 20], broken=broken)
    names = {f'x-{label // 20:06d}.tar/./n{label:04d}' for label in broken}
    for workers in (0, 2):
        loader = build_loader(ImageStream(pattern, augment, shuffle_buffer=7), 5, workers)
        batches = take(loader, 0)
        stop(loader)
        assert [len(batch['labels']) for batch in batches] == [5] * 8
        assert sorted(name for batch in batches for name in batch['broken'] if name) == sorted(names)
        labels, inputs = labels_of(batches), torch.cat([batch['inputs'] for batch in batches])
        assert set(labels) == set(range(40)) - broken
        assert len(inputs.unique(dim=0)) == 40  # what comes twice is augmented twice
    held = labels_of(take(build_loader(ImageStream(pattern, augment, shuffle=False), 5), 0))
    assert held == [-1 if label in broken else label for label in range(40)]


@pytest.mark.parametrize('shuffle', [True, False])
def test_a_label_that_no_class_has_is_named_with_its_shard(shuffle, tmp_path):
    """Also that of an image in the place of a broken one, which is named on its own."""
    stream = ImageStream(write_shards(tmp_path, [5, 5], broken={8}), lambda _: torch.ones(3, 2, 2), shuffle=shuffle)
    batches = take(build_loader(stream, 5), 0)
    assert [name for batch in batches for name in batch['broken'] if name] == ['x-000001.tar/./n0008']
    for batch in batches:
        ImagePreprocessor(10)(batch, True)
    for number, named in (
        (9, r'x-000001\.tar/\./n0009 has the label 9, but model\.num_classes=9'),
        (5, 'has the label'),
    ):
        with pytest.raises(ArgumentError, match=named):
            for batch in batches:
                ImagePreprocessor(number)(batch, True)


def test_a_label_that_is_no_number_of_a_class_is_refused(tmp_path):
    for label in (b'-1', b'1e3', b'', b'9' * 30):
        write_shard(tmp_path / 'x.tar', [('a.png', image_of(1)), ('a.cls', label)])
        with pytest.raises(UserError, match=r'x\.tar/a lacks .*\.cls'):
            list(ImageStream(str(tmp_path / 'x.tar'), plain, shuffle=False))


def test_a_broken_image_of_validation_is_black(tmp_path):
    stream = ImageStream(write_shards(tmp_path, [3], broken={1}), plain, shuffle=False)
    assert [(sample['labels'], sample['broken']) for sample in stream] == [
        (0, ''),
        (-1, 'x-000000.tar/./n0001'),
        (2, ''),
    ]
    assert [sample['inputs'].tolist() for sample in stream][1] == [0, 0, 0]


def test_the_next_batch_replaces_a_batch_of_broken_images(tmp_path):
    pattern = write_shards(tmp_path, [12], broken={3, 4, 5})
    loader = build_loader(ImageStream(pattern, augment, shuffle_buffer=1), 3)
    assert labels_of(take(loader, 0)) == [0, 1, 2, 6, 6, 6, 6, 7, 8, 9, 10, 11]


def test_a_stream_of_broken_images_raises(tmp_path):
    with pytest.raises(UserError, match=r'x-000000\.tar/\./n000. cannot be decoded, nor can its neighbours'):
        list(ImageStream(write_shards(tmp_path, [3], broken={0, 1, 2}), plain))


@pytest.mark.parametrize('kept', [0, 200, 512 + 30, 1024, 5 * 1024, 5 * 1024 + 512, -512, -1])
def test_a_truncated_shard_is_named(kept, tmp_path):
    """Within a header, an image, between two files, before the end marker: when counted and when read."""
    pattern, path = write_shards(tmp_path, [2, 4]), tmp_path / 'x-000001.tar'
    whole = path.read_bytes()
    end = len(whole.rstrip(b'\0')) // 512 * 512 + 512  # of the last file, and of the archive from here on
    path.write_bytes(whole[: kept if kept >= 0 else end + kept])
    with pytest.raises(UserError, match=r'x-000001\.tar is missing, truncated or corrupt \('):
        ImageStream(pattern, plain)
    stream = ImageStream(pattern, plain, shard_lengths=[2, 4])
    with pytest.raises(UserError, match=r'x-000001\.tar.* truncated'):
        list(stream)


def test_a_missing_shard_is_named(tmp_path):
    pattern = write_shards(tmp_path, [2, 4], info=True)
    loaders = [build_loader(ImageStream(pattern, plain), 2, workers) for workers in (0, 1)]
    (tmp_path / 'x-000001.tar').unlink()
    for loader in loaders:  # torch raises what a worker raised with its traceback
        with pytest.raises(UserError, match=r'x-000001\.tar is missing, truncated or corrupt \(No such file'):
            list(loader)
    stop(loaders[1])
    with pytest.raises(UserError, match=r'do not exist: \S+x-000001\.tar; .*train-\{000000\.\.000099\}\.tar'):
        ImageStream(pattern, plain)


@pytest.mark.parametrize(
    ('files', 'sentence'),
    [
        ([('a.png', b''), ('b.png', b''), ('b.cls', b'1')], r'x\.tar/a lacks an image'),
        ([('a.cls', b'1')], r'x\.tar/a lacks an image'),
        ([('a.png', b''), ('a.cls', b'cat')], r'x\.tar/a lacks an image .* or a \.cls with its number'),
        ([('a.png', b''), ('b.png', b''), ('a.cls', b'1'), ('b.cls', b'1')], r'x\.tar/a lacks .* one after the other'),
    ],
)
def test_an_incomplete_sample_is_named(files, sentence, tmp_path):
    write_shard(tmp_path / 'x.tar', files)
    with pytest.raises(UserError, match=sentence):
        list(ImageStream([tmp_path / 'x.tar'], plain, shuffle=False))


def test_invalid_arguments_are_named(tmp_path, monkeypatch):
    with pytest.raises(UserError, match='shards is empty'):
        ImageStream([], plain)
    with pytest.raises(UserError, match=r"shards='x-\{0\.\.3\.tar' cannot be expanded"):
        ImageStream('x-{0..3.tar', plain)
    loader = build_loader(ImageStream(write_shards(tmp_path, [2]), plain), None, 1)
    with pytest.raises(RuntimeError, match='set_batch_size must be called'):
        list(loader)
    stop(loader)
    monkeypatch.setitem(sys.modules, 'webdataset', None)
    with pytest.raises(UserError, match='pip install webdataset'):
        ImageStream(str(tmp_path / 'x-000000.tar'), plain)


def test_importing_needs_no_optional_package(monkeypatch):
    for name in ('webdataset', 'timm', 'PIL'):
        monkeypatch.setitem(sys.modules, name, None)
    spec = importlib.util.spec_from_file_location('convnext_backbone.datasets.again', stream_module.__file__)
    spec.loader.exec_module(importlib.util.module_from_spec(spec))


def read_as_process(rank, folder, pattern):
    """One process: two epochs with two workers each."""
    dist.init_process_group('gloo', init_method=f'file://{folder}/meeting', rank=rank, world_size=2)
    loader = build_loader(ImageStream(pattern, plain, shuffle_buffer=5), 4, 2)
    torch.save([labels_of(take(loader, epoch)) for epoch in range(2)], f'{folder}/{rank}.pth')
    stop(loader)
    dist.destroy_process_group()


@pytest.mark.slow
def test_two_processes_share_an_epoch(tmp_path):
    pattern = write_shards(tmp_path, [13, 2, 26])
    torch.multiprocessing.spawn(read_as_process, (str(tmp_path), pattern), nprocs=2)
    epochs = list(zip(*(torch.load(tmp_path / f'{rank}.pth') for rank in range(2)), strict=True))
    for first, second in epochs:
        assert len(first) == len(second) == 20 and len({*first, *second}) == 40
    assert epochs[0] != epochs[1]
