"""Images without labels: whatever holds them, the same images are read; splits are by name, list or draw. Exact."""

import io
import json
import os
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from convnext_backbone import ArgumentError, TimmDataset, TimmShards, UnlabelledImages, UserError
from convnext_backbone.config.load import load_config
from convnext_backbone.datasets.seeded_loader import seed_all
from convnext_backbone.datasets.unlabelled_images import ImageFiles
from convnext_backbone.datasets.unlabelled_layouts import find_unlabelled

PLAIN = dict(input_size=8)
DEEP = 'a/b/c/d/e/f/0.png'  # deeper than any layout of annotations
NAMES = ['0.png', DEEP, 'a/1.JPG', 'a/2.bmp', 'b c/3, 4.webp', 'b c/ü.png']


def draw(path: Path, number: int) -> None:
    """An image that no other equals."""
    path.parent.mkdir(parents=True, exist_ok=True)
    kind = 'JPEG' if path.suffix == '.JPG' else None
    Image.new('RGB', (12, 10), (40 * number, 7, 200 - 30 * number)).save(path, kind)


@pytest.fixture
def photos(tmp_path):
    for number, name in enumerate(NAMES):
        draw(tmp_path / 'photos' / name, number)
    for name in ('.hidden/9.png', 'a/._9.png', '__MACOSX/9.png', 'work_dirs/run/9.png'):
        draw(tmp_path / 'photos' / name, 5)
    (tmp_path / 'photos/a/notes.txt').write_text('no image')
    return tmp_path / 'photos'


def content(data) -> dict[str, bytes]:
    """All images by name, whatever the order."""
    samples = [data[i] for i in range(len(data))]
    assert not any(sample['broken'] for sample in samples)
    assert all(sample.keys() == {'inputs', 'names', 'broken'} for sample in samples)  # and no labels
    assert all(sample['inputs'].dtype == torch.uint8 and sample['inputs'].shape == (3, 8, 8) for sample in samples)
    return {sample['names']: bytes(sample['inputs'].numpy()) for sample in samples}


def pack(photos: Path, tar: Path, names=NAMES, before: str = './') -> None:
    """Tar files as `tar cf x.tar .` and webdataset write them, with files that are no images between them."""
    with tarfile.open(tar, 'w') as archive:
        for name in names:
            archive.add(photos / name, arcname=before + name)
            member = tarfile.TarInfo(f'{before}{os.path.splitext(name)[0]}.json')
            member.size = 2
            archive.addfile(member, io.BytesIO(b'{}'))
        archive.add(photos / NAMES[0], arcname='a/._0.png')


def test_all_images_below_a_folder_are_read_at_any_depth(photos):
    data = UnlabelledImages(str(photos), transform=PLAIN)
    assert sorted(content(data)) == sorted(NAMES) and data.metainfo == dict(classes=())
    assert len({*content(data).values()}) == len(NAMES)
    assert [*content(UnlabelledImages(str(photos), 'a', transform=PLAIN))] == ['1.JPG', '2.bmp', DEEP[2:]]


def test_a_link_that_leads_in_a_circle_is_no_other_folder(photos):
    (photos / 'a/b/again').symlink_to(photos / 'a')
    assert sorted(content(UnlabelledImages(str(photos), transform=PLAIN))) == sorted(NAMES)


def test_tar_files_are_read_as_folders_are(photos, tmp_path):
    """Without unpacking: one, several in a folder, and a folder that has both."""
    expected = content(UnlabelledImages(str(photos), transform=PLAIN))
    pack(photos, tmp_path / 'one.tar')
    whole = content(UnlabelledImages(str(tmp_path), 'one.tar', transform=PLAIN))
    assert whole == {f'one.tar/{name}': image for name, image in expected.items()}
    (tmp_path / 'mixed/in').mkdir(parents=True)
    pack(photos, tmp_path / 'mixed/in/x-0000.tar', NAMES[:2])
    pack(photos, tmp_path / 'mixed/x-0001.tar', NAMES[2:4], before='')
    for name in NAMES[4:]:
        (tmp_path / 'mixed' / name).parent.mkdir(exist_ok=True)
        shutil.copyfile(photos / name, tmp_path / 'mixed' / name)
    places = dict(zip(NAMES, ['in/x-0000.tar/'] * 2 + ['x-0001.tar/'] * 2 + [''] * 2, strict=True))
    mixed = content(UnlabelledImages(str(tmp_path / 'mixed'), transform=PLAIN))
    assert mixed == {places[name] + name: image for name, image in expected.items()}
    files = ImageFiles(tmp_path / 'mixed', [*mixed])
    for i, name in enumerate(NAMES):
        file, _ = files[[*mixed].index(places[name] + name)]
        assert file.read() == (photos / name).read_bytes(), i


