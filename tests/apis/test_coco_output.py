"""Detections as COCO json: the ids of the data, and masks that are predicted smaller than the image. Exact."""

import json
from pathlib import Path

import numpy as np
import pytest
from mmengine.config import Config
from mmengine.structures import InstanceData
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from convnext_backbone import UserError
from convnext_backbone.apis.coco_output import CocoIds, CocoOutput, coco_detections, find_ids
from convnext_backbone.apis.image_files import ImageFile

CLASSES = ('circle', 'square', 'triangle', 'star', 'cross')


@pytest.fixture
def annotations(shapes, tmp_path) -> Path:
    """The drawn validation data; its categories are in another order and have other ids, as has each image."""
    content = json.loads((shapes / 'annotations/instances_val2017.json').read_text())
    ids = {category['id']: 7 * (9 - category['id']) for category in content['categories']}
    for category in content['categories']:
        category['id'] = ids[category['id']]
    for image in content['images']:
        image.update(id=image['id'] + 1000, file_name=f'val2017/{image["file_name"]}')
    for annotation in content['annotations']:
        annotation.update(category_id=ids[annotation['category_id']], image_id=annotation['image_id'] + 1000)
    content['categories'].reverse()
    content['categories'].insert(2, dict(id=5, name='of another model'))
    path = tmp_path / 'val.json'
    path.write_text(json.dumps(content))
    return path


def prediction(image: Path, detections: list, size: int = 9, frame: int | None = None) -> dict:
    file = ImageFile(image, Path('out', image.name), frame)
    return dict(file=file, height=size, width=size, detections=detections)


def coco_json(predictions: list[dict], ids: CocoIds) -> dict:
    output = CocoOutput(CLASSES, ids)
    rows = [row for one in predictions for row in output.add(one)]
    before, after = output.enclose()
    return json.loads(before + json.dumps(rows)[1:-1] + after)


def config(data: Path | None) -> Config:
    dataset = dict(pipeline=[], data_root=str(data.parent), ann_file=data.name) if data else dict(pipeline=[])
    return Config(dict(test_dataloader=dict(dataset=dict(type='RepeatDataset', dataset=dataset))))


@pytest.mark.parametrize('named', ['--ann', 'the config'])
def test_the_data_evaluates_predictions(named, annotations, shapes, tmp_path):
    """By pycocotools; what is predicted is what is annotated, and one more image."""
    truth = COCO(annotations)
    names = {one['id']: one['name'] for one in truth.dataset['categories']}
    predictions = [prediction(tmp_path / 'other/photo.jpg', [(0, dict(bbox=[1, 1, 2, 2]))])]
    for image in truth.dataset['images']:
        own = [one for one in truth.dataset['annotations'] if one['image_id'] == image['id']]
        found = [(CLASSES.index(names[one['category_id']]), dict(bbox=one['bbox'], score=0.9)) for one in own]
        predictions.append(prediction(shapes / image['file_name'], found))
    ids = find_ids(
        config(None if named == '--ann' else annotations), CLASSES, annotations if named == '--ann' else None
    )
    written = coco_json(predictions, ids)
    assert [one['name'] for one in written['categories']] == list(CLASSES)
    assert all(names[one['id']] == one['name'] for one in written['categories'])
    other, *known = written['images']
    assert other['id'] == max(truth.imgs) + 1 and {one['id'] for one in known} == set(truth.imgs)
    results = truth.loadRes([one for one in written['annotations'] if one['image_id'] != other['id']])
    evaluation = COCOeval(truth, results, 'bbox')
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    assert evaluation.stats[0] == pytest.approx(1)


def test_without_annotations_ids_count_from_1(tmp_path):
    ids = find_ids(config(tmp_path / 'nowhere.json'), CLASSES)
    predictions = [prediction(Path('a.jpg'), [(4, {})])] * 2
    written = coco_json(predictions, ids)
    assert [one['id'] for one in written['images']] == [1, 2] == [one['image_id'] for one in written['annotations']]
    assert [one['id'] for one in written['categories']] == [1, 2, 3, 4, 5] and written['annotations'][1][
        'category_id'
    ] == 5


