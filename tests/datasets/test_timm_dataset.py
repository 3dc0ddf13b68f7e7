"""Classification data equals that of timm's readers and transforms, and names broken images. Exact."""

import shutil
import tarfile

import pytest
import torch
from PIL import Image
from timm.data import ImageDataset, create_transform
from torch.utils.data import DataLoader

from convnext_backbone import ArgumentError, TimmDataset, TimmShards, UserError
from convnext_backbone.datasets.seeded_loader import SeededLoader, seed_all
from convnext_backbone.datasets.timm_dataset import build_transform

AUGMENTED = dict(input_size=32, auto_augment='rand-m9-mstd0.5-inc1', interpolation='bicubic')

PLAIN = dict(input_size=32, interpolation='bicubic')


def content(data: TimmDataset) -> list[tuple[bytes, int]]:
    """All images with their labels, sorted."""
    return sorted((bytes(data[i]['inputs'].numpy()), data[i]['labels']) for i in range(len(data)))


@pytest.fixture(scope='module')
def folder(shapes):
    return shapes / 'imagenet'


@pytest.fixture
def copy(folder, tmp_path):
    shutil.copytree(folder, tmp_path / 'copy')
    return tmp_path / 'copy'


@pytest.mark.parametrize('training', [True, False])
def test_images_and_labels_equal_timms(folder, training):
    transform = AUGMENTED if training else dict(input_size=32, crop_pct=0.875, interpolation='bicubic')
    ours = TimmDataset(str(folder), 'train', transform, is_training=training)
    theirs = ImageDataset(
        str(folder / 'train'), transform=create_transform(is_training=training, normalize=False, **transform)
    )
    assert len(ours) == len(theirs) > 5
    assert ours.metainfo['classes'] == ('circle', 'cross', 'square', 'star', 'triangle')
    for i in range(len(ours)):
        seed_all(i)
        sample = ours[i]
        seed_all(i)
        image, label = theirs[i]
        assert torch.equal(sample['inputs'], image) and sample['labels'] == label and sample['broken'] == ''
        assert sample['inputs'].dtype == torch.uint8 and sample['inputs'].shape == (3, 32, 32)


def test_randaugment_at_full_strength_runs_with_pillow_13():
    """Posterize then keeps 0 bits: black, as in Pillow 12, where Pillow 13 raises."""
    image = Image.effect_noise((40, 40), 50).convert('RGB')
    transform = build_transform(True, input_size=32, auto_augment='rand-m10-inc1', scale=(1, 1), ratio=(1, 1))
    (augment,) = [step for step in transform.transforms if hasattr(step, 'ops')]
    (posterize,) = [op for op in augment.ops if op.name == 'PosterizeIncreasing']
    posterize.prob = 1.0
    assert posterize(image).getextrema() == ((0, 0),) * 3
    posterize.magnitude = 5
    assert posterize(image).getextrema()[0][1] > 0
    for _ in range(300):
        transform(image)


def test_tar_files_hold_what_the_folder_holds(folder, tmp_path):
    (tmp_path / 'tars').mkdir()
    with tarfile.open(tmp_path / 'train.tar', 'w') as whole:
        whole.add(folder / 'train', arcname='train')
    for name in sorted((folder / 'train').iterdir()):
        with tarfile.open(tmp_path / 'tars' / f'{name.name}.tar', 'w') as one:
            for image in sorted(name.iterdir()):
                one.add(image, arcname=image.name)
    for prefix in ('train.tar', 'tars'):
        data = TimmDataset(str(tmp_path), prefix, PLAIN)
        assert data.metainfo['classes'] == ('circle', 'cross', 'square', 'star', 'triangle')
        assert content(data) == content(TimmDataset(str(folder), 'train', PLAIN))


def test_a_hugging_face_data_set_holds_what_the_folder_holds(folder):
    pytest.importorskip('datasets')
    expected = TimmDataset(str(folder), 'train', PLAIN)
    data = TimmDataset(str(folder), 'train', PLAIN, reader='hfds')
    assert data.metainfo == expected.metainfo and content(data) == content(expected)


def test_a_class_map_sets_the_order_of_the_classes(folder, tmp_path):
    (tmp_path / 'classes.txt').write_text('star\nsquare\ncircle\ntriangle\ncross\n')
    data = TimmDataset(str(folder), 'val', class_map=str(tmp_path / 'classes.txt'))
    assert data.metainfo['classes'] == ('star', 'square', 'circle', 'triangle', 'cross')
    for i in range(len(data)):
        assert data.metainfo['classes'][data[i]['labels']] in data.reader.filename(i)


def test_images_of_all_formats_are_found_and_hidden_ones_left_out(tmp_path):
    """Which notebooks and macOS leave, and which would be classes or broken images."""
    files = ['apple/1.jpg', 'fig/1.webp', 'kiwi/1.bmp', 'nut/1.tif', 'pear/1.JFIF']
    hidden = ['.ipynb_checkpoints/1-checkpoint.jpg', '__MACOSX/apple/._1.jpg', 'fig/._1.jpg', 'apple/.trash/2.jpg']
    for name in files + hidden:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new('RGB', (8, 8)).save(tmp_path / name, 'JPEG' if name.lower().endswith('if') else None)
    data = TimmDataset(str(tmp_path))
    assert data.metainfo['classes'] == ('apple', 'fig', 'kiwi', 'nut', 'pear')
    assert [(data.reader.filename(i), data.reader[i][1]) for i in range(5)] == [*zip(files, range(5), strict=True)]
    (tmp_path / 'classes.txt').write_text('pear\nfig\n')
    data = TimmDataset(str(tmp_path), class_map=str(tmp_path / 'classes.txt'))
    assert [(data.reader.filename(i), data.reader[i][1]) for i in range(len(data))] == [(files[1], 1), (files[4], 0)]


