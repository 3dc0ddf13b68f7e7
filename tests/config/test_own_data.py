"""Exact: the data that a config is for changes nothing; classes of other data go into data sets, heads and metrics."""

import importlib.util
import json
from pathlib import Path

import pytest
from conftest import REPOSITORY
from mmengine.config import Config
from own_sets import NAMES, write_detection

from convnext_backbone.config.heads import find_heads, set_number_of_classes
from convnext_backbone.config.load import load_config
from convnext_backbone.config.own_data import Annotations, count_images, replace_data_root, use_own_data
from convnext_backbone.config.recipes import list_recipes, task_of
from convnext_backbone.config.schedule import Schedule, set_schedule
from convnext_backbone.utils.errors import UserError

ZOO = [recipe for recipe in list_recipes(REPOSITORY / 'configs') if recipe.path.parent.name == 'configs']
CASCADE = REPOSITORY / 'configs/cascade_convnext_t_coco.py'
UPERNET = REPOSITORY / 'configs/upernet_convnext_t_ade20k.py'
FINETUNE = REPOSITORY / 'configs/finetune_convnext_t_22k_224_imagenet.py'


def make_known(task: str, real_data: Path, folder: Path) -> Path:
    """What a recipe is for: COCO's own files, or the folders of ADE20K and of ImageNet-1K."""
    if task == 'detection':
        return real_data / 'coco'
    names = [f'images/{split}' for split in ('training', 'validation')]
    names += [f'annotations/{split}' for split in ('training', 'validation')]
    if task in ('classification', 'pretraining'):
        names = [f'{split}/n{number:08}' for split in ('train', 'val') for number in range(1000)]
    for name in names:
        (folder / name).mkdir(parents=True)
    if task == 'segmentation':
        source = real_data / 'ade_samples/objectInfo150.txt'
        (folder / 'objectInfo150.txt').write_bytes(source.read_bytes())
    return folder


@pytest.mark.parametrize('task', ['detection', 'segmentation', 'classification', 'pretraining'])
def test_the_data_of_the_recipes_changes_nothing(task, real_data, tmp_path):
    """Key by key: --data-root with COCO, ADE20K or ImageNet gives what it gave before layouts were recognised."""
    root, seen = str(make_known(task, real_data, tmp_path)), 0
    for path in [recipe.path for recipe in ZOO if recipe.task == task]:
        cfg = Config.fromfile(path)
        assert task_of(cfg) == task
        cfg.work_dir = str(tmp_path / 'work')
        replace_data_root(cfg, root)
        before = cfg.to_dict()
        assert use_own_data(cfg, root, Annotations()) is None and not set_schedule(cfg, Schedule())
        assert cfg.to_dict() == before
        seen += 1
    assert seen >= 7 and not (tmp_path / 'work').exists()


def test_classes_go_into_data_sets_heads_and_metrics(real_data, tmp_path, capsys):
    root = tmp_path / 'mine'
    write_detection('roboflow', real_data, root)
    cfg = load_config(CASCADE, str(tmp_path / 'work'), str(root))
    assert {name: value for name, value in find_heads(cfg)} == {
        **{f'model.roi_head.bbox_head.{number}.num_classes': 3 for number in range(3)},
        'model.roi_head.mask_head.num_classes': 3,
    }
    for split, folder in (('train', 'train'), ('val', 'valid'), ('test', 'test')):
        dataset = cfg[f'{split}_dataloader'].dataset
        assert dataset.metainfo.classes == NAMES
        content = json.loads(Path(dataset.data_root, dataset.ann_file).read_text())
        names = {Path(dataset.data_root, dataset.data_prefix.img, one['file_name']) for one in content['images']}
        assert names and all(name.is_file() and name.is_relative_to(root / folder) for name in names)
        if split != 'train':
            assert Path(cfg[f'{split}_evaluator'].ann_file) == Path(dataset.data_root, dataset.ann_file)
    said = capsys.readouterr().err.splitlines()[0]
    assert said.startswith(f'{root}: COCO json') and '3 classes (Mensch, Tasse, Auto)' in said


def test_a_set_of_boxes_leaves_the_mask_head_out(real_data, tmp_path, capsys):
    write_detection('yolo', real_data, tmp_path / 'mine')
    cfg = load_config(CASCADE, str(tmp_path / 'work'), str(tmp_path / 'mine'))
    assert 'mask_head' not in cfg.model.roi_head and cfg.val_evaluator.metric == ['bbox']
    assert not any(step.get('with_mask') for step in cfg.train_dataloader.dataset.pipeline)
    assert 'the mask head is left out' in capsys.readouterr().err


def test_a_mask_head_that_is_tested_stays(real_data, tmp_path, capsys):
    write_detection('yolo', real_data, tmp_path / 'mine')
    cfg = Config.fromfile(CASCADE)
    cfg.work_dir = str(tmp_path / 'work')
    replace_data_root(cfg, str(tmp_path / 'mine'))
    use_own_data(cfg, str(tmp_path / 'mine'), Annotations(), trains=False)
    assert 'mask_head' in cfg.model.roi_head and cfg.test_evaluator.metric == ['bbox']
    assert 'boxes alone are evaluated' in capsys.readouterr().err