def test_lists_and_coco_jsons_choose_images(photos, tmp_path):
    chosen = [NAMES[4], NAMES[1], NAMES[5]]
    (tmp_path / 'list.txt').write_text('\n'.join([*chosen, '']))
    (photos / 'some.json').write_text(json.dumps(dict(images=[dict(file_name=name) for name in chosen])))
    expected = content(UnlabelledImages(str(photos), transform=PLAIN))
    for ann_file in (str(tmp_path / 'list.txt'), 'some.json'):
        found = content(UnlabelledImages(str(photos), ann_file=ann_file, transform=PLAIN))
        assert [*found.items()] == [(name, expected[name]) for name in chosen]


def test_images_are_augmented_as_in_classification(photos):
    """By the same transforms with the same draws: of the same pixels come the same inputs."""
    augmented = dict(input_size=8, scale=(0.2, 1.0), color_jitter=None, interpolation='bicubic')
    ours = UnlabelledImages(str(photos), transform=augmented, is_training=True)
    theirs = TimmDataset(str(photos), transform=augmented, is_training=True)
    places = {theirs.reader.filename(i): i for i in range(len(theirs))}
    for i in range(len(ours)):
        seed_all(i)
        sample = ours[i]
        seed_all(i)
        assert torch.equal(sample['inputs'], theirs[places[sample['names']]]['inputs'])


@pytest.mark.parametrize('training', [True, False])
def test_an_unreadable_image_is_named_and_replaced(training, photos):
    data = UnlabelledImages(str(photos), transform=PLAIN, is_training=training)
    last = len(data) - 1
    (photos / data.reader.filename(last)).write_bytes(b'no image')
    sample = data[last]
    assert sample['broken'].startswith(f'{data.reader.filename(last)} (') and sample['names'] == data[0]['names']
    for name in data.reader.names:
        (photos / name).write_bytes(b'')
    with pytest.raises(UserError, match=rf'^{len(data)} images in a row cannot be read \(.*\): fix the data\.$'):
        data[0]


