"""COCO annotation files: what mmdet fails on or misreads is described in one sentence, what it skips is not. Exact."""

import copy
import json

import pytest

from convnext_backbone.datasets.coco_check import find_coco_problem

RLE = dict(size=[10, 20], counts=[100, 50, 50])
BOX = dict(image_id=1, category_id=1, bbox=[1, 2, 3, 4.5], area=9)
COCO = dict(
    images=[dict(id=1, file_name='a.jpg', height=10, width=20), dict(id='x', file_name='b.jpg', height=10, width=20)],
    annotations=[
        dict(id=1, segmentation=[[1, 2, 3, 4, 5, 6]], **BOX),
        dict(id=2, segmentation=RLE, iscrowd=1, **BOX),
        dict(id='3', segmentation={**RLE, 'counts': 'b1b1T3'}, **BOX),
    ],
    categories=[dict(id=1, name='cat'), dict(id=2, name='dog')],
)


def find_problem(content: bytes | dict, folder, masks: bool = True, **arguments) -> str | None:
    path = folder / 'coco.json'
    path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    dataset = dict(data_root=str(folder), ann_file='coco.json', pipeline=[dict(type='Load', with_mask=masks)])
    problem = find_coco_problem(dataset, **arguments)
    assert problem is None or (problem.startswith(f'The annotation file {path} ') and '\n' not in problem)
    return problem


def changed(kind: str, entry: int, key: str, value: object) -> dict:
    content = copy.deepcopy(COCO)
    if value == 'missing':
        del content[kind][entry][key]
    else:
        content[kind][entry][key] = value
    return content


def test_a_valid_file_has_no_problem(tmp_path):
    assert find_problem(COCO, tmp_path, classes=('cat', 'dog')) is None
    assert find_problem(COCO, tmp_path, classes=('dog',)) is None


@pytest.mark.parametrize(
    ('content', 'named'),
    [
        (b'{"images": [', ['is not json', 'EOF']),
        (b'[1]', ['is not COCO json', 'images, annotations and categories']),
        (b'{"labels": [1, 2]}', ['lacks images', 'images, annotations and categories']),
        ({**COCO, 'images': []}, ['[] in images', 'at least 1']),
        ({**COCO, 'annotations': [5]}, ['5 in annotations[0]', 'object']),
    ],
)
def test_another_kind_of_file_is_named(content, named, tmp_path):
    problem = find_problem(content, tmp_path)
    assert all(word in problem for word in named), problem


@pytest.mark.parametrize(
    ('place', 'value', 'named'),
    [
        ('images 1 width', 'missing', 'lacks images[1].width.'),
        ('images 1 height', True, 'True in images[1].height'),
        ('images 0 width', 0, '0 in images[0].width'),
        ('images 0 file_name', '', "'' in images[0].file_name"),
        ('images 1 id', 1, '2 images with id=1'),
        ('annotations 0 id', 2, '2 annotations with id=2'),
        ('categories 0 id', 2, '2 categories with id=2'),
        ('annotations 0 category_id', None, 'None in annotations[0].category_id'),
        ('annotations 0 bbox', [1, 2, 3], '[1, 2, 3] in annotations[0].bbox'),
        ('annotations 0 bbox', [1, 2, 'x', 3], "'x' in annotations[0].bbox"),
        ('annotations 0 bbox', [1, 2, float('nan'), 3], 'nan in annotations[0].bbox'),
        ('annotations 0 area', '9', "'9' in annotations[0].area"),
        ('annotations 0 segmentation', [1, 2, 3, 4, 5, 6], '1 in annotations[0].segmentation'),
        ('annotations 0 segmentation', [[1, 2, 3, 4, 5, 1e9]], '1000000000.0 in annotations[0].segmentation'),
        ('annotations 0 segmentation', dict(size=[10, 20]), "{'size': [10, 20]} in annotations[0].segmentation"),
        ('annotations 0 segmentation', 'missing', 'annotations[0] with segmentation=None, but the config asks'),
        ('annotations 1 segmentation', {**RLE, 'size': [20, 10]}, 'size=[20, 10], counts=[100, 50, 50]), whose size'),
        ('annotations 1 segmentation', {**RLE, 'counts': [5, 5]}, 'whose counts do not add up to its size'),
        ('annotations 1 segmentation', {**RLE, 'counts': 'PPYo1'}, "counts='PPYo1'), which cannot be decoded"),
    ],
)
def test_an_invalid_value_is_named_with_its_entry(place, value, named, tmp_path):
    kind, entry, key = place.split()
    problem = find_problem(changed(kind, int(entry), key, value), tmp_path)
    assert named in problem


def test_classes_must_have_the_order_of_the_file(tmp_path):
    """Where they differ mmdet silently trains on swapped labels."""
    for classes in (('dog', 'cat'), ('cat', 'bird')):
        problem = find_problem(COCO, tmp_path, classes=classes)
        assert "['cat', 'dog']" in problem and str([*classes]) in problem and 'metainfo.classes' in problem


def test_what_mmdet_skips_is_no_problem(tmp_path):
    assert find_problem(changed('annotations', 0, 'segmentation', 'missing'), tmp_path, masks=False) is None
    assert find_problem(changed('annotations', 0, 'segmentation', [[1, 2, 3]]), tmp_path) is None
    assert find_problem(changed('annotations', 1, 'image_id', 99), tmp_path) is None
    assert find_problem(changed('annotations', 1, 'category_id', 99), tmp_path) is None
    wrong = {**RLE, 'size': [20, 10]}
    for key, value in (('bbox', [30, 2, 3, 4]), ('bbox', [1, 2, 0.5, 4]), ('area', 0), ('ignore', 1)):
        content = changed('annotations', 1, 'segmentation', wrong)
        content['annotations'][1][key] = value
        assert find_problem(content, tmp_path) is None


def test_missing_images_are_named_after_a_failure(tmp_path):
    (tmp_path / 'a.jpg').touch()
    assert find_problem(COCO, tmp_path) is None
    problem = find_problem(COCO, tmp_path, failed=True)
    assert f"images[1] with file_name='b.jpg', which is missing in {tmp_path}" in problem
    (tmp_path / 'b.jpg').touch()
    assert find_problem(COCO, tmp_path, failed=True) is None
