"""Folders of boxes as people leave them: lists, other letters, several class files, boxes of another kind. Exact."""

import json
import re
import shutil
import unicodedata
from pathlib import Path

import pytest
from PIL import Image

from convnext_backbone.apis.check_data import DataReport, inspect_folder
from convnext_backbone.config.own_data import Annotations
from convnext_backbone.datasets.detection_layouts import find_detection
from convnext_backbone.datasets.layouts import Layout
from convnext_backbone.utils.errors import UserError

NAMES = [f'photo {number}' for number in range(8)]


def draw(path: Path, shade: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new('RGB', (80, 60), (shade, 2 * shade, 90)).save(path)


def write(path: Path, text: str, encoding: str = 'utf-8') -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding=encoding)


def yolo(
    root: Path, images: str = 'images', labels: str = 'labels', lines: str = '0 .5 .5 .2 .2\n1 .3 .3 .2 .2'
) -> Path:
    for number, name in enumerate(NAMES):
        draw(root / images / f'{name}.jpg', 20 * number)
        write(root / labels / f'{name}.txt', lines)
    write(root / 'classes.txt', 'cat\ndog')
    return root


def voc(root: Path, start: str = '', encoding: str = 'utf-8') -> Path:
    box = '<bndbox><xmin>2</xmin><ymin>2</ymin><xmax>40</xmax><ymax>40</ymax></bndbox>'
    for number, name in enumerate(NAMES):
        draw(root / 'JPEGImages' / f'{name}.jpg', 20 * number)
        text = f'{start}<annotation><object><name>Kätzchen</name>{box}</object></annotation>'
        write(root / 'Annotations' / f'{name}.xml', text, encoding)
    return root


def images_of(layout: Layout, split: str) -> list[Path]:
    settings = layout.splits[split]
    content = json.loads(Path(settings['data_root'], settings['ann_file']).read_text())
    folder = Path(settings['data_root'], settings['data_prefix']['img'])
    return [folder / one['file_name'] for one in content['images']]


def refusal(root: Path, out: Path) -> str:
    with pytest.raises(UserError) as caught:
        find_detection(root, out)
    return str(caught.value)


def faults_of(root: Path, out: Path) -> tuple[DataReport, set[tuple]]:
    report = inspect_folder(root, out, Annotations())
    return report, {(one.split, one.kind, one.number, one.is_error) for one in report.problems}


@pytest.mark.parametrize(
    ('fill', 'lists', 'form'),
    [
        (voc, 'ImageSets/Main/{}.txt', '{}'),
        (voc, '{}.txt', '{}.jpg'),
        (yolo, '{}.txt', 'data/images/{}.jpg'),
        (yolo, 'images/{}.txt', './{}.jpg'),
        (yolo, '{}.txt', 'C:\\set\\images\\{}.jpg'),
    ],
)
@pytest.mark.parametrize('names', [('train', 'val'), ('Train', 'Validation'), ('train', 'valid')])
def test_lists_of_images_are_the_splits(fill, lists, form, names, tmp_path):
    root = fill(tmp_path / 'set')
    for split, part in zip(names, (NAMES[:5], NAMES[5:7]), strict=True):
        write(root / lists.format(split), '\n'.join(map(form.format, part)))
    write(root / lists.format('trainval'), '\n'.join(map(form.format, NAMES)))
    write(root / lists.format('cat_train'), ''.join(f'{name} -1\n' for name in NAMES))
    layout = find_detection(root, tmp_path / 'out')
    found = [[path.stem for path in images_of(layout, split)] for split in ('train', 'val')]
    assert found == [NAMES[:5], NAMES[5:7]]
    assert f'1 of 8 images are in no list ({names[0]}.txt, {names[1]}.txt) and are left out' in layout.notes
    _, faults = faults_of(root, tmp_path / 'report')
    assert faults == {('', 'images in no list', 1, False)}


def test_images_of_a_list_that_are_missing_are_named(tmp_path):
    root = voc(tmp_path / 'set')
    write(root / 'ImageSets/Main/train.txt', '\n'.join([*NAMES[:5], 'ghost']))
    write(root / 'ImageSets/Main/val.txt', '\n'.join(NAMES[5:]))
    assert re.fullmatch(
        '1 of 6 images of .*train.txt are missing: ghost; put them there, or correct the list.',
        refusal(root, tmp_path / 'out'),
    )
    assert faults_of(root, tmp_path / 'report')[1] == {('train', 'missing images', 1, True)}


def test_images_of_two_lists_are_told(tmp_path):
    root = voc(tmp_path / 'set')
    write(root / 'ImageSets/Main/train.txt', '\n'.join(NAMES[:6]))
    write(root / 'ImageSets/Main/val.txt', '\n'.join(NAMES[4:]))
    layout = find_detection(root, tmp_path / 'out')
    assert layout.notes[-1] == '2 of 4 images to validate on are trained on, too: scores say nothing about others'
    assert faults_of(root, tmp_path / 'report')[1] == {('val', 'pictures that another split has, too', 2, True)}


def test_a_list_takes_the_image_of_its_folder(tmp_path):
    for folder in ('a', 'b'):
        yolo(tmp_path / 'set', f'images/{folder}', f'labels/{folder}')
    for split, folder in dict(train='a', val='b').items():
        write(tmp_path / f'set/{split}.txt', '\n'.join(f'images/{folder}/{name}.jpg' for name in NAMES))
    layout = find_detection(tmp_path / 'set', tmp_path / 'out')
    assert layout.numbers == dict(train=8, val=8) and not [note for note in layout.notes if 'too' in note]