def test_a_few_forgotten_masks_do_not_cost_the_mask_head(real_data, tmp_path):
    write_detection('roboflow', real_data, tmp_path / 'mine')
    path = tmp_path / 'mine/train/_annotations.coco.json'
    content = json.loads(path.read_text())
    del content['annotations'][0]['segmentation']
    path.write_text(json.dumps(content))
    with pytest.raises(UserError, match=r'% of the objects have a box and no mask, .*mask_head=None'):
        load_config(CASCADE, str(tmp_path / 'work'), str(tmp_path / 'mine'))
    boxes = {'model.roi_head.mask_head': None}
    cfg = load_config(CASCADE, str(tmp_path / 'work'), str(tmp_path / 'mine'), boxes)
    assert not cfg.model.roi_head.mask_head and cfg.val_evaluator.metric == ['bbox']


def test_settings_win_over_the_data(real_data, tmp_path):
    write_detection('roboflow', real_data, tmp_path / 'mine')
    options = {'train_dataloader.dataset.metainfo.classes': ('Auto',), 'train_dataloader.batch_size': 1}
    cfg = load_config(CASCADE, str(tmp_path / 'work'), str(tmp_path / 'mine'), options)
    assert cfg.train_dataloader.dataset.metainfo.classes == ('Auto',) and cfg.train_dataloader.batch_size == 1


def test_a_folder_that_is_not_there_is_left_to_the_check(tmp_path):
    cfg = load_config(CASCADE, data_root=str(tmp_path / 'nowhere'))
    assert cfg.train_dataloader.dataset.data_root == f'{tmp_path}/nowhere/'


def test_a_config_of_several_sets_is_not_guessed_at(real_data, tmp_path):
    write_detection('roboflow', real_data, tmp_path / 'mine')
    (tmp_path / 'two.py').write_text(
        f'_base_ = {str(CASCADE)!r}\none = _base_.train_dataloader.dataset\n'
        "train_dataloader = dict(dataset=dict(_delete_=True, type='ConcatDataset', datasets=[one, one]))\n"
    )
    with pytest.raises(UserError, match=r'has several data sets \(train_dataloader.dataset.datasets.0, '):
        load_config(tmp_path / 'two.py', str(tmp_path / 'work'), str(tmp_path / 'mine'))


# Heads of mmdet and mmseg, as their configs have them, and how many classes each predicts of 5.
HEADS = {
    'mmdet::retinanet/retinanet_r50_fpn_1x_coco.py': ['bbox_head'],
    'mmdet::dino/dino-4scale_r50_8xb2-12e_coco.py': ['bbox_head'],
    'mmdet::solov2/solov2_r50_fpn_1x_coco.py': ['mask_head'],
    'mmdet::queryinst/queryinst_r50_fpn_1x_coco.py': [
        f'roi_head.{kind}_head.{number}' for kind in ('bbox', 'mask') for number in range(6)
    ],
    'mmseg::knet/knet-s3_r50-d8_fcn_8xb2-adamw-80k_ade20k-512x512.py': [
        'decode_head.kernel_update_head.0',
        'decode_head.kernel_update_head.1',
        'decode_head.kernel_update_head.2',
        'decode_head.kernel_generate_head',
        'auxiliary_head',
    ],
}


@pytest.mark.parametrize('name', HEADS, ids=lambda name: name.split('/')[-1])
def test_all_heads_of_a_model_predict_the_classes(name):
    package, _, path = name.partition('::')
    (folder,) = importlib.util.find_spec(package).submodule_search_locations
    cfg = Config.fromfile(Path(folder, '.mim/configs', path))
    set_number_of_classes(cfg, 5)
    assert sorted(find_heads(cfg)) == sorted((f'model.{head}.num_classes', 5) for head in HEADS[name])


def test_class_weights_of_the_background_stay_and_those_of_other_classes_are_refused():
    head = dict(num_things_classes=80, num_stuff_classes=0, loss_cls=dict(class_weight=[1.0] * 80 + [0.1]))
    cfg = Config(dict(model=dict(panoptic_head=head)))
    set_number_of_classes(cfg, 3)
    assert cfg.model.panoptic_head.loss_cls.class_weight == [1.0, 1.0, 1.0, 0.1]
    assert [*find_heads(cfg)] == [('model.panoptic_head.num_things_classes', 3)]
    rare = dict(num_classes=2, loss_decode=[dict(class_weight=[1.0, 4.0])])
    with pytest.raises(UserError, match=r'model.decode_head.loss_decode.0.class_weight has a weight for each of 2'):
        set_number_of_classes(Config(dict(model=dict(decode_head=rare))), 3)


def test_panoptic_heads_are_refused():
    head = dict(num_things_classes=80, num_stuff_classes=53)
    with pytest.raises(UserError, match=r'model.panoptic_head predicts stuff besides things \(num_stuff_classes=53\)'):
        set_number_of_classes(Config(dict(model=dict(panoptic_head=head))), 3)


def test_the_images_of_an_epoch_are_counted(real_data):
    assert count_images(load_config(CASCADE, data_root=str(real_data / 'coco'))) == 80
    demo = REPOSITORY / 'configs/demo/upernet_convnext_atto_camvid.py'
    assert count_images(load_config(demo, data_root=str(real_data / 'camvid'))) == 92
    assert count_images(load_config(UPERNET, data_root='nowhere')) is None
