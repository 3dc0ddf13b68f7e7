"""Segmentation data is recognised from its folder, and each mask is read as what it means. Exact."""

import re
import shutil
from pathlib import Path

import numpy as np
import own_sets_masks as sets
import pytest
from mmengine.registry import DATASETS, init_default_scope
from PIL import Image

from convnext_backbone import UserError
from convnext_backbone.datasets.layouts import Layout
from convnext_backbone.datasets.mask_check import check_masks
from convnext_backbone.datasets.segmentation_layouts import find_segmentation

CLASSES = tuple(sets.CAMVID)
COLORS = tuple(sets.CAMVID.values())
NUMBERS = {'train': 4, 'val': 3}
PIPELINE = [dict(type='LoadImageFromFile'), dict(type='LoadAnnotations'), dict(type='PackSegInputs')]


def make_source(folder: Path, classes: int = len(CLASSES)) -> Path:
    """Small images, and masks in which the first image has all classes, and void."""
    rng = np.random.default_rng(0)
    for split, number in NUMBERS.items():
        for i in range(number):
            ids = rng.integers(0, classes, (8, 12), np.uint8).repeat(2, 0)
            ids[0], ids[1, :classes] = 255, range(classes)
            sets.save(rng.integers(0, 255, (16, 12, 3), np.uint8), folder / f'img_dir/{split}/{split}_{i + 9}.jpg')
            sets.save(ids, folder / f'ann_dir/{split}/{split}_{i + 9}.png')
    return folder


@pytest.fixture(scope='module')
def source(tmp_path_factory):
    return make_source(tmp_path_factory.mktemp('source'))


@pytest.fixture
def find(tmp_path):
    return lambda **settings: find_segmentation(tmp_path / 'data', tmp_path / 'work_dir/data', **settings)


def read_masks(layout: Layout, split: str, pipeline: list = PIPELINE) -> dict[str, np.ndarray]:
    """The labels of a split as a run reads them, by the name of the image, without what stands around it."""
    init_default_scope('mmseg')
    metainfo = dict(classes=layout.classes, palette=[[*color] for color in layout.palette])
    config = dict(layout.splits[split], metainfo=metainfo, pipeline=pipeline)
    assert check_masks(config, 'mmseg', split).unseen == () or 'no pixel' in ' '.join(layout.notes)
    samples = [sample['data_samples'] for sample in DATASETS.build(config)]
    return {re.search(r'(train|val)_\d+', sample.img_path)[0]: sample.gt_sem_seg.data[0].numpy() for sample in samples}


def expected_masks(source: Path, *splits: str) -> dict[str, np.ndarray]:
    return {image.stem: ids for split in splits for image, ids in sets.read(source, split)}


