"""Data for detection is recognised from its folder, and what a data set reads is what was annotated. Exact."""

import json
import os
import re
from pathlib import Path

import numpy as np
import pytest
from own_sets import CLASSES, DETECTION, NAMES, take_photos, write, write_detection
from PIL import Image

from convnext_backbone.datasets.coco_check import check_coco
from convnext_backbone.datasets.detection_layouts import find_detection
from convnext_backbone.datasets.layouts import Layout
from convnext_backbone.utils.errors import UserError

FORMATS = dict(yolo='YOLO', darknet='YOLO', voc='Pascal VOC')  # by the first word of the layout
DRAWN = ('cvat', 'label_studio', 'single', 'yolo_plain', 'voc_single')  # they have no images to validate on


def read_objects(layout: Layout, split: str) -> dict[str, list[tuple]]:
    """The objects that mmdet's data set gives for each image: the name of the class, and the box."""
    from mmdet.datasets import CocoDataset

    dataset = CocoDataset(
        **layout.splits[split], metainfo=dict(classes=layout.classes), pipeline=[], test_mode=True, serialize_data=False
    )
    assert dataset.metainfo['classes'] == layout.classes
    found = {}
    for one in dataset:
        width, height = Image.open(one['img_path']).size
        assert (one['width'], one['height']) == (width, height)
        found[Path(one['img_path']).name] = [
            (layout.classes[each['bbox_label']], each['bbox']) for each in one['instances']
        ]
    return found


def annotated(*contents: dict) -> dict[str, list[tuple]]:
    found = {image['file_name']: [] for content in contents for image in content['images']}
    for content in contents:
        names = {image['id']: image['file_name'] for image in content['images']}
        for one in content['annotations']:
            x, y, w, h = one['bbox']
            if w >= 1 and h >= 1:
                found[names[one['image_id']]].append((NAMES[one['category_id'] - 1], [x, y, x + w, y + h]))
    return found


def check_same(found: dict, expected: dict, tolerance: float) -> None:
    assert found.keys() == expected.keys()
    for name, objects in expected.items():
        assert [one[0] for one in found[name]] == [one[0] for one in objects]
        np.testing.assert_allclose(
            [one[1] for one in found[name]] or 0, [one[1] for one in objects] or 0, rtol=0, atol=tolerance
        )


def files_below(folder: Path) -> dict[str, float]:
    return {str(path): path.stat().st_mtime_ns for path in folder.rglob('*')}


@pytest.mark.parametrize('name', DETECTION)
def test_a_layout_gives_the_objects_that_were_annotated(name, real_data, tmp_path):
    root, out = tmp_path / 'mine', tmp_path / 'out'
    train, val = write_detection(name, real_data, root)
    before = files_below(root)
    layout = find_detection(root, out)
    assert layout.format == FORMATS.get(name.split('_')[0], 'COCO json')
    assert layout.classes == (NAMES if layout.format != 'Pascal VOC' else tuple(sorted(NAMES)))
    assert [*layout.splits] == ['train', 'val', *['test'] * (name == 'roboflow')]
    assert layout.without_mask == 1 - (
        layout.format == 'COCO json' and name != 'label_studio' or name == 'yolo_polygons'
    )
    found = {split: read_objects(layout, split) for split in layout.splits}
    assert {split: len(images) for split, images in found.items()} == layout.numbers
    # Coordinates of YOLO are rounded to a millionth of the image; of a mask in parts polygons have one.
    tolerance = dict(yolo=0.002, darknet=0.002, voc=0.011).get(name.split('_')[0], 1e-9)
    if name == 'yolo_polygons':
        assert found['train'].keys() == annotated(train).keys()
    elif name in DRAWN:
        assert not found['train'].keys() & found['val'].keys()
        check_same({**found['train'], **found['val']}, annotated(train, val), tolerance)
    else:
        check_same(found['train'], annotated(train), tolerance)
        check_same(found['val'], annotated(val), tolerance)
    for split, settings in layout.splits.items():
        masks = [dict(type='LoadAnnotations', with_mask=not layout.without_mask)]
        check_coco(dict(settings, pipeline=masks, test_mode=split != 'train'), layout.classes)
    assert files_below(root) == before
    assert find_detection(root, tmp_path / 'other').numbers == layout.numbers


