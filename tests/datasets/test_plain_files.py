"""Files of data: whatever reads them, no code in them is run; plain values are read as before. Exact."""

import json
import os
import pickle

import mmengine
import pytest
import yaml
from mmengine.config import Config

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
    with pytest.raises(UserError, match='pickle .* run code, and nothing of it was run; .*mmengine.dump.*json'):
        mmengine.load(path)
    with pytest.raises(UserError, match='pickle'), path.open('rb') as file:
        mmengine.load(file, file_format=suffix)
    assert not (tmp_path / 'harm').exists()


def test_the_way_to_convert_works(tmp_path):
    """As the sentence has it, in a process that does not import this package."""
    with pytest.raises(UserError) as refused:
        refuse_pickles([('train_dataloader.dataset.ann_file', 'x.pkl')])
    command = str(refused.value).partition('`')[2].partition('`')[0]
    (tmp_path / 'x.pkl').write_bytes(pickle.dumps(dict(a=[1, 2])))
    assert os.system(f'cd {tmp_path} && {command.replace("python", os.sys.executable, 1)}') == 0
    assert json.loads((tmp_path / 'x.json').read_text()) == dict(a=[1, 2])


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