def test_frames_of_videos_are_images_of_their_own(annotations):
    """With free ids, also where an image of the data has the name of the video."""
    ids = find_ids(config(None), CLASSES, annotations)
    ids.images['clip.mp4'] = 1
    frames = [prediction(Path(video), [], frame=n) for video in ('a/clip.mp4', 'b/one.avi') for n in (0, 2)]
    written = coco_json(frames, ids)
    free = max(ids.images.values()) + 1
    assert [one['id'] for one in written['images']] == [free, free + 1, free + 2, free + 3]
    assert [(one['video_id'], one['frame_id']) for one in written['images']] == [(1, 0), (1, 2), (2, 0), (2, 2)]
    assert written['images'][1]['file_name'] == 'a/clip.mp4#frame=2'
    assert written['videos'] == [dict(id=1, name='a/clip.mp4'), dict(id=2, name='b/one.avi')]


def test_classes_of_the_same_name_have_ids_of_their_own(tmp_path):
    path = tmp_path / 'val.json'
    content = json.dumps(dict(categories=[dict(id=i, name=name) for i, name in enumerate('aba')]))
    path.write_text(content, encoding='utf-8-sig')  # as some tools write it
    assert find_ids(config(path), ('a', 'a', 'b')).categories == [0, 2, 1]
    with pytest.raises(UserError, match='classes of the model: b'):
        find_ids(config(None), ('b', 'b'), str(path))


@pytest.mark.parametrize(
    ('content', 'named'),
    [
        (None, 'cannot be read'),
        ('{"categories": [{"id": 1', 'no COCO json'),
        ('{"images": []}', "no COCO json .*'categories'"),
        (
            '{"categories": [{"id": 1, "name": "circle"}, {"id": 2, "name": "cat"}]}',
            'square, triangle, star, cross.*cat',
        ),
    ],
)
def test_annotations_without_the_classes_are_refused_or_not_used(content, named, tmp_path, capsys):
    """Refused by name where they are asked for; where only the config has them, a line says that ids count from 1."""
    path = tmp_path / 'val.json'
    if content is not None:
        path.write_text(content)
    with pytest.raises(UserError, match=f'val.json .*{named}'):
        find_ids(config(None), CLASSES, str(path))
    assert find_ids(config(path), CLASSES).categories == [1, 2, 3, 4, 5]
    said = capsys.readouterr().err
    assert ('numbered from 1' in said and 'val.json' in said) == (content is not None)


def ellipse(height: int, width: int) -> np.ndarray:
    y, x = (np.mgrid[:height, :width] + 0.5) / np.array([height, width])[:, None, None]
    return (x - 0.45) ** 2 / 0.3**2 + (y - 0.6) ** 2 / 0.2**2 + (x - y) ** 2 < 1


def test_masks_are_enlarged_to_the_size_of_the_image():
    """An enlarged mask is that of the image but for its edge; a mask of the right size stays as it is."""
    scores, labels = np.array([0.4, 0.9, 0.1]), np.array([3, 1, 0])
    exact = ellipse(300, 400)
    for mask, least in ((ellipse(60, 80), 0.97), (exact, 1)):
        instances = InstanceData(scores=scores, labels=labels, bboxes=np.ones((3, 4)), masks=np.stack([mask] * 3))
        found = coco_detections(instances, 0.3, (300, 400))
        assert [(label, one['score']) for label, one in found] == [(1, 0.9), (3, 0.4)]
        for _, one in found:
            decoded = coco_mask.decode(one['segmentation']).astype(bool)
            assert decoded.shape == (300, 400) and one['area'] == decoded.sum()
            assert (decoded & exact).sum() / (decoded | exact).sum() >= least
