"""Annotation files of a run: what leaves nothing to learn from or evaluates other images is one sentence. Exact."""

import json
import pickle
from pathlib import Path

import pytest
from mmengine.config import Config

from convnext_backbone import UserError
from convnext_backbone.config.check_data import check_data

CLASSES = ('cat', 'dog')


@pytest.fixture
def write(tmp_path):
    """Write an annotation file of four images, one annotation each, as `change` leaves it."""

    def write_file(name: str, change=lambda content: None, prefix: str = '') -> Path:
        images = [dict(id=i, file_name=f'{prefix}{i}.jpg', height=96, width=96) for i in range(4)]
        box = dict(bbox=[30, 20, 40, 40], area=1600, iscrowd=0, segmentation=[[30, 20, 70, 20, 70, 60, 30, 60]])
        annotations = [dict(box, id=i, image_id=i, category_id=1 + i % 2) for i in range(4)]
        categories = [dict(id=i + 1, name=name) for i, name in enumerate(CLASSES)]
        content = dict(images=images, annotations=annotations, categories=categories)
        change(content)
        (tmp_path / name).write_text(json.dumps(content))
        return tmp_path / name

    write_file('train.json')
    write_file('val.json', prefix='val_')
    return write_file


@pytest.fixture
def cfg(tmp_path) -> Config:
    data = dict(type='CocoDataset', data_root=str(tmp_path), metainfo=dict(classes=CLASSES), data_prefix=dict(img=''))
    load = [dict(type='LoadAnnotations', with_bbox=True, with_mask=True)]
    wanted = dict(filter_empty_gt=True, min_size=32)
    val = dict(dataset=dict(data, ann_file='val.json', test_mode=True, pipeline=load))
    return Config(
        dict(
            default_scope='mmdet',
            custom_imports=dict(imports=['mmdet.datasets', 'mmdet.evaluation']),
            train_dataloader=dict(dataset=dict(data, ann_file='train.json', filter_cfg=wanted, pipeline=load)),
            val_dataloader=val,
            val_evaluator=dict(type='CocoMetric', ann_file=str(tmp_path / 'val.json')),
            test_dataloader=val,
            test_evaluator=dict(type='CocoMetric', ann_file=str(tmp_path / 'val.json')),
        )
    )


def refusal(cfg: Config, *splits: str) -> str:
    with pytest.raises(UserError) as refused:
        check_data(cfg, splits or ('train', 'val'))
    assert '\n' not in str(refused.value)
    return str(refused.value)


def set_all(kind: str, **values: object):
    return lambda content: [one.update(values) for one in content[kind]]


def test_valid_files_pass(cfg, write):
    check_data(cfg)
    check_data(cfg, ('test',))


@pytest.mark.parametrize('split', ['train', 'val', 'test'])
def test_the_order_of_the_classes_is_checked_in_every_split(split, cfg, write):
    write('train.json' if split == 'train' else 'val.json', lambda content: content['categories'].reverse())
    assert "has the categories ['dog', 'cat'], but the config the classes ['cat', 'dog']" in refusal(cfg, split)


def test_classes_of_a_file_are_checked(cfg, write, tmp_path):
    (tmp_path / 'names.txt').write_text('dog\ncat\n')
    cfg.train_dataloader.dataset.metainfo.classes = str(tmp_path / 'names.txt')
    assert "['cat', 'dog'], but the config the classes ['dog', 'cat']" in refusal(cfg, 'train')


def test_validation_data_with_other_classes_than_the_training_data_is_named(cfg, write):
    write('val.json', lambda content: content['categories'].reverse())
    cfg.val_dataloader.dataset.metainfo.classes = ('dog', 'cat')
    sentence = refusal(cfg)
    assert sentence.startswith("val_dataloader.dataset has the classes ['dog', 'cat'], but the training data ['cat',")


def test_validation_data_may_name_more_classes(cfg, write):
    """As data for tracking does, of which detectors learn the first."""
    write('val.json', lambda content: content['categories'].append(dict(id=9, name='bird')), prefix='val_')
    cfg.val_dataloader.dataset.metainfo.classes = (*CLASSES, 'bird')
    check_data(cfg)


@pytest.mark.parametrize(
    ('values', 'why'),
    [
        (dict(iscrowd=1), 'iscrowd=1'),
        (dict(ignore=1), 'ignore=1'),
        (dict(bbox=[200, 0, 9, 9]), 'a bbox outside of the image'),
        (dict(category_id='1'), 'text as category_id, where the id of the category is a number'),
        (dict(image_id='1'), 'text as image_id, where the id of the image is a number'),
        (dict(image_id=77), 'another image_id than any image'),
    ],
)
@pytest.mark.parametrize('filtered', [True, False])
def test_training_annotations_that_are_all_left_out_are_named(filtered, values, why, cfg, write):
    write('train.json', set_all('annotations', **values))
    cfg.train_dataloader.dataset.filter_cfg.filter_empty_gt = filtered
    sentence = refusal(cfg)
    assert sentence.startswith('train_dataloader.dataset has no ')
    assert f'4 of 4 annotations have {why}' in sentence


def test_training_files_without_annotations_are_named(cfg, write):
    for change in (lambda content: content.pop('annotations'), lambda content: content['annotations'].clear()):
        write('train.json', change)
        cfg.train_dataloader.dataset.filter_cfg = None
        assert 'train_dataloader.dataset has no annotation to train on: ' in refusal(cfg)


