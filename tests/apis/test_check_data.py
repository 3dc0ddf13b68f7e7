"""Checks of data: real photographs have no fault, and sets with one fault each have that, by name and number. Exact."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from own_sets import write_detection
from PIL import Image

from convnext_backbone.apis.check_data import DataReport, inspect_folder
from convnext_backbone.apis.data_pages import choose_samples, write_pages
from convnext_backbone.config.own_data import Annotations


def inspect(root: Path, out_dir: Path, **settings: object) -> DataReport:
    return inspect_folder(root, out_dir, Annotations(), **settings)


def problems_of(report: DataReport) -> set[tuple]:
    return {(one.split, one.kind, one.number, one.is_error) for one in report.problems}


@pytest.mark.parametrize('name', ['coco', 'camvid', 'imagenette'])
def test_real_data_has_no_fault(name, real_data, tmp_path):
    report = inspect(real_data / name, tmp_path)
    tasks = dict(coco='detection', camvid='segmentation', imagenette='classification')
    assert report.task == tasks[name] and not report.problems, report.problems
    assert not list(tmp_path.iterdir())


def test_classes_without_pixels_are_named(real_data, tmp_path):
    report = inspect(real_data / 'ade_samples/sampleData', tmp_path)
    assert {one.kind for one in report.problems} == {'classes without annotations'} and not report.has_errors


# Objects


@pytest.fixture
def objects(real_data, tmp_path) -> Path:
    write_detection('coco', real_data, tmp_path / 'set')
    return tmp_path / 'set'


def change_json(root: Path, change, split: str = 'train') -> None:
    path = root / f'annotations/instances_{split}2017.json'
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def photos(root: Path, split: str = 'train2017') -> list[Path]:
    return sorted((root / split).iterdir())


def set_first(**values: object):
    return lambda content: content['annotations'][0].update(values)


def to_corners(content: dict) -> None:
    for one in content['annotations']:
        x, y, width, height = one['bbox']
        one['bbox'] = [x, y, x + width, y + height]


def repeat_image(content: dict) -> None:
    content['images'].append(dict(content['images'][0], id=10**9))
    content['annotations'].append(dict(content['annotations'][0], id=10**9, image_id=10**9))
    wanted = content['images'][0]['id']
    content['annotations'][-1].update(
        next(
            {key: one[key] for key in ('bbox', 'segmentation', 'area')}
            for one in content['annotations']
            if one['image_id'] == wanted
        )
    )


def test_a_set_without_fault_has_none(objects, tmp_path):
    report = inspect(objects, tmp_path / 'out')
    assert not report.problems, report.problems
    assert report.numbers['train']['images'] == 6 and report.numbers['val']['images'] == 4
    train = json.loads((objects / 'annotations/instances_train2017.json').read_text())['annotations']
    assert report.numbers['train']['objects'] == len(train)
    small = sum(one['area'] <= 32**2 for one in train)
    assert report.numbers['train']['small'] == small


JSON_FAULTS = {
    'an id of no image': (set_first(image_id=987654), 'annotations with another image_id than any image', True),
    'an id of no category': (set_first(category_id=99), 'annotations with another category_id than any category', True),
    'an id as text': (
        set_first(category_id='1'),
        'annotations with text as category_id, where the id of the category is a number',
        True,
    ),
    'a box outside': (set_first(bbox=[5000, 5000, 40, 40]), 'annotations with a bbox outside of the image', True),
    'a box without size': (set_first(bbox=[5, 5, 0.5, 9]), 'annotations with a bbox below one pixel', True),
    'no area': (set_first(area=0), 'annotations with no area', True),
    'two points': (
        set_first(segmentation=[[1, 2, 3, 4]]),
        'annotations with a segmentation of fewer than three points',
        True,
    ),
    'a box of text': (set_first(bbox=['1', 2, 3, 4]), 'invalid entries', True),
    'an id twice': (set_first(id=2), 'ids that are there twice', True),
    'a picture twice': (repeat_image, 'pictures that are there twice', False),
    'a mask of another size': (set_first(segmentation=dict(size=[3, 4], counts=[12])), 'unusable masks', True),
}


@pytest.mark.parametrize('name', JSON_FAULTS)
def test_one_fault_in_a_json_is_found_and_no_other(name, objects, tmp_path):
    change, kind, is_error = JSON_FAULTS[name]
    change_json(objects, change)
    assert problems_of(inspect(objects, tmp_path / 'out')) == {('train', kind, 1, is_error)}


def test_corners_are_found(objects, tmp_path):
    change_json(objects, to_corners)
    report = inspect(objects, tmp_path / 'out')
    assert {(one.split, one.kind) for one in report.problems} == {('train', 'boxes that are not [x, y, width, height]')}
    assert report.has_errors and 'not two corners' in report.problems[0].example and report.problems[0].images


def test_crowds_everywhere_are_found(objects, tmp_path):
    change_json(objects, lambda content: [one.update(iscrowd=1) for one in content['annotations']])
    report = inspect(objects, tmp_path / 'out')
    number = report.numbers['train']['crowds']
    assert ('train', 'annotations with iscrowd=1, which are most of all', number, True) in problems_of(report)


def test_names_that_differ_in_case_are_found(objects, tmp_path):
    for split in ('train', 'val'):
        change_json(objects, lambda content: content['categories'][0].update(name='AUTO'), split)
    assert problems_of(inspect(objects, tmp_path / 'out')) == {('', 'class names that are almost the same', 2, False)}


def test_other_classes_of_a_split_are_found(objects, tmp_path):
    change_json(objects, lambda content: content['categories'][0].update(name='Katze'), 'val')
    report = inspect(objects, tmp_path / 'out')
    assert problems_of(report) == {('val', 'classes that are not those of training', 2, True)}
    assert 'only the first has Mensch, only the second Katze' in report.problems[0].example
    assert report.numbers['train']['images'] == 6 and [*report.numbers] == ['train']


def test_faults_of_image_files_are_found(objects, tmp_path):
    missing, broken, turned = photos(objects)[:3]
    missing.unlink()
    broken.write_bytes(broken.read_bytes()[:2000])
    Image.open(turned).resize((64, 48)).save(turned)
    shutil.copyfile(photos(objects)[-1], objects / 'val2017' / photos(objects, 'val2017')[0].name)
    found = {(one.split, one.kind): one for one in inspect(objects, tmp_path / 'out').problems}
    assert [*found[('train', 'missing images')].images] == [str(missing)]
    assert [*found[('train', 'unreadable images')].images] == [str(broken)]
    assert [*found[('train', 'images of another size than their annotations')].images] == [str(turned)]
    assert found[('val', 'pictures that another split has, too')].number == 1
    assert all(one.is_error and one.number == 1 for one in found.values())


# Masks


@pytest.fixture
def masks(real_data, tmp_path) -> Path:
    """A few scenes of CamVid."""
    for split, number in (('train', 6), ('val', 4)):
        for kind, name in (('img_dir', 'images'), ('ann_dir', 'masks')):
            (tmp_path / 'set' / name / split).mkdir(parents=True)
            for path in sorted((real_data / 'camvid' / kind / split).iterdir())[:number]:
                shutil.copyfile(path, tmp_path / 'set' / name / split / path.name)
    (tmp_path / 'set/classes.txt').write_text('\n'.join(f'thing {i}' for i in range(11)))
    return tmp_path / 'set'


def kinds_but_empty_classes(report: DataReport) -> set[tuple]:
    return {one[:2] for one in problems_of(report) if one[1] != 'classes without annotations'}


def first_mask(root: Path) -> Path:
    return min((root / 'masks/train').iterdir())


def test_masks_without_fault_have_none(masks, tmp_path):
    report = inspect(masks, tmp_path / 'out')
    assert report.task == 'segmentation' and not kinds_but_empty_classes(report)
    assert sum(one['share'] for one in report.numbers['train']['classes'].values()) == pytest.approx(1)


def test_a_mask_of_another_size_is_found(masks, tmp_path):
    mask = Image.open(first_mask(masks))
    mask.resize((240, 180), Image.Resampling.NEAREST).save(first_mask(masks))
    found = kinds_but_empty_classes(inspect(masks, tmp_path / 'out'))
    assert found == {('train', 'masks of another size than their image')}


@pytest.mark.parametrize(
    ('fault', 'named'),
    [
        ('missing', 'images without a mask'),
        ('no image', 'masks without an image'),
        ('value', 'values that no class has'),
        ('truncated', 'unusable masks'),
    ],
)
def test_masks_that_end_a_run_are_found_in_the_report(fault, named, masks, tmp_path):
    path = first_mask(masks)
    if fault == 'missing':
        path.unlink()
    elif fault == 'no image':
        next((masks / 'images/train').glob(f'{path.stem}.*')).unlink()
    elif fault == 'truncated':
        path.write_bytes(path.read_bytes()[:200])
    else:
        ids = np.array(Image.open(path))
        ids[:9, :9] = 99
        Image.fromarray(ids).save(path)
    report = inspect(masks, tmp_path / 'out')
    assert kinds_but_empty_classes(report) == {('train', named)}
    assert report.problems[0].number == 1 and report.problems[0].is_error
    assert report.numbers['train']['images'] == 6 - (fault in ('missing', 'no image'))


@pytest.mark.parametrize(
    ('mode', 'kind', 'named'),
    [('L', 'JPEG', 'is a JPEG, whose compression changes values'), ('LA', 'PNG', 'holds LA colours and not class ids')],
)
def test_masks_of_which_none_can_be_used_are_called_so(mode, kind, named, masks, tmp_path):
    for path in masks.glob('masks/*/*'):
        Image.open(path).convert(mode).save(path, kind)
    report = inspect(masks, tmp_path / 'out')
    assert problems_of(report) == {('', 'unusable data', 1, True)}
    assert named in report.problems[0].example


def test_a_folder_that_is_of_no_task_is_told_what_each_looks_for(masks, tmp_path):
    report = inspect(masks / 'images/train', tmp_path / 'out')
    assert report.task is None and problems_of(report) == {('', 'unusable data', 1, True)}
    for one in ('annotations', 'a folder of images for each class', 'name masks after their images'):
        assert one in report.problems[0].example


# Text files of boxes


def change_text(root: Path, change, suffix: str) -> Path:
    path = next(
        path for path in sorted(root.rglob(f'*{suffix}')) if path.parent.name != 'annotations' and 'train' in str(path)
    )
    path.write_text(change(path.read_text()))
    return path


TEXT_FAULTS = {
    'a class that is not there': (
        'yolo',
        '.txt',
        lambda text: f'9 0.5 0.5 0.1 0.1\n{text}',
        'lines that are no objects',
    ),
    'pixels': ('yolo', '.txt', lambda text: f'{text}\n0 120 80 40 40', 'lines that are no objects'),
    'a word': ('yolo', '.txt', lambda text: f'{text}\ncat 0.5 0.5 0.1 0.1', 'lines that are no objects'),
    'a cut off XML file': ('voc_beside', '.xml', lambda text: text[:-20], 'invalid annotation files'),
    'an object without a name': (
        'voc_beside',
        '.xml',
        lambda text: text.replace('<name>', '<title>').replace('</name>', '</title>'),
        'invalid annotation files',
    ),
}


@pytest.mark.parametrize('name', TEXT_FAULTS)
def test_one_fault_in_a_text_file_is_found_and_no_other(name, real_data, tmp_path):
    layout, suffix, change, kind = TEXT_FAULTS[name]
    write_detection(layout, real_data, tmp_path / 'set')
    path = change_text(tmp_path / 'set', change, suffix)
    report = inspect(tmp_path / 'set', tmp_path / 'out')
    assert problems_of(report) == {('train', kind, 1, True)}
    assert Path(*report.problems[0].images).stem == path.stem and str(path) in report.problems[0].example
    assert report.numbers['val']['images'] == 4


@pytest.mark.parametrize(('layout', 'suffix'), [('yolo', '.txt'), ('voc_beside', '.xml'), ('voc', '.xml')])
def test_annotations_whose_image_is_lost_are_found(layout, suffix, real_data, tmp_path):
    write_detection(layout, real_data, tmp_path / 'set')
    photo = sorted((tmp_path / 'set').rglob('*.jpg'))[0]
    total = len([path for path in (tmp_path / 'set').rglob(f'*{suffix}') if path.parent.name not in ('set', 'Main')])
    photo.unlink()
    report = inspect(tmp_path / 'set', tmp_path / 'out')
    assert problems_of(report) == {('', 'annotation files without an image', 1, True)}
    assert report.problems[0].total == total and f'{photo.stem}{suffix}' in report.problems[0].example


def test_images_that_nobody_annotated_are_found(real_data, tmp_path):
    write_detection('voc_beside', real_data, tmp_path / 'set')
    sorted((tmp_path / 'set').rglob('*.xml'))[0].unlink()
    assert problems_of(inspect(tmp_path / 'set', tmp_path / 'out')) == {('', 'images without annotations', 1, True)}


# Labels


@pytest.fixture
def labels(real_data, tmp_path) -> Path:
    for split in ('train', 'val'):
        for name in ('n01440764', 'n02102040'):
            (tmp_path / 'set' / split / name).mkdir(parents=True)
            for path in sorted((real_data / 'imagenette' / split / name).iterdir())[:5]:
                shutil.copyfile(path, tmp_path / 'set' / split / name / path.name)
    return tmp_path / 'set'


def test_a_picture_in_two_classes_is_found(labels, tmp_path):
    path = min((labels / 'train/n01440764').iterdir())
    shutil.copyfile(path, labels / 'train/n02102040/copy.JPEG')
    assert problems_of(inspect(labels, tmp_path / 'out')) == {
        ('train', 'pictures that are there in several classes', 1, True)
    }


def test_a_picture_in_both_splits_is_found_in_another_format(labels, tmp_path):
    path = min((labels / 'train/n01440764').iterdir())
    Image.open(path).convert('RGB').save(labels / 'val/n01440764/copy.png')
    assert problems_of(inspect(labels, tmp_path / 'out')) == {('val', 'pictures that another split has, too', 1, True)}


def test_classes_that_training_lacks_are_found(labels, tmp_path):
    (labels / 'val/n01440764').rename(labels / 'val/N01440764')
    report = inspect(labels, tmp_path / 'out')
    assert problems_of(report) == {('val', 'classes that are not those of training', 1, True)}
    assert [*report.numbers] == ['train']


def test_rows_of_a_table_that_fit_nothing_are_found(labels, tmp_path):
    names = sorted(path.name for path in (labels / 'train').glob('*/*'))
    rows = [f'{name},{"ab"[i % 2]}' for i, name in enumerate(names)]
    rows += ['gone.jpg,a', f'{names[0]},b']
    (labels / 'labels.csv').write_text('\n'.join(['image,label', *rows]))
    (labels / 'val').rename(labels / 'train/rest')
    (labels / 'train').rename(labels / 'photos')
    report = inspect(labels, tmp_path / 'out')
    assert problems_of(report) == {('', 'missing images', 1, True), ('', 'images with two classes', 1, True)}
    assert sum(one['images'] for one in report.numbers.values()) == len(names)


@pytest.mark.parametrize(
    ('fault', 'found'),
    [('unlisted', ('images that no table lists', 1, False)), ('empty', ('images without a label', 1, True))],
)
def test_images_that_a_table_says_nothing_of_are_found(fault, found, labels, tmp_path):
    rows = [(path.name, path.parent.name) for path in sorted(labels.glob('*/*/*'))]
    (labels / 'images').mkdir()
    for path in sorted(labels.glob('*/*/*')):
        path.rename(labels / 'images' / path.name)
    for split in ('train', 'val'):
        shutil.rmtree(labels / split)
    name, label = rows.pop()
    rows += [(name, '')] * (fault == 'empty')
    (labels / 'labels.csv').write_text('\n'.join(map(','.join, [('image', 'label'), *rows])))
    report = inspect(labels, tmp_path / 'out')
    assert problems_of(report) == {('', *found)} and name in report.problems[0].example


def test_the_page_has_untrusted_names_as_text(labels, tmp_path):
    (labels / 'train/n01440764').rename(labels / 'train/<script>alert(1)<')
    (labels / 'val/n01440764').rename(labels / 'val/<script>alert(1)<')
    report = inspect(labels, tmp_path / 'out')
    write_pages(report, tmp_path / 'out', 6)
    write_pages(report, tmp_path / 'out', 6)  # again: what an earlier run has written is replaced
    page = (tmp_path / 'out/index.html').read_text()
    assert '<script>alert' not in page and '&lt;script&gt;alert(1)&lt;' in page
    assert page.count('<figure') == 6 == len(list((tmp_path / 'out/pictures').iterdir()))
    assert 'http://' not in page and 'https://' not in page
    assert json.loads((tmp_path / 'out/check_data.json').read_text())['splits']['train']['images'] == 10


def test_pictures_with_problems_come_first(labels, tmp_path):
    broken = max((labels / 'train/n02102040').iterdir())
    broken.write_bytes(b'')
    report = inspect(labels, tmp_path / 'out')
    assert choose_samples(report, 4)[0].path == str(broken)
    assert {label for sample in choose_samples(report, 4) for label in sample.labels} == {0, 1}
