"""Real images of COCO, ImageNet and CamVid, in the folder CONVNEXT_REAL_DATA; trainings to a score are marked slow.

CONVNEXT_REAL_DATA=<folder> python -m pytest -m slow tests/apis/test_real_data.py
"""

import json
import re

import pytest
from conftest import REPOSITORY, run_tool
from mmengine.config import Config
from mmengine.registry import DATASETS, init_default_scope
from PIL import Image

from convnext_backbone import ResumableRunner
from convnext_backbone.config.check_data import check_data
from convnext_backbone.config.load import load_config
from convnext_backbone.datasets.class_names import describe_class
from convnext_backbone.datasets.seeded_loader import SeededLoader

CASCADE_T = REPOSITORY / 'configs/cascade_convnext_t_coco.py'
COCO8 = REPOSITORY / 'configs/demo/cascade_convnext_atto_coco8.py'
CAMVID = REPOSITORY / 'configs/demo/upernet_convnext_atto_camvid.py'


def test_the_recipe_loads_and_augments_coco(real_data):
    cfg = load_config(CASCADE_T, data_root=str(real_data / 'coco'))
    check_data(cfg)
    init_default_scope('mmdet')
    cfg.train_dataloader.update(num_workers=0, persistent_workers=False)
    loader = SeededLoader.wrap(ResumableRunner.build_dataloader(cfg.train_dataloader, seed=0), seed=0)
    batch = next(iter(loader))
    for image, sample in zip(batch['inputs'], batch['data_samples'], strict=True):
        height, width = image.shape[1:]
        assert max(height, width) <= 1333 and min(height, width) <= 800
        assert sample.gt_instances.masks.masks.shape == (len(sample.gt_instances.labels), height, width)
        assert sample.img_path.startswith(str(real_data))


def test_augmentation_depends_only_on_the_seed(real_data):
    cfg = load_config(CASCADE_T, data_root=str(real_data / 'coco'))
    init_default_scope('mmdet')
    shapes = []
    for workers, seed in ((0, 0), (2, 0), (0, 1)):
        cfg.train_dataloader.update(num_workers=workers, persistent_workers=False)
        loader = SeededLoader.wrap(ResumableRunner.build_dataloader(cfg.train_dataloader, seed=0), seed=seed)
        batches = iter(loader)
        shapes.append([image.shape for _ in range(4) for image in next(batches)['inputs']])
    assert shapes[0] == shapes[1] != shapes[2]


def test_rgb_and_grey_images_of_imagenet_are_loaded(real_data):
    recipe = Config.fromfile(REPOSITORY / 'configs/_base_/imagenet_classifier.py')
    for split, images in (('train', 1000), ('val', 500)):
        settings = recipe[f'{split}_dataloader'].dataset
        settings.update(data_root=str(real_data / 'imagenette'))
        data = DATASETS.build(settings)
        assert len(data) == images and len(data.metainfo['classes']) == 10
        assert describe_class(data.metainfo['classes'][0]) == 'tench'
        grey = [i for i, (path, _) in enumerate(data.reader.samples) if Image.open(path).mode == 'L']
        assert grey
        for i in [*grey, 0, images - 1]:
            sample = data[i]
            assert sample['inputs'].shape == (3, 224, 224) and sample['labels'] == i // (images // 10)
            assert sample['broken'] == ''


def test_camvid_trains_and_is_evaluated(real_data, tmp_path, call_tool):
    options = ['train_cfg.max_iters=2', 'train_cfg.val_interval=2', 'val_dataloader.dataset.indices=2']
    options += ['default_hooks.logger.interval=1']
    arguments = ['--data-root', real_data / 'camvid', '--work-dir', 'out', '--cfg-options', *options]
    result = call_tool('train.py', CAMVID, *arguments, cwd=tmp_path)
    assert result.returncode == 0, result.stderr[-3000:]
    assert 'Iter(train) [2/2]' in result.stdout and 'Bicyclist' in result.stdout and 'mIoU: ' in result.stdout


@pytest.mark.slow
def test_imagenette_is_learnt(real_data, tmp_path):
    """Top-1 >= 0.50 on 500 images, after training on 1000 others."""
    config = REPOSITORY / 'configs/demo/pretrain_convnext_atto_imagenette.py'
    arguments = [config, '--data-root', real_data / 'imagenette', '--work-dir', 'out']
    result = run_tool('train.py', *arguments, cwd=tmp_path, timeout=3600)
    assert result.returncode == 0, result.stderr[-3000:]
    line = [line for line in result.stdout.splitlines() if 'accuracy/top1: ' in line][-1]
    assert float(re.search(r' accuracy/top1: (\S+)', line)[1]) >= 0.50, line


@pytest.mark.slow
def test_the_full_recipe_trains_validates_and_resumes_on_coco(real_data, tmp_path):
    options = ['model.backbone.init_cfg=None', 'default_hooks.logger.interval=1', 'train_cfg.max_epochs=1']
    options += ['train_dataloader.dataset.indices=10', 'val_dataloader.dataset.indices=4']
    options += ['default_hooks.checkpoint.by_epoch=False', 'default_hooks.checkpoint.interval=3']
    options += ['model.test_cfg.rcnn.score_thr=0.0']  # after five iterations from random weights no score is above 0.05
    arguments = [CASCADE_T, '--data-root', real_data / 'coco', '--work-dir', 'out']
    result = run_tool('train.py', *arguments, '--cfg-options', *options, cwd=tmp_path, timeout=1800)
    assert result.returncode == 0, result.stderr[-3000:]
    assert 'Epoch(train) [1][5/5]' in result.stdout and 'coco/segm_mAP:' in result.stdout
    last = tmp_path / 'out/iter_3.pth'
    more = run_tool('train.py', *arguments, '--resume', last, '--cfg-options', *options, cwd=tmp_path, timeout=1800)
    assert more.returncode == 0 and 'resumed epoch: 0, iter: 3' in more.stdout, more.stderr[-3000:]


@pytest.mark.slow
def test_a_detector_overfits_eight_images(real_data, tmp_path):
    """Box AP >= 0.70 and mask AP >= 0.55 on the training images."""
    data = ['--data-root', real_data / 'coco']
    result = run_tool('train.py', COCO8, *data, '--work-dir', 'out', cwd=tmp_path, timeout=3600)
    assert result.returncode == 0, result.stderr[-3000:]
    last = (tmp_path / 'out/last_checkpoint').read_text()
    scores = json.loads(run_tool('test.py', COCO8, last, *data, '--json', cwd=tmp_path).stdout)
    assert scores['coco/bbox_mAP'] >= 0.70 and scores['coco/segm_mAP'] >= 0.55, scores


@pytest.mark.slow
def test_camvid_is_learnt(real_data, tmp_path):
    """mIoU >= 0.30 on 51 validation images, from random weights."""
    arguments = [CAMVID, '--data-root', real_data / 'camvid', '--work-dir', 'out']
    result = run_tool('train.py', *arguments, cwd=tmp_path, timeout=3600)
    assert result.returncode == 0, result.stderr[-3000:]
    assert float(re.findall(r' mIoU: (\S+)', result.stdout)[-1]) >= 30
