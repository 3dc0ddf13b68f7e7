"""Files of data: whatever reads them, no code in them is run; plain values are read as before. Exact."""

import os
import pickle
import sys

import mmengine
import numpy as np
import pytest
import yaml
from mmengine.config import Config
from mmengine.registry import DATASETS
from mmengine.structures import InstanceData

from convnext_backbone import UserError
from convnext_backbone.datasets.plain_files import read_class_map, refuse_pickles


class Harm:
    def __init__(self, folder: object) -> None:
        self.folder = str(folder)

    def __reduce__(self) -> tuple:
        return os.mkdir, (self.folder,)


@pytest.mark.parametrize('suffix', ['pkl', 'pickle'])
def test_mmengine_reads_no_pickle(suffix, tmp_path):
    path = tmp_path / f'annotations.{suffix}'
    mmengine.dump([Harm(tmp_path / 'harm')], path)
    with pytest.raises(
        UserError, match='pickle .* run code, and nothing of it was run; .*convert it by .* and name the json'
    ):
        mmengine.load(path)
    with pytest.raises(UserError, match='pickle'), path.open('rb') as file:
        mmengine.load(file, file_format=suffix)
    assert not (tmp_path / 'harm').exists()


def test_the_way_to_convert_works_for_proposals(shapes, tmp_path):
    """As the sentence has it, and mmdet's loading takes what comes out."""
    from mmdet.utils import register_all_modules

    from convnext_backbone.datasets.image_loading import guard_image_loading

    register_all_modules()
    names = [path.name for path in sorted((shapes / 'train2017').iterdir())]
    some = InstanceData(bboxes=np.array([[1, 2, 30, 40]], np.float32), scores=np.array([0.5], np.float32))
    none = InstanceData(bboxes=np.zeros((0, 4), np.float32), scores=np.zeros(0, np.float32))
    proposals = {f'train2017/{name}': none if i else some for i, name in enumerate(names)}
    (tmp_path / 'x.pkl').write_bytes(pickle.dumps(proposals))
    with pytest.raises(UserError) as refused:
        mmengine.load(tmp_path / 'x.pkl')
    command = str(refused.value).partition('`python')[2].partition('`')[0]
    assert os.system(f'cd {tmp_path} && {sys.executable} {command}') == 0

    data = dict(data_root=str(shapes), ann_file='annotations/instances_train2017.json')
    data['data_prefix'] = dict(img='train2017/')
    dataset = DATASETS.build(
        dict(
            type='mmdet.CocoDataset',
            metainfo=dict(classes=('circle', 'square', 'triangle', 'star', 'cross')),
            proposal_file=str(tmp_path / 'x.json'),
            pipeline=[dict(type='mmdet.LoadProposals')],
            **data,
        )
    )
    guard_image_loading(dataset)
    assert dataset[0]['proposals'].tolist() == [[1, 2, 30, 40]] and dataset[0]['proposals_scores'].tolist() == [0.5]
    assert dataset[1]['proposals'].shape == (0, 4)


@pytest.mark.parametrize('suffix', ['yaml', 'yml'])
def test_yaml_constructs_no_objects(suffix, tmp_path):
    path = tmp_path / f'annotations.{suffix}'
    path.write_text(f"x: !!python/object/apply:os.mkdir ['{tmp_path / 'harm'}']")
    for read in (mmengine.load, Config.fromfile):
        with pytest.raises(yaml.constructor.ConstructorError, match='python/object/apply:os.mkdir'):
            read(path)
    assert not (tmp_path / 'harm').exists()


def test_plain_values_of_yaml_are_read(tmp_path):
    content = dict(numbers=[1, 2.5, None, True], text='é', scale=(1333, (800, 'x')))
    mmengine.dump(content, tmp_path / 'x.yaml')
    assert mmengine.load(tmp_path / 'x.yaml') == content


@pytest.mark.parametrize(
    ('key', 'value'),
    [
        ('ann_file', 'a/train.pkl'),
        ('proposal_file', 'rpn.pickle'),
        ('pipeline.0.decode_backend', 'pickle'),
        ('hierarchy_file', 'class_label_tree.np'),
    ],
)
def test_settings_that_name_pickles_are_named(key, value):
    with pytest.raises(UserError, match=f"^train_dataloader.dataset.{key}='{value}' is a pickle, which could run code"):
        refuse_pickles([('train_dataloader.dataset', {}), (f'train_dataloader.dataset.{key}', value)])


def test_other_settings_pass():
    refuse_pickles(
        [('a.ann_file', 'pkl.json'), ('a.hierarchy_file', 'x.json'), ('a.decode_backend', 'numpy'), ('b', 3)]
    )


@pytest.mark.parametrize(
    ('name', 'text'),
    [
        ('map.txt', 'cat\ndog\n'),
        ('map.txt', '\ufeffcat\r\n dog \r\n\r\n'),
        ('map.json', '["cat", "dog"]'),
        ('map.json', '{"cat": 0, "dog": 1}'),
    ],
)
def test_class_maps(name, text, tmp_path):
    (tmp_path / name).write_bytes(text.encode())
    assert read_class_map(str(tmp_path / name)) == read_class_map(name, str(tmp_path)) == dict(cat=0, dog=1)


@pytest.mark.parametrize(
    ('content', 'problem'),
    [
        (None, 'does not exist: name a file of class names, one a line'),
        (pickle.dumps(dict(cat=0)), r"is no text \('utf-8' codec.*: write the class names into it, one a line"),
        (b'cat\ndog\ncat\n', 'is no list of different names: write one a line'),
    ],
)
def test_class_maps_of_another_kind_are_named(content, problem, tmp_path):
    path = tmp_path / 'map.pkl'
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=f'^The class_map {path} {problem}.$'):
        read_class_map(str(path))