def assert_same(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    assert found.keys() == expected.keys()
    for name, mask in found.items():
        assert np.array_equal(mask, expected[name]), name


def named(
    paint, names: str = 'classes.txt', text: str = '\n'.join(CLASSES), images='images/{split}', masks='masks/{split}'
):
    """A layout of folders with a file that names the classes."""

    def make(source: Path, out: Path) -> None:
        sets.write(source, out, None, images + '/{stem}.jpg', masks + '/{stem}.png', paint)
        (out / names).write_text(text)

    return make


def colors_of(first: bool, void: str = '') -> str:
    rows = [
        ('{1} {2} {3}\t\t{0}' if first else '{0} {1} {2} {3}').format(name, *color)
        for name, color in sets.CAMVID.items()
    ]
    return '\n'.join([*rows, void])


UNNAMED = tuple(f'class_{i}' for i in range(len(CLASSES)))
KNOWN = {  # layout: what makes it, the line that is printed of it, its classes
    "mmsegmentation's": (
        lambda source, out: shutil.copytree(source, out),
        'masks as class ids (img_dir/train + ann_dir/train)',
        UNNAMED,
    ),
    "ADE20K's": (sets.ade20k, 'masks as class ids (images/training + annotations/training)', UNNAMED),
    "CamVid's": (sets.camvid_in_colors, 'masks as colours (train + train_labels)', CLASSES),
    "SegNet's": (sets.camvid_of_segnet, 'masks as class ids (train + trainannot)', CLASSES),
    "Pascal VOC's": (sets.voc, 'masks as palette PNGs (JPEGImages + SegmentationClass)', CLASSES),
    "Roboflow's": (sets.roboflow, 'masks as class ids (train + train)', CLASSES),
    'folders in splits': (
        named(lambda ids: ids, images='{split}/images', masks='{split}/masks'),
        'masks as class ids (train/images + train/masks)',
        CLASSES,
    ),
    'label_colors.txt': (
        named(sets.colored, 'label_colors.txt', colors_of(True, '0 0 0\t\tVoid')),
        'masks as colours (images/train + masks/train)',
        CLASSES,
    ),
    'colours after names': (
        named(sets.colored, 'classes.txt', colors_of(False, 'unlabelled 0 0 0')),
        'masks as colours (images/train + masks/train)',
        CLASSES,
    ),
    "CamVid's colours without a file": (
        named(sets.colored, 'README.txt', 'hello'),
        'masks as colours (images/train + masks/train)',
        CLASSES,
    ),
    'void last': (
        named(lambda ids: np.where(ids == 255, 11, ids).astype(np.uint8), text='\n'.join([*CLASSES, 'Void'])),
        'masks as class ids (images/train + masks/train)',
        CLASSES,
    ),
    'ids in three channels': (
        named(lambda ids: np.stack([ids + np.uint8(1)] * 3, -1), text='\n'.join(['void', *CLASSES])),
        'masks as colours (images/train + masks/train)',
        CLASSES,
    ),
    'colours as a palette of each mask': (
        named(lambda ids: sets.colored(ids).quantize(12), 'classes.txt', colors_of(False, 'void 0 0 0')),
        'masks as colours (images/train + masks/train)',
        CLASSES,
    ),
}


@pytest.mark.parametrize('kind', KNOWN)
def test_a_layout_is_recognised_and_its_masks_are_read_as_ids(kind, source, tmp_path, find):
    make, line, classes = KNOWN[kind]
    make(source, tmp_path / 'data')
    layout = find()
    numbers = ', '.join(classes[:4])
    assert str(layout) == f'{line}, 11 classes ({numbers}, ...), 4 train + 3 val images'
    assert layout.classes == classes and len({*layout.palette}) == 11
    if classes is CLASSES and 'ids' not in kind and kind not in ("Roboflow's", 'void last', 'folders in splits'):
        assert layout.palette == COLORS
    for split in NUMBERS:
        assert_same(read_masks(layout, split), expected_masks(source, split))


@pytest.mark.parametrize('kinds', [('labelTrainIds', 'labelIds', 'color'), ('labelIds', 'color'), ('color',)])
def test_cityscapes_is_read_in_each_of_its_forms(kinds, source, tmp_path, find):
    sets.cityscapes(source, tmp_path / 'data', kinds=kinds)
    layout = find()
    assert layout.classes[:3] == ('road', 'sidewalk', 'building') and len(layout.classes) == 19
    assert layout.splits['val']['seg_map_suffix'] == f'_gtFine_{kinds[0]}'
    assert layout.numbers == NUMBERS and layout.notes[0] == 'test is left out, as its masks are void'
    assert layout.notes[1] == 'the classes are those of Cityscapes, which has such masks'
    assert layout.notes[2] == 'the 8 masks have no pixel of person, rider, car, truck, ... (8 in all)'
    for split in NUMBERS:
        found = read_masks(layout, split)
        assert_same(found, expected_masks(source, split))


def test_sets_of_tests_do_not_change_their_source(tmp_path):
    """Such as the photographs of ``CONVNEXT_REAL_DATA``."""
    source = make_source(tmp_path / 'source')
    before = {path: path.read_bytes() for path in source.rglob('*.*')}
    for write in (sets.camvid_in_colors, sets.camvid_of_segnet, sets.cvat, sets.roboflow, sets.voc, sets.cityscapes):
        write(source, tmp_path / write.__name__)
    assert {path: path.read_bytes() for path in source.rglob('*.*')} == before


def test_a_set_without_splits_is_divided_by_name(source, tmp_path, find):
    """The lists are written beside the run, the same each time; nothing is written to the data."""
    sets.cvat(source, tmp_path / 'data')
    before = sorted((tmp_path / 'data').rglob('*'))
    layout = find(val_split=0.4)
    assert layout.numbers == {'train': 4, 'val': 3} and layout.classes == CLASSES and layout.palette == COLORS
    lists = {split: (tmp_path / f'work_dir/data/{split}.txt').read_text() for split in NUMBERS}
    found = {split: read_masks(layout, split) for split in NUMBERS}
    for split in NUMBERS:
        assert layout.splits[split]['ann_file'] == str(tmp_path / f'work_dir/data/{split}.txt')
        assert lists[split].split() == [*found[split]]
    assert not found['train'].keys() & found['val'].keys()
    assert_same(found['train'] | found['val'], expected_masks(source, 'train', 'val'))
    assert find(val_split=0.4) == layout and lists['val'] == (tmp_path / 'work_dir/data/val.txt').read_text()
    assert sorted((tmp_path / 'data').rglob('*')) == before
    assert any('3 of 7 are drawn (--val-split 0.4) and listed in' in note for note in layout.notes)


def test_file_types_may_be_mixed_and_names_may_be_numbers(source, tmp_path, find):
    for i, (image, ids) in enumerate(sets.read(source, 'train')):
        name = tmp_path / 'data/images' / f'{10**i}.{["jpg", "JPEG", "png", "bmp"][i]}'
        name.parent.mkdir(parents=True, exist_ok=True)
        Image.open(image).save(name)
        sets.save(ids, tmp_path / f'data/masks/{10**i}_mask.{["png", "PNG", "bmp", "tif"][i]}')
    sets.save(np.zeros((4, 4), np.uint8), tmp_path / 'data/masks/spare_mask.png')
    (tmp_path / 'data/images/.hidden.jpg').touch()
    layout = find(val_split=0.5)
    assert layout.splits['train']['seg_map_suffix'] == '_mask' and layout.numbers == {'train': 2, 'val': 2}
    assert layout.notes[0] == '1 masks of masks have no image and are left out'


PAIRS = {  # the values in masks: a file of names, the classes, the labels of the values
    '0 and 255': ([0, 255], None, ('background', 'object'), [0, 1]),
    '0 and 255 of one class': ([0, 255], 'crack', ('background', 'crack'), [0, 1]),
    '0 and 255 of two classes': ([0, 255], 'soil\nweed', ('soil', 'weed'), [0, 1]),
    '0 and 1 of one class': ([0, 1], 'crack', ('background', 'crack'), [0, 1]),
    'black and white': ([(0, 0, 0), (255, 255, 255)], None, ('background', 'object'), [0, 1]),
    'black and red': ([(0, 0, 0), (255, 0, 0)], None, ('background', 'object'), [0, 1]),
    'red and black of one class': ([(255, 0, 0), (0, 0, 0)], 'crack 255 0 0', ('background', 'crack'), [1, 0]),
    'three levels': ([0, 128, 255], None, ('class_0', 'class_1', 'class_2'), [0, 1, 2]),
    'three levels of two classes': ([0, 128, 255], 'a\nb', ('background', 'a', 'b'), [0, 1, 2]),
    'ids and void': ([0, 1, 2, 255], None, ('class_0', 'class_1', 'class_2'), [0, 1, 2, 255]),
    'ids with gaps': ([0, 7, 30, 255], None, ('class_0', 'class_1', 'class_2'), [0, 1, 2, 255]),
    'ids of a file': ([3, 9, 255], '3: road\n9: car', ('road', 'car'), [0, 1, 255]),
    'ids from 1': ([1, 2], 'road\ncar', ('road', 'car'), [0, 1]),
    'ids from 0 for names from 1': ([0, 1, 2], 'road\ncar', ('background', 'road', 'car'), [0, 1, 2]),
    'void in the middle': ([0, 1, 2], 'road\nignore\ncar', ('road', 'car'), [0, 255, 1]),
    'void first': ([0, 1, 2], '__ignore__\nroad\ncar', ('road', 'car'), [255, 0, 1]),
    'void first, the last unseen': ([0, 1, 2], 'void\nroad\ncar\nbus', ('road', 'car', 'bus'), [255, 0, 1]),
    "labelme's": ([0, 1, 255], '__ignore__\n_background_\ncar', ('_background_', 'car'), [0, 1, 255]),
    'ids in three channels': ([(0,) * 3, (1,) * 3, (255,) * 3], 'road\ncar', ('road', 'car'), [0, 1, 255]),
    'ids in three channels without names': ([(i,) * 3 for i in (0, 1, 2, 255)], None, UNNAMED[:3], [0, 1, 2, 255]),
    'background as 255': ([0, 1, 255], '0 road\n1 car\n255 background', ('road', 'car'), [0, 1, 255]),
    'colours without names': ([(9, 9, 9), (0, 0, 0), (0, 5, 0)], None, ('class_0', 'class_1', 'class_2'), [2, 0, 1]),
    'grey colours of a file': ([0, 100, 200], 'void 0 0 0\na 200 200 200\nb 100 100 100', ('a', 'b'), [255, 1, 0]),
}


def make_values(folder: Path, values: list, names: str | None) -> np.ndarray:
    """Two images with masks of such values; returns the places of the values in the masks."""
    places = np.arange(len(values)).repeat(4).reshape(-1, 4)
    mask = np.array(values, np.uint8)[places]
    for i in range(2):
        sets.save(np.zeros((len(values), 4, 3), np.uint8), folder / f'images/train_{i}.jpg')
        sets.save(mask, folder / f'masks/train_{i}.png')
    if names is not None:
        (folder / 'classes.txt').write_text(names)
    return places


@pytest.mark.parametrize('kind', PAIRS)
def test_values_of_masks_become_labels(kind, tmp_path, find):
    values, names, classes, labels = PAIRS[kind]
    places = make_values(tmp_path / 'data', values, names)
    layout = find()
    assert layout.classes == classes
    found = read_masks(layout, 'train')
    assert_same(found, dict.fromkeys(found, np.array(labels)[places]))


@pytest.mark.parametrize(
    ('image', 'mask'),
    [('img_train_{}', 'mask_train_{}'), ('train_{}', 'masktrain_{}'), ('a-train_{}', 'a-train_{}_gt')],
)
def test_names_that_begin_with_other_words_are_paired(image, mask, tmp_path, find):
    for i in (1, 2, 10, 11):
        sets.save(np.full((4, 4, 3), i, np.uint8), tmp_path / f'data/images/{image.format(i)}.png')
        sets.save(np.full((4, 4), i % 3, np.uint8), tmp_path / f'data/masks/{mask.format(i)}.png')
    layout = find()
    assert layout.numbers == dict(train=3, val=1)
    masks = {**read_masks(layout, 'train'), **read_masks(layout, 'val')}
    assert {name: found.max() for name, found in masks.items()} == {f'train_{i}': i % 3 for i in (1, 2, 10, 11)}


@pytest.mark.parametrize(
    ('image', 'mask'),
    [('img_{}', 'mask_{}'), ('{}', 'mask{}'), ('{}_image', '{}_mask'), ('a-{}-sat', 'a-{}-mask'), ('{}.rgb', '{}.gt')],
)
def test_masks_in_the_folder_of_their_images_are_told_by_name(image, mask, tmp_path, find):
    for i in (1, 2, 10, 11):
        sets.save(np.full((4, 4, 3), i, np.uint8), tmp_path / f'data/{image.format(f"train_{i}")}.png')
        sets.save(np.full((4, 4), i % 3, np.uint8), tmp_path / f'data/{mask.format(f"train_{i}")}.png')
    layout = find()
    assert layout.numbers == dict(train=3, val=1)
    masks = {**read_masks(layout, 'train'), **read_masks(layout, 'val')}
    assert {name: found.max() for name, found in masks.items()} == {f'train_{i}': i % 3 for i in (1, 2, 10, 11)}


def test_rare_objects_are_looked_for_in_all_masks(tmp_path, find):
    """Where a sample holds the background alone: 255 is then no void."""
    for i in range(100):
        sets.save(np.zeros((4, 4, 3), np.uint8), tmp_path / f'data/images/{i}.jpg')
        sets.save(np.full((4, 4), 255 * (i == 33), np.uint8), tmp_path / f'data/masks/{i}.png')
    (tmp_path / 'data/classes.txt').write_text('wall\ncrack')
    layout = find()
    assert layout.classes == ('wall', 'crack') and layout.splits['train']['values'] == [0, 255]


def test_classes_that_never_occur_are_told(tmp_path, find):
    make_values(tmp_path / 'data', [0, 1, 3], 'a\nb\nc\nd')
    assert find().notes[-1] == 'the 2 masks have no pixel of c'


def test_a_background_that_no_file_names_is_told(tmp_path, find):
    make_values(tmp_path / 'data', [0, 1, 2], 'road\ncar')
    assert (
        '0 is no class of classes.txt and became the class background: if such pixels have no class, name it void there'
        in find().notes
    )


def test_the_21_classes_of_pascal_voc_are_known_by_their_palette(tmp_path, find):
    from mmseg.datasets import PascalVOCDataset

    colors = PascalVOCDataset.METAINFO['palette']
    for i in range(2):
        sets.save(np.zeros((21, 4, 3), np.uint8), tmp_path / f'data/JPEGImages/{i}.jpg')
        mask = sets.palette_png(np.arange(21, dtype=np.uint8)[:, None].repeat(4, 1), colors)
        sets.save(mask, tmp_path / f'data/SegmentationClass/{i}.png')
    layout = find()
    assert layout.classes == tuple(PascalVOCDataset.METAINFO['classes']) and [*map(list, layout.palette)] == colors


def test_folders_and_lists_can_be_named(source, tmp_path, find):
    data = tmp_path / 'data'
    sets.write(source, data, None, 'images/{stem}.jpg', 'masks_a/{stem}.png')
    sets.write(source, tmp_path / 'other', None, 'images/{stem}.jpg', 'masks_b/{stem}.png', lambda ids: ids % 2)
    shutil.move(tmp_path / 'other/masks_b', data / 'masks_b')
    with pytest.raises(UserError, match='has several folders that may hold masks: masks_a, masks_b'):
        find()
    layout = find(train_ann='masks_b')
    assert layout.splits['train']['data_prefix'] == dict(img_path='images', seg_map_path='masks_b')
    shutil.rmtree(data / 'masks_a')
    (data / 'mine.txt').write_text('val_9.jpg\nimages/val_10\n')
    layout = find(val_ann='mine.txt')
    assert layout.numbers == {'train': 7, 'val': 2} and read_masks(layout, 'val').keys() == {'val_9', 'val_10'}
    assert layout.notes[0] == '2 of 2 images to validate on are trained on, too: val_9, val_10'
    (data / 'rest.txt').write_text('\n'.join(f'train_{i}' for i in (9, 10, 11, 12)))
    assert find(train_ann='rest.txt', val_ann='mine.txt').numbers == {'train': 4, 'val': 2}


REFUSED = {
    'no masks': (
        lambda data: shutil.rmtree(data / 'masks'),
        r'No mask in .*images \(train_0, train_1\) has the name of an image of .*name masks after their images',
    ),
    'a mask is missing': (
        lambda data: (data / 'masks/train_1.png').unlink(),
        r'1 of 2 images have no mask in .*masks: .*images/train_1.jpg; the mask of x.jpg is x.png',
    ),
    'nothing': (
        lambda data: (shutil.rmtree(data / 'masks'), shutil.rmtree(data / 'images')),
        'has no images and masks for training: looked for .*found images in no folder; name .* --train-ann',
    ),
    'two images of a name': (
        lambda data: shutil.copy(data / 'images/train_0.jpg', data / 'images/train_0.JPG'),
        'train_0.(jpg|JPG) and .*train_0.(jpg|JPG) have one name',
    ),
    'a JPEG': (
        lambda data: shutil.copy(data / 'images/train_0.jpg', data / 'masks/train_0.png'),
        'masks/train_0.png is a JPEG, whose compression changes values',
    ),
    'not an image': (lambda data: (data / 'masks/train_0.png').write_bytes(b'x'), 'train_0.png cannot be read'),
    'an id without a name': (
        lambda data: (data / 'classes.txt').write_text('road'),
        r'train_\d.png has the id 2, which no class of .*classes.txt has \(road\): add it there',
    ),
    'contradicting files': (
        lambda data: (data / 'labels.txt').write_text('road\nbus\ncar'),
        r'classes.txt and .*labels.txt name other classes: road, tree, car, and road, bus, car; remove one',
    ),
    'a name twice': (lambda data: (data / 'classes.txt').write_text('a\nb\na'), 'classes.txt has the name a twice'),
    'a colour twice': (
        lambda data: (data / 'classes.txt').write_text('a 1 2 3\nb 1 2 3'),
        r'classes.txt has the color \(1, 2, 3\) twice',
    ),
    'half a colour': (
        lambda data: (data / 'classes.txt').write_text('a 1 2 3\nb 1 2 4\nc 1 2'),
        "is no list of classes: its line 'c 1 2' has no colour such as 128 64 0",
    ),
    'no colour': (
        lambda data: (data / 'classes.txt').write_text('a 1 2 3\nb 1 2 256'),
        'the colour 1 2 256 is none of 0 to 255',
    ),
    'smoothed edges': (
        lambda data: sets.save(
            np.random.default_rng(0).integers(0, 255, (50, 50, 3), np.uint8), data / 'masks/train_0.png'
        ),
        'train_0.png has more than 1000 colours: write masks as PNG, .*not smoothed',
    ),
    'one mask in colours': (
        lambda data: sets.save(sets.colored(np.eye(4, dtype=np.uint8)), data / 'masks/train_1.png'),
        r'train_1.png has the colour \(128, \d+, \d+\), and .*classes.txt names no colours',
    ),
    'colours without names': (
        lambda data: [
            sets.save(sets.colored(np.eye(4, dtype=np.uint8)), data / f'masks/train_{i}.png') for i in (0, 1)
        ],
        r'has the colour \(128, 0, 0\), and .*classes.txt names no colours: write lines such as "road 128 64 0"',
    ),
}


@pytest.mark.parametrize('kind', REFUSED)
def test_what_cannot_be_read_is_refused_in_one_sentence(kind, tmp_path, find):
    spoil, sentence = REFUSED[kind]
    make_values(tmp_path / 'data', [0, 1, 2], 'road\ntree\ncar')
    spoil(tmp_path / 'data')
    with pytest.raises(UserError, match=sentence) as refused:
        find()
    assert '\n' not in str(refused.value)


def test_a_split_is_drawn_only_where_there_is_none(source, tmp_path, find):
    shutil.copytree(source, tmp_path / 'data')
    with pytest.raises(UserError, match='--val-split would draw images to validate on, but .* has 3: leave one'):
        find(val_split=0.2)


def test_an_unknown_value_is_named_when_its_mask_is_loaded(source, tmp_path, find):
    """A sample is looked at before a run; each mask is looked at when it is loaded."""
    sets.camvid_in_colors(source, tmp_path / 'data')
    layout = find()
    path = tmp_path / 'data/train_labels/train_10_L.png'
    mask = np.array(Image.open(path))
    mask[3, :6] = 1, 2, 3
    sets.save(mask, path)
    with pytest.raises(UserError) as refused:
        read_masks(layout, 'train')
    image = tmp_path / 'data/train/train_10.jpg'
    assert str(refused.value) == (
        f'The mask {path} of the image {image} has the colour (1, 2, 3), which no class has, and 3.1 % of its pixels '
        f"are of such: name it with a class or as void in the data's list of classes, or correct the mask; edges must "
        f'not be smoothed.'
    )


def test_test_time_augmentation_reads_the_same_masks(source, tmp_path, find):
    sets.camvid_in_colors(source, tmp_path / 'data')
    steps = [[dict(type='Resize', scale=(12, 16))], [dict(type='LoadAnnotations')], [dict(type='PackSegInputs')]]
    layout = find()
    config = dict(
        layout.splits['val'],
        metainfo=dict(classes=layout.classes, palette=layout.palette),
        pipeline=[dict(type='LoadImageFromFile'), dict(type='TestTimeAug', transforms=steps)],
    )
    init_default_scope('mmseg')
    masks = {Path(s['data_samples'][0].img_path).stem: s['data_samples'][0] for s in DATASETS.build(config)}
    assert_same({name: s.gt_sem_seg.data[0].numpy() for name, s in masks.items()}, expected_masks(source, 'val'))


def test_camvids_photographs_in_colours_are_read_as_their_ids(real_data, tmp_path, find):
    sets.camvid_in_colors(real_data / 'camvid', tmp_path / 'data', 5)
    layout = find()
    assert layout.classes == CLASSES and layout.numbers == {'train': 5, 'val': 5}
    init_default_scope('mmseg')
    for split in NUMBERS:
        data = DATASETS.build(dict(layout.splits[split], metainfo=dict(classes=CLASSES), pipeline=PIPELINE))
        for sample, (_, ids) in zip(data, sets.read(real_data / 'camvid', split, 5), strict=True):
            assert np.array_equal(sample['data_samples'].gt_sem_seg.data[0].numpy(), ids)