def test_negative_images_beside_others_pass(cfg, write):
    """As data of their own, in which nothing is to be found."""
    write('negative.json', lambda content: content['annotations'].clear())
    part = cfg.train_dataloader.dataset
    negative = {**part, 'ann_file': 'negative.json', 'filter_cfg': None}
    cfg.train_dataloader.dataset = dict(type='ConcatDataset', datasets=[negative, part])
    check_data(cfg)
    negative['filter_cfg'] = dict(filter_empty_gt=True)
    cfg.train_dataloader.dataset = dict(type='ConcatDataset', datasets=[negative, part])
    assert 'train_dataloader.dataset.datasets.0 has no image left: ' in refusal(cfg)


def test_no_image_is_left(cfg, write):
    write('train.json', set_all('images', height=20))
    sentence = refusal(cfg)
    assert sentence.startswith('train_dataloader.dataset has no image left: in ')
    assert '4 of 4 images are smaller than filter_cfg.min_size=32' in sentence


@pytest.mark.parametrize('split', ['val', 'test'])
def test_evaluated_files_without_annotations_are_named(split, cfg, write, tmp_path):
    for change in (lambda content: content.pop('annotations'), set_all('annotations', iscrowd=1)):
        write('val.json', change, prefix='val_')
        for ann_file in (str(tmp_path / 'val.json'), None):
            cfg[f'{split}_evaluator'].ann_file = ann_file
            name = f'{split}_evaluator' if ann_file else f'{split}_dataloader.dataset'
            assert refusal(cfg, split).startswith(f'{name} has no annotation to evaluate: in {tmp_path / "val.json"} ')


def test_test_data_without_annotations_passes_where_results_are_only_written(cfg, write):
    write('val.json', lambda content: content.pop('annotations'))
    cfg.test_evaluator.update(format_only=True, outfile_prefix='out')
    check_data(cfg, ('test',))


@pytest.mark.parametrize('split', ['val', 'test'])
def test_an_evaluator_of_other_images_is_named(split, cfg, write, tmp_path):
    cfg[f'{split}_evaluator'].ann_file = str(tmp_path / 'train.json')
    sentence = refusal(cfg, split)
    assert sentence.startswith(f"{split}_evaluator.ann_file='{tmp_path / 'train.json'}' lists other images than ")
    assert 'image 0 is 0.jpg there and val_0.jpg in the data' in sentence
    write('copy.json', prefix='photos/val_')
    cfg[f'{split}_evaluator'].ann_file = str(tmp_path / 'copy.json')
    check_data(cfg, (split,))


def test_a_part_of_the_images_is_not_scored_as_all(cfg, write):
    cfg.val_dataloader.dataset.indices = 2
    assert 'image 2 is val_2.jpg there and missing in the data' in refusal(cfg)
    cfg.val_evaluator.ann_file = None
    check_data(cfg)


def test_an_evaluator_of_several_data_sets_passes(cfg, write, tmp_path):
    def later(content: dict) -> None:
        for one in content['images']:
            one['id'] += 10
        for one in content['annotations']:
            one.update(id=one['id'] + 10, image_id=one['image_id'] + 10)

    both = json.loads(write('more.json', later, prefix='more_').read_text())
    first = json.loads((tmp_path / 'val.json').read_text())
    for kind in ('images', 'annotations'):
        both[kind] += first[kind]
    (tmp_path / 'both.json').write_text(json.dumps(both))
    part = cfg.val_dataloader.dataset
    cfg.val_dataloader.dataset = dict(type='ConcatDataset', datasets=[part, {**part, 'ann_file': 'more.json'}])
    cfg.val_evaluator.ann_file = str(tmp_path / 'both.json')
    check_data(cfg)


def test_other_processes_leave_the_files_to_the_first(cfg, write, monkeypatch):
    write('train.json', lambda content: content['categories'].reverse())
    for launcher, rank, checked in (('pytorch', '1', False), ('pytorch', '0', True), ('none', '1', True)):
        monkeypatch.setenv('RANK', rank)
        cfg.launcher = launcher
        assert not checked or "the categories ['dog', 'cat']" in refusal(cfg)
        assert checked or check_data(cfg) is None


def test_a_file_with_a_byte_order_mark_is_read_by_mmdet(cfg, write, tmp_path):
    from mmdet.evaluation import CocoMetric
    from mmengine.registry import DATASETS, init_default_scope

    path = tmp_path / 'train.json'
    path.write_bytes(b'\xef\xbb\xbf' + path.read_bytes())
    check_data(cfg)
    init_default_scope('mmdet')
    assert len(DATASETS.build(dict(cfg.train_dataloader.dataset, pipeline=[]))) == 4
    assert len(CocoMetric(ann_file=str(path))._coco_api.imgs) == 4


def test_pickles_are_refused_by_name(cfg, tmp_path):
    cfg.train_dataloader.dataset.proposal_file = 'rpn.pkl'
    (tmp_path / 'rpn.pkl').write_bytes(pickle.dumps({}))
    assert refusal(cfg).startswith("train_dataloader.dataset.proposal_file='rpn.pkl' is a pickle, which could run code")


def test_what_training_leaves_out_is_said(cfg, write, capsys):
    check_data(cfg, ('train', 'val'))
    assert 'Not trained on' not in capsys.readouterr().err
    write('train.json', lambda content: content['annotations'][0].update(bbox=[200, 0, 9, 9]))
    check_data(cfg, ('train', 'val'))
    text = capsys.readouterr().err
    assert text.startswith('Not trained on:\n  in ')
    assert text.endswith('train.json 1 of 4 annotations have a bbox outside of the image\n')