def test_one_line_says_what_a_folder_holds(real_data, tmp_path):
    write_detection('roboflow', real_data, tmp_path / 'mine')
    layout = find_detection(tmp_path / 'mine', tmp_path / 'out')
    assert str(layout) == 'COCO json, 3 classes (Mensch, Tasse, Auto), 6 train + 4 val + 4 test images'
    assert layout.notes == ['the category things heads the others, without annotations: no class']
    assert not (tmp_path / 'out').exists()  # the files can be read as they are


def test_polygons_of_yolo_are_masks(real_data, tmp_path):
    train, _ = write_detection('yolo_polygons', real_data, tmp_path / 'mine')
    layout = find_detection(tmp_path / 'mine', tmp_path / 'out')
    content = json.loads(Path(layout.splits['train']['ann_file']).read_text())
    simple = [one for one in train['annotations'] if len(one['segmentation']) == 1]
    found = {tuple(one['bbox']): one for one in content['annotations']}
    assert len(simple) > 10
    for one in simple:
        nearest = min(found, key=lambda box: np.abs(np.subtract(box, one['bbox'])).max())
        assert np.abs(np.subtract(found[nearest]['segmentation'][0], one['segmentation'][0])).max() < 0.002
        assert found[nearest]['area'] == pytest.approx(one['area'], rel=0.02, abs=2)


def test_a_split_is_that_of_the_names_and_holds_each_class(real_data, tmp_path):
    root = tmp_path / 'mine'
    write_detection('cvat', real_data, root, train=20, val=15)
    layout = find_detection(root, tmp_path / 'out', val_split=0.4)
    assert layout.numbers == dict(train=21, val=14)
    found = {split: read_objects(layout, split) for split in layout.splits}
    for split in found:
        assert {name for objects in found[split].values() for name, _ in objects} == set(NAMES)
    assert layout.notes[-1] == (
        f'there are no images to validate on: 14 of 35 are drawn (--val-split 0.4) and listed in '
        f'{tmp_path / "out/val.json"}'
    )
    # The order of the file, and the place of the folder, do not matter.
    path = root / 'annotations/instances_default.json'
    content = json.loads(path.read_text())
    write(path, dict(content, images=content['images'][::-1], annotations=content['annotations'][::-1]))
    os.rename(root, tmp_path / 'elsewhere')
    again = find_detection(tmp_path / 'elsewhere', tmp_path / 'out2', val_split=0.4)
    assert read_objects(again, 'val').keys() == found['val'].keys()


# Sets that are made up: blank images of 40 x 30 pixels.

SIZE = (40, 30)
BOX = [4.0, 3.0, 20.0, 15.0]


def content_of(*names: str, categories=('cat', 'dog'), **more) -> dict:
    return dict(
        images=[dict(id=i, file_name=name, width=40, height=30) for i, name in enumerate(names, 1)],
        annotations=[
            dict(
                id=i,
                image_id=i,
                category_id=(i - 1) % len(categories) + 1,
                bbox=BOX,
                area=300.0,
                iscrowd=0,
                segmentation=[[4, 3, 24, 3, 24, 18, 4, 18]],
            )
            for i in range(1, len(names) + 1)
        ],
        categories=[dict(id=i, name=name) for i, name in enumerate(categories, 1)],
        **more,
    )


def fill(root: Path, **files: dict | str) -> Path:
    """Write files by their paths; images are blank."""
    for name, content in files.items():
        write(root / name, content)
    return root


