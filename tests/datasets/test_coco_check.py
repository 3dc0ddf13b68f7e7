"""COCO annotation files: what mmdet fails on or misreads is one sentence, what it leaves out is counted. Exact."""

import codecs
import copy
import json

import pytest
from mmengine.registry import DATASETS

from convnext_backbone import UserError
from convnext_backbone.datasets.coco_check import CocoContent, check_coco
from convnext_backbone.datasets.image_loading import guard_image_loading

RLE = dict(size=[10, 20], counts=[100, 50, 50])
BOX = dict(image_id=1, category_id=1, bbox=[1, 2, 3, 4.5], area=9)
COCO = dict(
    images=[dict(id=1, file_name='a.jpg', height=10, width=20), dict(id='x', file_name='b.jpg', height=10, width=20)],
    annotations=[
        dict(id=1, segmentation=[[1, 2, 4, 2, 4, 6]], **BOX),
        dict(id=2, segmentation=RLE, iscrowd=1, **BOX),
        dict(id='3', segmentation={**RLE, 'counts': 'b1b1T3'}, **BOX),
    ],
    categories=[dict(id=1, name='cat'), dict(id=2, name='dog')],
)


def check(content: bytes | dict, folder, masks: bool = True, settings=(), **arguments) -> CocoContent:
    (folder / 'coco.json').write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    dataset = dict(data_root=str(folder), ann_file='coco.json', pipeline=[dict(type='Load', with_mask=masks)])
    return check_coco({**dataset, **dict(settings)}, **arguments)


def find_problem(content: bytes | dict, folder, **arguments) -> str:
    with pytest.raises(UserError) as refused:
        check(content, folder, **arguments)
    problem = str(refused.value)
    assert problem.startswith(f'The annotation file {folder / "coco.json"} ') and '\n' not in problem
    return problem


def changed(kind: str, entry: int, key: str, value: object) -> dict:
    content = copy.deepcopy(COCO)
    if value == 'missing':
        del content[kind][entry][key]
    else:
        content[kind][entry][key] = value
    return content


def with_boxes(*boxes: list[float], outlines: bool = False, size: tuple[int, int] = (100, 100)) -> dict:
    """A file with one image, and with annotations of these corners."""
    annotations = []
    for number, (left, top, right, bottom) in enumerate(boxes):
        one = dict(id=number, image_id=1, category_id=1, area=(right - left) * (bottom - top), iscrowd=0)
        outline = [[left, top, right, top, right, bottom]]
        box = [left, top, right - left, bottom - top]
        annotations.append(dict(one, bbox=box, segmentation=outline if outlines else None))
    image = dict(id=1, file_name='a.jpg', height=size[1], width=size[0])
    return dict(COCO, images=[image], annotations=annotations)


CORNERS = [[30, 20, 70, 60], [5, 5, 30, 90], [50, 50, 99, 99], [60, 10, 90, 40]]


def test_a_valid_file_has_no_problem(tmp_path):
    check(COCO, tmp_path, classes=('cat', 'dog'))
    check(COCO, tmp_path, classes=('dog',))


@pytest.mark.parametrize(
    ('content', 'named'),
    [
        (b'', ['is empty', 'images, annotations and categories']),
        (b'{"images": [', ['is not json', 'line 1 column 13']),
        (b'[1]', ['is not COCO json', 'images, annotations and categories']),
        (b'{"labels": [1, 2]}', ['lacks images', 'images, annotations and categories']),
        ({**COCO, 'images': []}, ['[] in images', 'length >= 1']),
        ({**COCO, 'annotations': [5]}, ['5 in annotations[0]', 'object']),
        (json.dumps(COCO).encode('utf-16'), ['is not UTF-8 text']),
        (json.dumps(COCO).encode().replace(b'dog', b'd\xf6g'), ['is not UTF-8 text']),
    ],
)
def test_another_kind_of_file_is_named(content, named, tmp_path):
    problem = find_problem(content, tmp_path)
    assert all(word in problem for word in named), problem


def test_a_byte_order_mark_is_read(tmp_path):
    assert check(codecs.BOM_UTF8 + json.dumps(COCO).encode(), tmp_path) == check(COCO, tmp_path)