def test_the_label_of_a_train_is_no_list(tmp_path):
    root = yolo(tmp_path / 'set', '.', '.')
    draw(root / 'train.jpg', 200)
    write(root / 'train.txt', '0 .5 .5 .2 .2')
    assert sum(find_detection(root, tmp_path / 'out').numbers.values()) == 9


def test_class_files_that_contradict_each_other_are_refused(tmp_path):
    root = yolo(tmp_path / 'set', 'train/images', 'train/labels')
    shutil.copytree(root / 'train', root / 'val')
    (root / 'classes.txt').unlink()
    write(root / 'train/labels/classes.txt', 'cat\ndog')
    write(root / 'val/labels/classes.txt', 'cat\ndog\ncow')  # seen later
    assert find_detection(root, tmp_path / 'out').classes == ('cat', 'dog', 'cow')
    write(root / 'val/labels/classes.txt', 'dog\ncat')
    text = refusal(root, tmp_path / 'out')
    assert text.startswith(f'{root}/train/labels/classes.txt and {root}/val/labels/classes.txt have other classes')


@pytest.mark.parametrize('line', ['0 .1 .1 .5 .5\n1 .6 .6 .9 .9', '0 .1 .1 .8 .8\n1 .5 .5 .4 .4'])
def test_corners_in_the_place_of_the_middle_are_refused(line, tmp_path):
    root = yolo(tmp_path / 'set', lines=line)
    assert re.match(
        '(8|16) of 16 boxes reach beyond their image: .* in line [12]; write', refusal(root, tmp_path / 'out')
    )
    report, faults = faults_of(root, tmp_path / 'report')
    assert {fault[1] for fault in faults} == {'boxes that are not [x, y, width, height]'} and report.has_errors


def test_a_few_boxes_beyond_the_image_are_said(tmp_path):
    root = yolo(tmp_path / 'set')
    write(root / 'labels/photo 3.txt', '0 .05 .5 .2 .2')
    note = find_detection(root, tmp_path / 'out').notes[0]
    assert note.startswith('1 of 15 boxes reach beyond their image: ') and note.endswith(
        "has '0 .05 .5 .2 .2' in line 1"
    )
    assert faults_of(root, tmp_path / 'report')[1] == {('', 'boxes that reach beyond their image', 1, False)}


def test_objects_that_are_there_twice_are_counted(tmp_path):
    root = yolo(tmp_path / 'set')
    write(root / 'labels/photo 3.txt', '0 .5 .5 .2 .2\n1 .5 .5 .2 .2\n0 .5 .5 .2 .2')
    _, faults = faults_of(root, tmp_path / 'report')
    assert {fault[1:] for fault in faults} == {('objects that are there twice', 1, False)}


@pytest.mark.parametrize(
    ('images', 'labels'), [('Images/Train', 'Labels/Train'), ('train/img', 'train/label'), ('images', 'annotations')]
)
def test_folders_of_labels_have_other_names(images, labels, tmp_path):
    layout = find_detection(yolo(tmp_path / 'set', images, labels), tmp_path / 'out')
    assert layout.numbers == dict(train=6, val=2)


@pytest.mark.parametrize(
    ('file', 'written'),
    [('Bild {}.JPG', 'Bild {}.jpg'), (unicodedata.normalize('NFD', 'Käse {}.jpg'), 'photos\\Käse {}.jpg')],
)
def test_file_names_of_windows_and_macos_are_found(file, written, tmp_path):
    root = tmp_path / 'set'
    for number in range(5):
        draw(root / 'photos' / file.format(number))
    content = dict(
        images=[dict(id=number, file_name=written.format(number), width=80, height=60) for number in range(5)],
        annotations=[dict(id=number + 1, image_id=number, category_id=1, bbox=[2, 2, 30, 30]) for number in range(5)],
        categories=[dict(id=1, name='cat')],
    )
    write(root / 'labels.json', json.dumps(content))
    layout = find_detection(root, tmp_path / 'out')
    assert layout.numbers == dict(train=4, val=1)
    for split in layout.splits:
        assert all(path.is_file() for path in images_of(layout, split))


def test_annotations_without_an_image_stay_in_a_split_that_is_drawn(tmp_path):
    root = tmp_path / 'set'
    for number in range(5):
        draw(root / f'{number}.jpg', 40 * number)
    content = dict(
        images=[dict(id=number, file_name=f'{number}.jpg', width=80, height=60) for number in range(5)],
        annotations=[
            dict(id=number + 1, image_id=str(number), category_id=1, bbox=[2, 2, 30, 30]) for number in range(5)
        ],
        categories=[dict(id=1, name='cat')],
    )
    write(root / 'labels.json', json.dumps(content))
    _, faults = faults_of(root, tmp_path / 'report')
    kind = 'annotations with text as image_id, where the id of the image is a number'
    assert ('train', kind, 4, True) in faults  # the fifth is drawn for validation


@pytest.mark.parametrize('encoding', ['ISO-8859-1', 'gb18030', 'utf-8'])
def test_xml_is_read_in_the_encoding_that_it_declares(encoding, tmp_path):
    root = voc(tmp_path / 'set', f'<?xml version="1.0" encoding="{encoding}"?>\n', encoding)
    assert find_detection(root, tmp_path / 'out').classes == ('Kätzchen',)


def test_an_encoding_that_is_none_is_named(tmp_path):
    root = voc(tmp_path / 'set', '<?xml version="1.0" encoding="UTF-7b"?>')
    assert 'cannot be read as UTF-7B text (unknown encoding: UTF-7b): replace it.' in refusal(root, tmp_path / 'out')