def draw(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new('RGB', SIZE).save(root / name)
    return root


def refusal(root: Path, out: Path, **flags) -> str:
    with pytest.raises(UserError) as error:
        find_detection(root, out, **flags)
    text = str(error.value)
    assert '\n' not in text and text.endswith('.')
    return text


@pytest.fixture
def two(tmp_path) -> Path:
    """A set of four images with a file for each split."""
    draw(tmp_path / 'mine', 'train/a.png', 'train/b.png', 'val/c.png', 'val/d.png')
    return fill(
        tmp_path / 'mine',
        **{'train/labels.json': content_of('a.png', 'b.png'), 'val/labels.json': content_of('c.png', 'd.png')},
    )


def test_other_orders_and_ids_of_categories_are_made_the_same(two, tmp_path):
    val = content_of('c.png', 'd.png', categories=('dog', 'cat'))
    fill(two, **{'val/labels.json': val})
    layout = find_detection(two, tmp_path / 'out')
    assert layout.classes == ('cat', 'dog')
    assert layout.splits['train']['ann_file'] == 'train/labels.json'
    assert layout.splits['val']['ann_file'] == str(tmp_path / 'out/val.json')
    names = {name: [one for one, _ in objects] for name, objects in read_objects(layout, 'val').items()}
    assert names == {'c.png': ['dog'], 'd.png': ['cat']}
    check_coco(layout.splits['val'], layout.classes)


def test_the_metric_counts_reordered_categories_right(two, tmp_path):
    """Perfect predictions have an AP of 1, whatever the order and the ids in the user's file."""
    import torch
    from mmdet.evaluation import CocoMetric

    val = content_of('c.png', 'd.png', categories=('dog', 'cat'))
    for category in val['categories']:
        category['id'] += 40
    for one in val['annotations']:
        one['category_id'] += 40
    fill(two, **{'val/labels.json': val})
    layout = find_detection(two, tmp_path / 'out')
    metric = CocoMetric(ann_file=layout.splits['val']['ann_file'])
    metric.dataset_meta = dict(classes=layout.classes)
    box = torch.tensor([[4.0, 3.0, 24.0, 18.0]])
    for image, label in ((1, 1), (2, 0)):
        predicted = dict(bboxes=box, scores=torch.ones(1), labels=torch.tensor([label]))
        metric.process({}, [dict(img_id=image, ori_shape=SIZE[::-1], pred_instances=predicted)])
    assert metric.evaluate(2)['coco/bbox_mAP'] == 1


def test_classes_that_differ_are_named(two, tmp_path):
    fill(two, **{'val/labels.json': content_of('c.png', 'd.png', categories=('cat', 'cow'))})
    assert refusal(two, tmp_path / 'out') == (
        f'The classes of {two}/train/labels.json and {two}/val/labels.json differ: only the first has dog, only the '
        f'second cow; list the same categories in both.'
    )
    fill(two, **{'val/labels.json': content_of('c.png', 'd.png', categories=('cat', 'cat'))})
    text = f'{two}/val/labels.json has several categories with the name cat: give each its own.'
    assert refusal(two, tmp_path / 'out') == text


def test_a_class_without_annotations_is_said_and_stays(two, tmp_path):
    for split, images in dict(train=('a.png', 'b.png'), val=('c.png', 'd.png')).items():
        content = content_of(*images)
        fill(
            two, **{f'{split}/labels.json': dict(content, categories=[*content['categories'], dict(id=9, name='cow')])}
        )
    layout = find_detection(two, tmp_path / 'out')
    assert layout.classes == ('cat', 'dog', 'cow')
    assert layout.notes == ['no annotation to train on has the class cow']


def test_a_heading_with_the_name_of_a_class_is_left_out(two, tmp_path):
    for split, images in dict(train=('a.png', 'b.png'), val=('c.png', 'd.png')).items():
        content = content_of(*images)
        below = [dict(one, supercategory='cat') for one in content['categories']]
        fill(
            two,
            **{
                f'{split}/labels.json': dict(content, categories=[dict(id=0, name='cat', supercategory='none'), *below])
            },
        )
    layout = find_detection(two, tmp_path / 'out')
    assert layout.classes == ('cat', 'dog')
    assert [name for objects in read_objects(layout, 'train').values() for name, _ in objects] == ['cat', 'dog']
    check_coco(layout.splits['train'], layout.classes)


def test_what_mmdet_needs_is_completed(two, tmp_path):
    """Areas of mask or box, sizes of images, ids that pycocotools takes, and slashes of Windows."""
    content = content_of('train\\a.png', 'train\\b.png')
    for one in content['images']:
        del one['width'], one['height']
    for number, one in enumerate(content['annotations']):
        del one['area'], one['iscrowd']
        one['id'] = number  # from 0
    content['annotations'][0]['segmentation'] = [[4, 3, 24, 3, 4, 18]]
    del content['annotations'][1]['segmentation']
    fill(two, **{'train/labels.json': content})
    layout = find_detection(two, tmp_path / 'out')
    written = json.loads((tmp_path / 'out/train.json').read_text())
    assert [one['file_name'] for one in written['images']] == ['train/a.png', 'train/b.png']
    assert [(one['width'], one['height']) for one in written['images']] == [SIZE, SIZE]
    assert [(one['id'], one['area'], one['iscrowd']) for one in written['annotations']] == [(1, 150, 0), (2, 300, 0)]
    assert layout.without_mask == 1 / 4
    assert layout.notes == ['1 of 4 objects have a box and no mask']
    assert {name: len(objects) for name, objects in read_objects(layout, 'train').items()} == {'a.png': 1, 'b.png': 1}


def test_what_is_ambiguous_is_asked_for(tmp_path):
    root = draw(tmp_path / 'mine', 'images/a.png', 'images/b.png', 'images/c.png')
    fill(root, **{'cats.json': content_of('a.png', 'b.png'), 'dogs.json': content_of('b.png', 'c.png')})
    assert refusal(root, tmp_path / 'out') == (
        f'{root} has 2 annotation files that may be meant to train on, cats.json, dogs.json: name one by --train-ann.'
    )
    layout = find_detection(root, tmp_path / 'out', train_ann='cats.json', val_ann=str(root / 'dogs.json'))
    assert (layout.splits['train']['ann_file'], layout.splits['val']['ann_file']) == ('cats.json', 'dogs.json')
    layout = find_detection(root, tmp_path / 'out', train_ann='dogs.json')
    assert layout.numbers == dict(train=1, val=1)
    assert layout.notes[0] == 'not used: cats.json'
    os.rename(root / 'cats.json', root / 'train.json')
    assert refusal(root, tmp_path / 'out') == (
        f'{root} has 1 annotation file that may be meant to validate on, dogs.json: name one by --val-ann, or draw one '
        f'by --val-split 0.2.'
    )
    assert find_detection(root, tmp_path / 'out', val_ann='dogs.json').numbers == dict(train=2, val=2)
    assert find_detection(root, tmp_path / 'out', val_split=0.5).numbers == dict(train=1, val=1)
    text = f'--val-ann x.json is no file in {root}: name a json file below it.'
    assert refusal(root, tmp_path / 'out', val_ann='x.json') == text


def test_a_split_of_what_has_one_is_refused(two, tmp_path):
    assert refusal(two, tmp_path / 'out', val_split=0.3) == (
        f'--val-split would draw images to validate on, but {two}/val/labels.json has some: leave one of them out.'
    )
    os.remove(two / 'train/labels.json')
    assert refusal(two, tmp_path / 'out') == (
        f'{two} has {two}/val/labels.json for val, but no annotations to train on: name a file by --train-ann.'
    )


@pytest.mark.parametrize('part', [0, 1, 1.5, -0.1, float('nan')])
def test_a_part_is_between_0_and_1(part, tmp_path):
    root = fill(draw(tmp_path / 'mine', 'a.png', 'b.png'), **{'all.json': content_of('a.png', 'b.png')})
    text = f'--val-split={part} is out of range: it takes a number between 0 and 1.'
    assert refusal(root, tmp_path / 'out', val_split=part) == text


def test_images_of_the_same_names_are_those_of_the_split(tmp_path):
    root = draw(tmp_path / 'mine', *(f'images/{split}/{name}.png' for split in ('train', 'val') for name in 'abc'))
    fill(root, **{f'{split}.json': content_of('a.png', 'b.png', 'c.png') for split in ('train', 'val')})
    layout = find_detection(root, tmp_path / 'out')
    assert [one['data_prefix']['img'] for one in layout.splits.values()] == ['images/train/', 'images/val/']
    os.remove(root / 'images/train/c.png')  # whose name is in the other folder, too
    layout = find_detection(root, tmp_path / 'out')
    assert layout.splits['train']['data_prefix']['img'] == 'images/train/'


def test_images_that_may_be_elsewhere_are_named(tmp_path):
    root = fill(tmp_path / 'mine', **{'labels.json': content_of('a.png', 'b.png')})
    assert refusal(root, tmp_path / 'out') == (
        f'The images of {root}/labels.json are not in {root}: none of its folders holds a.png, b.png; put the images '
        f'there, or correct file_name.'
    )
    draw(root, 'rgb/a.png', 'rgb/b.png', 'depth/a.png', 'depth/b.png')
    assert refusal(root, tmp_path / 'out') == (
        f'The images of {root}/labels.json may lie in {root}/depth, {root}/rgb, which hold files of the same names: '
        f'move the other folders out of {root}.'
    )
    draw(root, 'images/a.png', 'images/b.png')
    assert find_detection(root, tmp_path / 'out').splits['val']['data_prefix'] == dict(img='images/')


def test_other_json_files_are_passed_over(two, tmp_path):
    fill(
        two,
        **{
            'notes.json': dict(categories=[]),
            'empty.json': '',
            'broken.json': '{"images": ',
            'train/a.json': dict(version='5.0', shapes=[], imagePath='a.png'),
            '.hidden/train.json': content_of('a.png'),
            'work_dirs/run/data/train.json': content_of('a.png'),
        },
    )
    assert find_detection(two, two / 'out').numbers == dict(train=2, val=2)


def test_nothing_to_find_is_said(tmp_path):
    root = draw(tmp_path / 'mine', 'images/a.png')
    assert refusal(root, tmp_path / 'out') == (
        f"{root} has no annotations of boxes: a json file in COCO's format, YOLO's text files in labels/ or beside the "
        f'images, or XML files of Pascal VOC are looked for; export the data as one of these, or point elsewhere with '
        f'--data-root.'
    )
    text = f'The folder {tmp_path}/none cannot be read (No such file or directory): point elsewhere with --data-root.'
    assert refusal(tmp_path / 'none', tmp_path / 'out') == text


def test_a_broken_file_is_named(two, tmp_path):
    path = two / 'train/labels.json'
    text = path.read_text()
    path.write_text(text[:-2])
    assert re.fullmatch(
        rf'The annotation file {path} is not json .*: a COCO annotation file is .*', refusal(two, tmp_path / 'out')
    )
    path.write_text(text.replace('"file_name": "b.png"', '"file_name": 7'))
    assert f'{path} has an entry that is wrong (Expected `str`, got `int` - at `$.file_name`): {{"id": 2' in refusal(
        two, tmp_path / 'out'
    )
    path.write_text(text.replace('"id": 2, "file_name"', '"id": 1, "file_name"'))
    assert refusal(two, tmp_path / 'out').endswith('labels.json has several images with id=1.')


# YOLO


def yolo(root: Path, lines: str, yaml: str | None = 'train: images\nval: images\nnames: [cat, dog]') -> Path:
    draw(root, 'images/a.png', 'images/b.png')
    fill(root, **{'labels/a.txt': lines})
    return fill(root, **{'data.yaml': yaml}) if yaml else root


def test_lines_of_yolo(tmp_path):
    """Boxes, polygons, oriented boxes, and boxes that reach a little beyond the image; an image may have no file."""
    lines = '0 0.5 0.5 0.5 0.2\n\n1 0.1 0.1 0.3 0.1 0.2 0.4\n1 .1 .1 .5 .1 .5 .5 .1 .5\n0 0.1 0.5 0.21 1.0\n'
    layout = find_detection(yolo(tmp_path / 'mine', lines), tmp_path / 'out')
    objects = read_objects(layout, 'train')
    assert objects['b.png'] == []
    assert objects['a.png'] == [
        ('cat', [10, 12, 30, 18]),
        ('dog', [4, 3, 12, 12]),
        ('dog', [4, 3, 20, 15]),
        ('cat', [0, 0, 8.2, 30]),
    ]
    assert layout.notes[:1] == ['4 of 8 objects have a box and no mask']


@pytest.mark.parametrize(
    ('line', 'problem'),
    [
        ('2 0.5 0.5 0.1 0.1', 'whose class is none of the 2 from 0 to 1'),
        ('0.5 0.5 0.5 0.1 0.1', 'whose class is none of the 2 from 0 to 1'),
        ('0 20 15 4 4', 'whose coordinates are not all between 0 and 1: they are parts of the width and height'),
        ('0 nan 0.5 0.1 0.1', 'whose coordinates are not all between 0 and 1: they are parts of the width and height'),
        ('0 0.5 0.5 0.1', 'which is no box (class x y width height) and no polygon (class x1 y1 x2 y2 x3 y3 ...)'),
        ('0 0.5 0.5 0.1 0.1 0.9', 'which is no box (class x y width height) and no polygon'),
        ('cat 0.5 0.5 0.1 0.1', 'which is no box (class x y width height) and no polygon'),
    ],
)
def test_a_wrong_line_of_yolo_is_named(line, problem, tmp_path):
    root = yolo(tmp_path / 'mine', f'0 0.5 0.5 0.1 0.1\n{line}')
    assert f'{root}/labels/a.txt has {line!r} in line 2, {problem}' in refusal(root, tmp_path / 'out')


def test_keypoints_of_yolo_are_left_out(tmp_path):
    yaml = 'train: images\nval: images\nkpt_shape: [2, 2]\nnames: {0: cat}'
    layout = find_detection(yolo(tmp_path / 'mine', '0 .5 .5 .5 .2 .5 .5 .6 .5', yaml), tmp_path / 'out')
    assert read_objects(layout, 'val')['a.png'] == [('cat', [10, 12, 30, 18])]


@pytest.mark.parametrize(
    ('yaml', 'problem'),
    [
        (
            'train: images\nval: photos\nnames: [cat]',
            "data.yaml has val=['photos'], which is not there: it is sought in",
        ),
        ('train: /x/train/images\nval: /x/val/images\nnames: [cat]', 'but the same images are found for both: correct'),
        ('train: images\nval: images\nnames: {1: cat}', 'data.yaml has names that are no names of classes'),
        ('train: images\nval: {a: images}\nnames: [cat]', 'data.yaml has val that is no path and no list of paths'),
        (
            'train: images\nval: images\nnames: [no, yes]',
            'write a list, or a name for each id from 0, and names such as',
        ),
        ('train: images\nval: labels\nnames: [cat]', "data.yaml has val=['labels'], in which there are no images"),
        ('train: images\nval: images\nnames: !!python/name:os.system', 'has no annotations of boxes'),
        (None, 'are those of YOLO, but the names of their classes are missing: write them into'),
    ],
)
def test_a_wrong_data_yaml_is_named(yaml, problem, tmp_path):
    root = yolo(tmp_path / 'mine', '0 0.5 0.5 0.1 0.1', yaml)
    if yaml and '!!python' in yaml:
        os.rename(root / 'labels', root / 'other')
    assert problem in refusal(root, tmp_path / 'out')


def test_a_name_that_is_no_text_is_refused(tmp_path):
    root = yolo(tmp_path / 'mine', '0 0.5 0.5 0.1 0.1')
    os.rename(root / 'images/b.png', os.fsencode(root / 'images') + b'/stra\xdfe.png')
    text = r"The image 'images/stra\udcdfe.png' has a name that is not UTF-8: rename it."
    assert refusal(root, tmp_path / 'out') == text


def test_images_of_yolo_without_labels_are_named(tmp_path):
    root = yolo(tmp_path / 'mine', '\n')
    assert refusal(root, tmp_path / 'out') == (
        f'None of the 2 images of train has objects: YOLO has them in a text file of the same name in labels/, in the '
        f'place of images/, or beside the image; the first image is {root}/images/a.png.'
    )


def test_lists_of_images_in_a_text_file(tmp_path):
    root = yolo(tmp_path / 'mine', '0 0.5 0.5 0.1 0.1', 'train: train.txt\nval: [val.txt]\nnames: [cat]')
    fill(
        root,
        **{'train.txt': './images/a.png\n', 'val.txt': '/home/me/mine/images/b.png\n', 'labels/b.txt': '0 .5 .5 1 1'},
    )
    layout = find_detection(root, tmp_path / 'out')
    assert read_objects(layout, 'train') == {'a.png': [('cat', pytest.approx([18, 13.5, 22, 16.5]))]}
    assert read_objects(layout, 'val') == {'b.png': [('cat', [0, 0, 40, 30])]}


def test_an_image_on_its_side_has_the_size_that_it_is_decoded_to(tmp_path):
    root = yolo(tmp_path / 'mine', '0 0.5 0.5 1 1')
    exif = Image.Exif()
    exif[0x0112] = 6
    for name in ('a', 'b'):
        os.remove(root / f'images/{name}.png')
        Image.new('RGB', SIZE).save(root / f'images/{name}.jpg', exif=exif)
    find_detection(root, tmp_path / 'out')
    content = json.loads((tmp_path / 'out/yolo_train.json').read_text())
    assert [(one['width'], one['height']) for one in content['images']] == [SIZE[::-1]] * 2
    assert content['annotations'][0]['bbox'] == [0, 0, 30, 40]


# Pascal VOC


def voc(root: Path, *objects: tuple, size: tuple[int, int] = SIZE, start: str = '') -> Path:
    draw(root, 'images/a.png', 'images/b.png')
    text = ''
    for name, box, difficult in objects:
        corners = ''.join(
            f'<{key}>{value}</{key}>' for key, value in zip(('xmin', 'ymin', 'xmax', 'ymax'), box, strict=True)
        )
        text += f'<object><name>{name}</name><difficult>{difficult}</difficult><bndbox>{corners}</bndbox></object>'
    sizes = f'<size><width>{size[0]}</width><height>{size[1]}</height></size>'
    document = f'{start}<annotation>{sizes}{text}</annotation>'
    return fill(root, **{f'annotations/{name}.xml': document for name in 'ab'})


def test_boxes_of_voc_count_pixels_from_1(tmp_path):
    root = voc(tmp_path / 'mine', ('dog', (1, 1, 40, 30), 0), ('cat', (5, 4, 24, 18), 1), size=(0, 0))
    layout = find_detection(root, tmp_path / 'out')
    assert layout.classes == ('cat', 'dog')
    assert [*read_objects(layout, 'val').values()] == [[('dog', [0, 0, 40, 30]), ('cat', [4, 3, 24, 18])]]
    content = json.loads((tmp_path / 'out/val.json').read_text())
    assert [one['iscrowd'] for one in content['annotations']] == [0, 1]  # a difficult one is neither learnt nor counted
    root = voc(tmp_path / 'other', ('dog', (0, 1, 40, 30), 0))  # as other tools write it
    assert [*read_objects(find_detection(root, tmp_path / 'out'), 'val').values()] == [[('dog', [0, 1, 40, 30])]]


def test_images_without_annotations_of_voc_are_left_out(tmp_path):
    root = draw(voc(tmp_path / 'mine', ('dog', BOX, 0)), 'images/c.png')
    layout = find_detection(root, tmp_path / 'out')
    assert layout.numbers == dict(train=1, val=1)
    assert layout.notes[0] == '1 images without an XML file are left out'


@pytest.mark.parametrize(
    ('objects', 'start', 'problem'),
    [
        ([('dog', (1, 1, 'x', 30), 0)], '', "is no annotation of Pascal VOC (could not convert string to float: 'x')"),
        ([('', (1, 1, 5, 30), 0)], '', 'is no annotation of Pascal VOC (an object has no name)'),
        ([('dog', (1, 1, 'inf', 30), 0)], '', 'is no annotation of Pascal VOC (bndbox is [1.0, 1.0, inf, 30.0])'),
        ([('dog', BOX, 0)], '<!DOCTYPE x [<!ENTITY y "z">]>', 'a.xml has a document type, which no annotation needs'),
        ([('dog', BOX, 0)], '<', 'is no annotation of Pascal VOC (not well-formed'),
    ],
)
def test_a_wrong_file_of_voc_is_named(objects, start, problem, tmp_path):
    root = voc(tmp_path / 'mine', *objects, start=start)
    assert f'{root}/annotations/a.xml' in (text := refusal(root, tmp_path / 'out')) and problem in text


def test_real_names_are_kept(real_data):
    """The sets of the tests hold each class."""
    content = take_photos(real_data, 'train')
    assert {one['category_id'] for one in content['annotations']} == {1, 2, 3}
    assert [one['name'] for one in content['categories']] == [*CLASSES.values()]
