"""Classification data is recognised from its folder: each image has the label of its class. Exact."""

import csv
import itertools
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from convnext_backbone import TimmDataset, UserError
from convnext_backbone.datasets.classification_layouts import find_classification
from convnext_backbone.datasets.layouts import Layout

NUMBERS = {'cat': 5, 'dog': 6, 'cow 2': 5, 'cow 10': 5}
CLASSES = ('cat', 'cow 2', 'cow 10', 'dog')  # numbers in names count as such, as in timm
SERIAL = itertools.count()


def draw(path: Path) -> None:
    """An image that no other equals."""
    path.parent.mkdir(parents=True, exist_ok=True)
    number = next(SERIAL)
    Image.new('RGB', (8, 8), (number % 250, number // 250, 7)).save(path)


def fill(folder: Path, numbers: dict[str, int] = NUMBERS) -> None:
    for name, number in numbers.items():
        for i in range(number):
            draw(folder / name / f'{name}_{i}.png')


def write_table(path: Path, rows: list, delimiter: str = ',') -> None:
    with path.open('w', newline='') as file:
        csv.writer(file, delimiter=delimiter).writerows(rows)


@pytest.fixture
def data(tmp_path):
    (tmp_path / 'data').mkdir()
    return tmp_path / 'data'


@pytest.fixture
def find(tmp_path):
    return lambda **settings: find_classification(tmp_path / 'data', tmp_path / 'work_dir/data', **settings)


def read(layout: Layout, split: str) -> dict[str, str]:
    """The class of each image of a split as a run reads it, by the name of its file."""
    dataset = TimmDataset(transform=dict(input_size=8), **layout.splits[split])
    assert dataset.metainfo['classes'] == layout.classes
    samples = [dataset[i] for i in range(len(dataset))]
    assert not any(sample['broken'] for sample in samples) and len(samples) == layout.numbers[split]
    return {Path(sample['names']).name: layout.classes[sample['labels']] for sample in samples}


@pytest.mark.parametrize(('train', 'val'), [('train', 'val'), ('training', 'validation'), ('set/Train', 'set/valid')])
def test_folders_of_splits_are_read_as_they_are(train, val, data, find, tmp_path):
    fill(data / train)
    fill(data / val, dict.fromkeys(NUMBERS, 1))
    layout = find()
    assert (
        str(layout) == ('folders of classes, 4 classes (cat, cow 2, cow 10, dog), 21 train + 4 val images')
        and not layout.notes
    )
    assert layout.splits['train'] == dict(data_root=f'{data}/', data_prefix=train)
    assert layout.splits['val'] == dict(data_root=f'{data}/', data_prefix=val)
    assert {name.rpartition('_')[0] for name in read(layout, 'val')} == {*NUMBERS}
    for split in ('train', 'val'):
        assert all(name.startswith(label + '_') for name, label in read(layout, split).items())
    assert not (tmp_path / 'work_dir').exists()


def test_a_folder_without_splits_is_divided_class_by_class(data, find, tmp_path):
    """The lists are written beside the run, the same each time; nothing is written to the data."""
    fill(data)
    fill(data / '__MACOSX', {'cat': 1})
    before = sorted(data.rglob('*'))
    layout = find()
    assert str(layout) == 'folders of classes, 4 classes (cat, cow 2, cow 10, dog), 17 train + 4 val images'
    found = {split: read(layout, split) for split in ('train', 'val')}
    assert Counter(found['val'].values()) == dict.fromkeys(NUMBERS, 1)
    assert not found['train'].keys() & found['val'].keys()
    assert all(name.startswith(label + '_') for part in found.values() for name, label in part.items())
    assert layout.notes == [
        f'there are no images to validate on: 4 of 21 are drawn (--val-split 0.2) and listed in '
        f'{tmp_path / "work_dir/data/val.csv"}'
    ]
    assert find() == layout and sorted(data.rglob('*')) == before
    assert find(val_split=0.5).numbers['val'] in (10, 11)


def test_training_images_alone_are_divided_and_test_stays_test(data, find):
    fill(data / 'train')
    fill(data / 'test', {'dog': 2})
    layout = find()
    assert layout.numbers == {'train': 17, 'val': 4, 'test': 2} and layout.classes == CLASSES
    assert read(layout, 'test') == {'dog_0.png': 'dog', 'dog_1.png': 'dog'}


def test_labels_stay_those_of_training_where_a_split_lacks_a_class(data, find):
    """The numbers of the classes that follow would else be others."""
    fill(data / 'train')
    fill(data / 'val', {'cow 10': 1, 'dog': 1})
    layout = find()
    assert layout.notes == ['val has no image of cat, cow 2']
    assert read(layout, 'val') == {'cow 10_0.png': 'cow 10', 'dog_0.png': 'dog'}
    assert len(read(layout, 'train')) == 21


@pytest.mark.parametrize(('name', 'near'), [('Dogs', '; is Dogs the class dog?'), ('zebra', ':')])
def test_a_class_that_is_not_trained_is_named(name, near, data, find):
    fill(data / 'train')
    fill(data / 'val', {**NUMBERS, name: 1})
    with pytest.raises(UserError) as refused:
        find()
    assert str(refused.value) == (
        f'The val images have the class {name}, which the training images have not{near} give both the same names, or '
        f'leave such images out.'
    )


TABLES = {  # rows of a table for an image of a name and a class; titles; delimiter
    'titles': (lambda name, label: [f'images/{name}.png', label], ['file', 'label'], ','),
    'no titles': (lambda name, label: [f'{name}.png', label], None, ','),
    'labels first': (lambda name, label: [label, f'{name}.png'], None, ';'),
    'ids without file types': (lambda name, label: [name, label], ['id', 'breed'], ','),
    'paths of another machine': (lambda name, label: [f'C:\\me\\images\\{name}.png', label], ['path', 'class'], '\t'),
    'more columns': (
        lambda name, label: [7, f'{name}.png', 0.5, label, 'x'],
        ['', 'image', 'width', 'Label', 'x'],
        ',',
    ),
    'groups of classes': (lambda name, label: [f'{name}.png', label[0], label], ['image', 'category', 'label'], ','),
    'ids and names of classes': (
        lambda name, label: [f'{name}.png', CLASSES.index(label), label],
        ['image', 'class_id', 'class'],
        ',',
    ),
    'a column for each class': (
        lambda name, label: [f'{name}.png', *[float(label == one) for one in CLASSES]],
        ['filename', *CLASSES],
        ',',
    ),
}


def make_images(data: Path, folder: str = 'images') -> dict[str, str]:
    """Images in one folder; their classes by name."""
    labels = {f'{name} {i}': name for name, number in NUMBERS.items() for i in range(number)}
    for name in labels:
        draw(data / folder / f'{name}.png')
    return labels


@pytest.mark.parametrize('kind', TABLES)
def test_a_table_of_labels_is_read_by_what_it_holds(kind, data, find):
    row, titles, delimiter = TABLES[kind]
    labels = make_images(data)
    write_table(data / 'labels.csv', [*[titles] * bool(titles), *(row(*item) for item in labels.items())], delimiter)
    layout = find()
    assert str(layout) == 'table of labels, 4 classes (cat, cow 2, cow 10, dog), 17 train + 4 val images'
    found = read(layout, 'train') | read(layout, 'val')
    assert found == {f'{name}.png': label for name, label in labels.items()}


@pytest.mark.parametrize('names', [('train.csv', 'val.csv'), ('train_labels.csv', 'valid_labels.csv')])
def test_tables_of_splits_and_images_of_the_same_names(names, data, find):
    """Each image is looked for in the folder of its split."""
    for split, table in zip(('train', 'val'), names, strict=True):
        for i in range(4):
            draw(data / split / f'{i}.png')
        write_table(data / table, [['image', 'y'], *([i, i % 2] for i in range(4))])
    write_table(data / 'test.csv', [['image'], [7]])
    layout = find()
    assert layout.classes == ('0', '1') and layout.numbers == {'train': 4, 'val': 4}
    for split in ('train', 'val'):
        dataset = TimmDataset(transform=dict(input_size=8), **layout.splits[split])
        assert [sample['names'] for sample in map(dataset.__getitem__, range(4))] == [
            f'{split}/{i}.png' for i in range(4)
        ]
        assert read(layout, split) == {f'{i}.png': str(i % 2) for i in range(4)}


def test_a_table_may_have_a_column_of_splits(data, find):
    labels = make_images(data)
    splits = dict(zip(labels, itertools.cycle(['train', 'train', 'valid']), strict=False))
    rows = [[f'{name}.png', label, splits[name]] for name, label in labels.items()]
    write_table(data / 'all.csv', [['filepaths', 'labels', 'data set'], *rows])
    layout = find()
    assert layout.numbers == {'train': 14, 'val': 7}
    assert {*read(layout, 'val')} == {f'{name}.png' for name in labels if splits[name] == 'valid'}


def test_a_table_can_be_named(data, find):
    labels = make_images(data)
    for table, part in (('a.csv', [*labels][::2]), ('b.csv', [*labels][1::2])):
        write_table(data / table, [[f'{name}.png', labels[name]] for name in part])
    with pytest.raises(UserError, match='has several tables of train labels, a.csv, b.csv: name one by --train-ann'):
        find()
    layout = find(train_ann='a.csv', val_ann='b.csv')
    assert layout.numbers == {'train': 11, 'val': 10} and find(train_ann='b.csv', val_split=0.5).numbers['train'] == 5


REFUSED = {
    'nothing': ([], 'has no labelled images for training: looked for a folder of images for each class'),
    'an image is missing': (
        [['0.png', 'a'], ['1.png', 'b'], ['2.png', 'b'], ['9.png', 'b']],
        r'1 of 4 images of .*labels.csv are not there: 9.png; put them beside it, or take them out',
    ),
    'two classes': (
        [['0.png', 'a'], ['1.png', 'b'], ['0.png', 'b']],
        r'labels.csv has images/0.png twice, as a and as b: an image has one class',
    ),
    'two columns': (
        [['image', 'kind', 'colour'], ['0.png', 'a', 'red'], ['1.png', 'b', 'red']],
        r'labels.csv has the columns kind, colour, any of which may hold the classes: give one .* the title label',
    ),
    'two columns with titles': (
        [['image', 'category', 'class'], ['0.png', 'a', 'red'], ['1.png', 'b', 'red'], ['2.png', 'b', 'blue']],
        r'labels.csv has the columns category, class, any of which may hold the classes: give one .* the title label',
    ),
    'no label': (
        [['image', 'label'], ['0.png', 'a'], ['1.png', ''], ['2.png', 'b']],
        r'1 of 3 images of .*labels.csv have no label: 1.png; write it, or take them out of the list',
    ),
    'several classes an image': (
        [['image', 'a', 'b'], ['0.png', 1, 1], ['1.png', 0, 1]],
        r"labels.csv marks no or several classes in the row \['0.png', '1', '1'\]: a classifier here learns one class",
    ),
}


@pytest.mark.parametrize('kind', REFUSED)
def test_a_table_that_says_too_little_is_refused_in_one_sentence(kind, data, find):
    rows, sentence = REFUSED[kind]
    for i in range(3):
        draw(data / f'images/{i}.png')
    write_table(data / 'labels.csv', rows)
    with pytest.raises(UserError, match=sentence) as refused:
        find()
    assert '\n' not in str(refused.value)


def test_samples_of_submissions_are_no_tables(data, find):
    labels = make_images(data, 'train')
    write_table(data / 'labels.csv', [['id', 'breed'], *labels.items()])
    make_images(data, 'test')
    write_table(data / 'sample_submission.csv', [['id', *CLASSES], *([name, *[0.25] * 4] for name in labels)])
    assert find().numbers == {'train': 17, 'val': 4}


@pytest.mark.parametrize('inner', ['{0}/{1}', 'train/{0}/{1}', 'train/{0}/inner', 'train/{0}/video_{1}_{0}'])
def test_folders_within_folders_of_classes_are_refused(inner, data, find):
    for name in ('cat', 'dog'):
        for i in range(2):
            draw(data / inner.format(name, i) / f'{i}.png')
    with pytest.raises(UserError, match=r'cat/.* lies in the folder cat, and either may be the class: move images up'):
        find()


def test_a_folder_around_all_classes_is_no_class(data, find):
    fill(data / 'train/images')
    fill(data / 'val/images')
    assert find().classes == CLASSES


def test_a_table_that_contradicts_the_folders_is_told(data, find):
    labels = make_images(data, 'train/place a') | make_images(data, 'train/place b')
    fill(data / 'val', {'place a': 1, 'place b': 1})
    write_table(
        data / 'train.csv', [['image', 'label'], *([f'place a/{name}.png', one] for name, one in labels.items())]
    )
    layout = find()
    assert layout.classes == ('place a', 'place b') and layout.notes == [
        'a table gives images of one folder several labels: to learn these, name it with --train-ann'
    ]
    assert find(train_ann='train.csv').classes == CLASSES


def test_a_split_is_drawn_only_where_there_is_none(data, find):
    fill(data / 'train')
    fill(data / 'val')
    with pytest.raises(
        UserError, match='--val-split would draw images to validate on, but .* has 21: leave one of them'
    ):
        find(val_split=0.2)


def test_imagenettes_layout_is_imagenets(real_data, tmp_path):
    layout = find_classification(real_data / 'imagenette', tmp_path)
    assert layout.numbers == {'train': 1000, 'val': 500} and len(layout.classes) == 10
    assert layout.splits['train'] == dict(data_root=f'{real_data}/imagenette/', data_prefix='train')
    assert layout.classes[0] == 'n01440764' and not layout.notes


def test_images_that_no_class_map_has_are_refused(data, tmp_path):
    fill(data)
    shutil.rmtree(data / 'dog')
    write_table(tmp_path / 'list.csv', [['cat/cat_0.png', 'cat'], ['cow 2/cow 2_0.png', 'cow 2']])
    (tmp_path / 'names.txt').write_text('cat\ndog\n')
    settings = dict(data_root=str(data), ann_file=str(tmp_path / 'list.csv'))
    with pytest.raises(UserError, match='list.csv has classes that the class_map lacks: cow 2'):
        TimmDataset(**settings, class_map=str(tmp_path / 'names.txt'))
    dataset = TimmDataset(**settings)
    assert dataset.metainfo['classes'] == ('cat', 'cow 2') and np.array(dataset[1]['labels']) == 1