@pytest.mark.parametrize(
    ('arguments', 'named'),
    [
        (dict(data_prefix='nowhere'), 'nowhere.*--data-root'),
        (dict(data_prefix='empty'), 'no images in .*empty.*--data-root'),
        (dict(data_prefix='cut.tar'), 'cut.tar cannot be read.*without compression'),
        (dict(data_prefix='packed.tar'), 'packed.tar cannot be read.*without compression'),
        (dict(ann_file='nowhere.txt'), 'list .*nowhere.txt cannot be read'),
        (dict(ann_file='captions.json'), 'captions.json names no images as COCO json does: it .*file_name'),
        (dict(transform=dict(input_sise=8)), 'input_sise'),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else '',
)
def test_what_cannot_be_read_is_named(arguments, named, photos):
    (photos / 'empty').mkdir()
    if 'tar' in named:
        pack(photos, photos / 'cut.tar')
        os.truncate(photos / 'cut.tar', 1000)
        with tarfile.open(photos / 'packed.tar', 'w:gz') as archive:
            archive.add(photos / '0.png', arcname='0.png')
    (photos / 'captions.json').write_text('{"images": [{"id": 1}]}')
    with pytest.raises((UserError, ArgumentError), match=named):
        UnlabelledImages(str(photos), **arguments)


@pytest.mark.parametrize(
    ('mode', 'suffix'), [('RGBA', 'png'), ('RGBA', 'tif'), ('CMYK', 'tif'), ('LA', 'png'), ('L', 'png')]
)
def test_channels_are_read_as_they_are_stored(mode, suffix, tmp_path):
    """Also where the last one, which an image viewer takes for transparency, is zero, and images are resized."""
    values = np.random.default_rng(0).integers(0, 256, (24, 24, len(mode)), dtype=np.uint8)
    values[:12, :, -1] = 0
    for name, stored in (('a', values), ('b', np.concatenate([values[..., :-1], 255 - values[..., -1:]], axis=2))):
        (tmp_path / name).mkdir()
        Image.frombytes(mode, (24, 24), stored.tobytes()).save(tmp_path / name / f'0.{suffix}')
    settings = dict(channels=len(mode), transform=dict(input_size=24, crop_pct=1.0))
    sample = UnlabelledImages(str(tmp_path / 'a'), **settings)[0]
    assert np.array_equal(sample['inputs'].permute(1, 2, 0), values)
    augmented = []
    for name in 'ab':
        data = UnlabelledImages(str(tmp_path / name), transform=PLAIN, is_training=True, channels=len(mode))
        seed_all(0)
        augmented.append(data[0]['inputs'])
    assert augmented[0].shape == (len(mode), 8, 8) and torch.equal(augmented[0][:-1], augmented[1][:-1])


def test_another_number_of_channels_is_named(photos):
    with pytest.raises(UserError, match=r'it has 3 channels \(RGB\) and not 4'):
        UnlabelledImages(str(photos), transform=PLAIN, channels=4)[0]
    with pytest.raises(ArgumentError, match='channels=5 .* from 1 to 4'):
        UnlabelledImages(str(photos), channels=5)


def test_shards_without_labels_yield_images_alone(photos, tmp_path):
    pytest.importorskip('webdataset')
    names = ['0.png', DEEP, 'b c/ü.png']
    for number in range(2):
        with tarfile.open(tmp_path / f'x-{number}.tar', 'w') as archive:
            for i, name in enumerate(names):
                archive.add(photos / name, arcname=f'{i:03}.png')
    data = TimmShards(str(tmp_path), 'x-{0..1}.tar', PLAIN, labelled=False)
    samples = [*data]
    assert [sample['names'] for sample in samples] == [f'x-{n}.tar/{i:03}' for n in range(2) for i in range(3)]
    expected = content(UnlabelledImages(str(tmp_path), transform=PLAIN))
    for sample in samples:
        assert sample.keys() == {'inputs', 'names', 'broken'}
        assert bytes(sample['inputs'].numpy()) == expected[f'{sample["names"]}.png']
    with pytest.raises(UserError, match=r'lacks an image .* or a \.cls'):
        [*TimmShards(str(tmp_path), 'x-{0..1}.tar', PLAIN)]


# ---- Layouts ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def find(photos, tmp_path):
    return lambda **settings: find_unlabelled(photos, tmp_path / 'work_dir/data', **settings)


def read(layout, split: str) -> list[str]:
    data = UnlabelledImages(transform=PLAIN, **layout.splits[split])
    assert len(data) == layout.numbers[split] and layout.classes == ()
    return [*content(data)]


def test_a_part_is_held_out_by_name(photos, find, tmp_path):
    for number in range(40):
        draw(photos / f'more/{number:02}.png', number % 6)
    layout, names = find(), sorted([*NAMES, *(f'more/{number:02}.png' for number in range(40))])
    train, val = read(layout, 'train'), read(layout, 'val')
    assert sorted([*train, *val]) == names and len(val) == 2  # a twentieth
    assert str(layout) == 'images without labels, 44 train + 2 val images'
    (note,) = layout.notes
    assert '2 of 46 are drawn (--val-split 0.05)' in note and str(tmp_path / 'work_dir/data/val.txt') in note
    assert read(find(), 'val') == val and len(read(find(val_split=0.5), 'val')) == 23
    assert not {path.name for path in photos.iterdir()} & {'val.txt', 'train.txt'}


def test_folders_of_validation_and_test_images_are_not_trained_on(photos, find):
    for number, folder in enumerate(('val2017', 'deep/test', 'train', 'unlabeled2017', 'x/val-01')):
        draw(photos / folder / f'{number}.png', number)
    pack(photos, photos / 'valid-000.tar', NAMES[:1], before='')
    layout = find()
    assert sorted(read(layout, 'train')) == sorted([*NAMES, 'train/2.png', 'unlabeled2017/3.png'])
    assert sorted(read(layout, 'val')) == ['val2017/0.png', 'valid-000.tar/0.png', 'x/val-01/4.png']
    assert read(layout, 'test') == ['deep/test/1.png'] and not layout.notes
    with pytest.raises(UserError, match=r'--val-split would draw .* has 3'):
        find(val_split=0.1)


def test_masks_are_no_pictures(photos, find):
    for name in ('ann_dir/train/x.png', 'masks/x.png', 'annotations/x.jpg'):
        draw(photos / name, 1)
    layout = find(val_split=0.5)
    assert {*read(layout, 'train'), *read(layout, 'val')} == {*NAMES, 'annotations/x.jpg'}
    assert layout.notes[0] == '2 masks are left out: ann_dir/train/x.png, masks/x.png'


@pytest.mark.parametrize('kind', ['txt', 'csv', 'json'])
def test_lists_say_what_is_trained_on(kind, photos, find):
    """Names may lack the type, or have the folders of another machine."""
    listed, rest = ['2', 'C:\\pictures\\b c\\3, 4.webp', DEEP], ['0.png', 'a/1.JPG', 'b c/ü.png']
    path = photos / f'lists/some.{kind}'
    path.parent.mkdir()
    if kind == 'txt':
        path.write_text('\r\n'.join(listed))
    elif kind == 'csv':
        path.write_text('id,picture\n' + '\n'.join(f'{i + 100},"{name}"' for i, name in enumerate(listed)))
    else:
        path.write_text(json.dumps(dict(images=[dict(id=i, file_name=name) for i, name in enumerate(listed)])))
    expected = ['a/2.bmp', 'b c/3, 4.webp', DEEP]
    held_out = find(val_ann=f'lists/some.{kind}')
    assert sorted(read(held_out, 'train')) == rest and read(held_out, 'val') == expected
    drawn = find(train_ann=str(path), val_split=0.4)
    assert sorted([*read(drawn, 'train'), *read(drawn, 'val')]) == sorted(expected)
    (photos / 'a/2.bmp').unlink()
    with pytest.raises(UserError, match=rf'^1 of 3 images of .*some.{kind} are not there: 2; put them there'):
        find(train_ann=f'lists/some.{kind}')


def test_a_folder_without_images_is_named(tmp_path):
    (tmp_path / 'empty').mkdir()
    with pytest.raises(UserError, match='empty has no images to train on'):
        find_unlabelled(tmp_path / 'empty', tmp_path / 'out')


def test_data_root_takes_a_folder_of_photographs(real_data, tmp_path, capsys):
    """COCO's, all that there are: its schedule is fitted, and the config of the run needs no flag again."""
    config = Path(__file__).parents[2] / 'configs/fcmae_convnext_v2_t_imagenet.py'
    cfg = load_config(config, str(tmp_path / 'work'), str(real_data / 'coco'))
    numbers = {}
    for split in ('train', 'val', 'test'):
        dataset = dict(cfg[f'{split}_dataloader'].dataset)
        assert dataset.pop('type') == 'UnlabelledImages' and 'metainfo' not in dataset
        data = UnlabelledImages(**dataset)
        numbers[split] = len(data)
        assert {name.split('/')[0] for name in data.reader.names} == {f'{"train" if split == "train" else "val"}2017'}
        assert data[0]['inputs'].shape == (3, 224, 224)
    files = {split: len([*(real_data / f'coco/{split}2017').iterdir()]) for split in ('train', 'val')}
    assert numbers == dict(**files, test=files['val'])
    said = f'images without labels, {files["train"]} train + {files["val"]} val images'
    assert said in capsys.readouterr().err
    assert np.std([data[i]['inputs'].float().mean() for i in range(3)]) > 0