def corrupt(folder, what: str) -> str:
    """Make the first image unreadable; return its name."""
    first = sorted(folder.glob('*/*.JPEG'))[0]
    data = first.read_bytes()
    if what == 'empty':
        first.write_bytes(b'')
    elif what == 'truncated':
        first.write_bytes(data[: len(data) // 2])
    elif what == 'text':
        first.write_text('not found')
    elif what == 'png with a wrong checksum':
        Image.open(first).save(first, format='PNG')
        data = bytearray(first.read_bytes())
        data[len(data) // 2] ^= 0xFF
        first.write_bytes(data)
    return str(first.relative_to(folder))


@pytest.mark.parametrize('what', ['empty', 'truncated', 'text', 'png with a wrong checksum'])
def test_an_unreadable_image_is_named_and_replaced(what, copy):
    name = corrupt(copy / 'train', what)
    sample = TimmDataset(str(copy), 'train', dict(input_size=32), is_training=True)[0]
    assert sample['broken'].startswith(f'{name} (') and '\n' not in sample['broken']
    assert sample['labels'] == 0 and sample['inputs'].float().std() > 1  # the next one
    sample = TimmDataset(str(copy), 'train', dict(input_size=32))[0]
    assert sample['broken'].startswith(f'{name} (')
    assert sample['labels'] == -1 and not sample['inputs'].any()  # none: it must not count twice


def test_without_any_readable_image_the_label_is_minus_1(copy):
    for path in (copy / 'train').glob('*/*.JPEG'):
        path.write_bytes(b'')
    data = TimmDataset(str(copy), 'train', dict(input_size=32), is_training=True)
    sample = data[3]
    assert sample['labels'] == -1 and len(sample['broken'].splitlines()) == min(20, len(data))


def test_workers_pass_on_the_names_of_broken_images(copy):
    name = corrupt(copy / 'train', 'empty')
    data = TimmDataset(str(copy), 'train', dict(input_size=32), is_training=True)
    loader = DataLoader(data, batch_size=4, num_workers=1)
    assert [names for batch in loader for names in batch['broken'] if names][0].startswith(name)


@pytest.mark.parametrize(
    ('arguments', 'named'),
    [
        (dict(data_prefix='nowhere'), 'nowhere.*--data-root'),
        (dict(data_prefix='train/circle/nothing.tar'), 'nothing.tar'),
        (dict(data_prefix='train', transform=dict(input_sise=32)), 'input_sise'),
        (dict(data_prefix='train', transform=dict(re_prob=0.25)), 're_prob.*data_preprocessor'),
        (dict(data_prefix='train', reader='tfds'), "reader='tfds'"),
    ],
)
def test_invalid_arguments_are_named(arguments, named, folder):
    with pytest.raises((UserError, ArgumentError), match=named):
        TimmDataset(str(folder), **arguments)


def test_a_folder_without_images_is_named(tmp_path):
    (tmp_path / 'train').mkdir()
    with pytest.raises(UserError, match=f'{tmp_path}/train cannot be read: Found 0 images'):
        TimmDataset(str(tmp_path), 'train')


def test_shards_yield_bytes_and_labels(folder, tmp_path):
    path = sorted((folder / 'train').glob('*/*.JPEG'))[0]
    with tarfile.open(tmp_path / 'x-000000.tar', 'w') as shard:
        for i in range(6):
            shard.add(path, arcname=f'{i:04}.jpg')
            (tmp_path / 'label').write_text(str(i % 3))
            shard.add(tmp_path / 'label', arcname=f'{i:04}.cls')
    (tmp_path / 'classes.txt').write_text('a\nb\nc\n')
    data = TimmShards(str(tmp_path), 'x-{000000..000000}.tar', dict(input_size=32), class_map=tmp_path / 'classes.txt')
    assert data.metainfo == dict(classes=('a', 'b', 'c')) and len(data) == 6
    samples = [*data]
    assert [sample['labels'] for sample in samples] == [0, 1, 2, 0, 1, 2]
    assert samples[0]['inputs'].shape == (3, 32, 32) and samples[0]['inputs'].dtype == torch.uint8


def test_augmentation_depends_only_on_seed_epoch_and_position(folder):
    """Not on workers or ranks: two ranks see what one with twice their batch size sees."""

    def epoch(number: int, workers: int, rank: int = 0, world: int = 1) -> list[torch.Tensor]:
        data = TimmDataset(str(folder), 'train', AUGMENTED, is_training=True)
        sampler = torch.utils.data.DistributedSampler(data, world, rank, seed=5)
        loader = DataLoader(data, batch_size=4 // world, sampler=sampler, num_workers=workers, drop_last=True)
        loader = SeededLoader.wrap(loader, seed=1)
        sampler.set_epoch(number)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr('convnext_backbone.datasets.seeded_loader.get_rank', lambda: rank)
            patch.setattr('convnext_backbone.datasets.seeded_loader.get_world_size', lambda: world)
            return [image for batch in loader for image in batch['inputs']]

    first = epoch(0, workers=0)
    assert all(map(torch.equal, first, epoch(0, workers=2)))
    assert not any(map(torch.equal, first, epoch(1, workers=0)))
    both = [image for pair in zip(epoch(0, 0, 0, 2), epoch(0, 1, 1, 2), strict=True) for image in pair]
    assert all(map(torch.equal, first, both))