def test_what_python_takes_for_json_is_read(tmp_path):
    """The values that json has no words for, in keys that mmdet does not read."""
    content = dict(
        COCO, info=dict(score=float('nan'), more=[float('inf'), '\ud800'.encode('utf-8', 'replace').decode()])
    )
    assert check(content, tmp_path) == check(COCO, tmp_path)


@pytest.mark.parametrize(
    ('place', 'value', 'named'),
    [
        ('images 1 width', 'missing', 'lacks images[1].width.'),
        ('images 1 height', True, 'True in images[1].height'),
        ('images 0 width', 0, '0 in images[0].width'),
        ('images 0 file_name', '', "'' in images[0].file_name"),
        ('images 1 id', 1, 'several images with id=1'),
        ('annotations 0 id', 2, 'several annotations with id=2'),
        ('categories 0 id', 2, 'several categories with id=2'),
        ('annotations 0 category_id', None, 'None in annotations[0].category_id'),
        ('annotations 0 bbox', [1, 2, 3], '[1, 2, 3] in annotations[0].bbox'),
        ('annotations 0 bbox', [1, 2, 'x', 3], "'x' in annotations[0].bbox[2]"),
        ('annotations 0 bbox', [1, 2, float('nan'), 3], "'NaN' in annotations[0].bbox[2]"),
        ('annotations 0 area', '9', "'9' in annotations[0].area"),
        ('annotations 0 iscrowd', '0', "'0' in annotations[0].iscrowd"),
        ('annotations 0 segmentation', [1, 2, 3, 4, 5, 6], '1 in annotations[0].segmentation[0]'),
        ('annotations 0 segmentation', [[1, 2, 3, 4, 5, 1e9]], '1000000000.0 in annotations[0].segmentation[0][5]'),
        ('annotations 0 segmentation', dict(size=[10, 20]), 'lacks annotations[0].segmentation.counts'),
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


def test_the_order_of_a_large_file_is_checked(tmp_path):
    content = dict(COCO, info='x' * (33 * 2**20))
    assert "['cat', 'dog']" in find_problem(content, tmp_path, classes=('dog', 'cat'))


def test_what_mmdet_skips_is_no_problem(tmp_path):
    check(changed('annotations', 0, 'segmentation', 'missing'), tmp_path, masks=False)
    check(changed('annotations', 0, 'segmentation', [[1, 2, 3]]), tmp_path)
    check(changed('annotations', 1, 'image_id', 99), tmp_path)
    check(changed('annotations', 1, 'category_id', 99), tmp_path)
    wrong = {**RLE, 'size': [20, 10]}
    for key, value in (('bbox', [30, 2, 3, 4]), ('bbox', [1, 2, 0.5, 4]), ('area', 0), ('ignore', 1)):
        content = changed('annotations', 1, 'segmentation', wrong)
        content['annotations'][1][key] = value
        check(content, tmp_path)


@pytest.mark.parametrize(
    ('key', 'value', 'why'),
    [
        ('iscrowd', 1, 'iscrowd=1'),
        ('ignore', True, 'ignore=1'),
        ('category_id', 2, 'another class'),
        ('category_id', '1', 'text as category_id, where the id of the category is a number'),
        ('image_id', 7, 'another image_id than any image'),
        ('image_id', '1', 'text as image_id, where the id of the image is a number'),
        ('bbox', [20, 2, 3, 3], 'a bbox outside of the image'),
        ('bbox', [0.1, 0.2, 0.5, 0.4], 'a bbox below one pixel'),
        ('area', 0, 'no area'),
        ('segmentation', [[1, 2, 4, 6]], 'a segmentation of fewer than three points'),
    ],
)
def test_what_is_left_out_is_counted_with_its_reason(key, value, why, tmp_path):
    content = check(changed('annotations', 0, key, value), tmp_path, classes=('cat',))
    assert content.used == 1 and content.left_out == ({why: 1, 'iscrowd=1': 1} if key != 'iscrowd' else {why: 2})
    assert f'1 of 3 annotations have {why}' in content.describe_loss() or key == 'iscrowd'


def test_an_evaluation_needs_polygons(tmp_path):
    """pycocotools takes two points for a box, and fails."""
    content = changed('annotations', 0, 'segmentation', [[1, 2, 4, 6]])
    problem = find_problem(content, tmp_path, settings=dict(test_mode=True))
    assert 'annotations[0] with segmentation=[[1.0, 2.0, 4.0, 6.0]], where an evaluation needs three points' in problem
    assert check(content, tmp_path, masks=False, settings=dict(test_mode=True)).used == 2


def test_numbers_may_be_floats(tmp_path):
    """As pandas writes them where some are missing."""
    content = copy.deepcopy(COCO)
    for one in content['annotations']:
        one.update(image_id=1.0, category_id=1.0, iscrowd=float(one.get('iscrowd', 0)))
    assert check(content, tmp_path) == check(COCO, tmp_path)
    content = changed('annotations', 0, 'image_id', 7.0)
    assert check(content, tmp_path).left_out['another image_id than any image'] == 1


def test_images_that_the_filter_leaves_out_are_counted(tmp_path):
    filtered = dict(filter_cfg=dict(filter_empty_gt=True, min_size=5))
    content = check(COCO, tmp_path, settings=filtered)
    assert content.images == {1: 'a.jpg', 'x': 'b.jpg'}
    assert content.dropped == {'have no annotation of the classes, which filter_cfg.filter_empty_gt asks for': 1}
    content = check(COCO, tmp_path, settings=dict(filter_cfg=dict(min_size=11)))
    assert '2 of 2 images are smaller than filter_cfg.min_size=11' in content.describe_loss()
    assert not check(COCO, tmp_path, settings=dict(filtered, test_mode=True)).dropped


@pytest.mark.parametrize('outlines', [True, False])
@pytest.mark.parametrize('own_area', [True, False])
def test_corners_in_the_place_of_sizes_are_named(outlines, own_area, tmp_path):
    content = with_boxes(*CORNERS, outlines=outlines)
    for one, corners in zip(content['annotations'], CORNERS, strict=True):
        one['bbox'] = corners
        one['area'] = one['area'] if own_area else corners[2] * corners[3]
    problem = find_problem(content, tmp_path, masks=False)
    assert 'annotations[0] with bbox=[30.0, 20.0, 70.0, 60.0]' in problem or not (outlines or own_area)
    assert 'of 4 boxes that contradict their' in problem and 'not two corners' in problem


def test_boxes_apart_from_their_segmentation_are_named(tmp_path):
    content = with_boxes(*CORNERS, outlines=True)
    for one in content['annotations']:  # as fractions of the size of the image
        one['segmentation'] = [[value / 100 for value in one['segmentation'][0]]]
    assert '4 of 4 boxes that contradict their segmentation, the first in annotations[0]' in find_problem(
        content, tmp_path
    )


def test_boxes_as_real_data_has_them_pass(tmp_path):
    """Some beyond the image or beside their mask, and people whose hidden part is outside of the image."""
    check(with_boxes([0, 0, 101, 102], [-1, -1, 100, 100]), tmp_path, masks=False)
    check(with_boxes([60, 40, 90, 160], [-20, 50, 10, 140], [20, 30, 40, 150], [10, 0, 120, 90]), tmp_path, masks=False)
    content = with_boxes(*CORNERS, [40, 40, 43, 43], outlines=True)
    content['annotations'][0]['bbox'] = [0, 0, 99, 99]  # one is wrong
    content['annotations'][4]['bbox'] = [39, 39, 4, 4]
    assert check(content, tmp_path).used == 5


def test_a_missing_image_is_named(tmp_path):
    from mmdet.utils import register_all_modules

    register_all_modules(init_default_scope=False)
    check(COCO, tmp_path)  # a run may need only some of the images
    load = [dict(type='LoadImageFromFile')]
    folders = dict(data_root=str(tmp_path), data_prefix=dict(img='photos'))
    dataset = DATASETS.build(dict(type='mmdet.CocoDataset', ann_file='coco.json', pipeline=load, **folders))
    guard_image_loading(dataset)
    with pytest.raises(UserError, match=f'^The image {tmp_path}/photos/a.jpg is missing: .* data_root and data_prefix'):
        dataset[0]
