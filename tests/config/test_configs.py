"""Exact: the configs have the paper's numbers and build, metafiles agree with them, the registry finds the backbone."""

import copy
import re
import subprocess
import sys

import pytest
import torch
from conftest import REPOSITORY
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope

from convnext_backbone.config.check import check_settings
from convnext_backbone.config.load import load_config
from convnext_backbone.config.machine import adapt_to_machine
from convnext_backbone.config.metafile import read_metafile

CONFIGS = sorted(
    path.relative_to(REPOSITORY) for path in REPOSITORY.glob('configs/**/*.py') if '_base_' not in path.parts
)
METAFILES = sorted(REPOSITORY.glob('configs/**/metafile.yml'))
MODELS_OF_PAPERS = {model.config: model for path in METAFILES for model in read_metafile(path)}


@pytest.fixture(scope='module')
def cascade_t():
    return Config.fromfile(REPOSITORY / 'configs/cascade_convnext_t_coco.py')


def test_cascade_t_optimisation_is_the_papers(cascade_t):
    wrapper = cascade_t.optim_wrapper
    assert wrapper.type == 'AmpOptimWrapper'
    assert wrapper.constructor == 'LayerDecayOptimWrapperConstructor'
    assert wrapper.paramwise_cfg == dict(decay_rate=0.7, decay_type='layer_wise')
    assert wrapper.optimizer == dict(type='AdamW', lr=2e-4, betas=(0.9, 0.999), weight_decay=0.05)


def test_cascade_t_schedule_is_the_papers(cascade_t):
    assert cascade_t.train_cfg.max_epochs == 36
    warmup, steps = cascade_t.param_scheduler
    assert (warmup.type, warmup.end, warmup.by_epoch, warmup.start_factor) == ('LinearLR', 500, False, 0.001)
    assert (steps.milestones, steps.gamma, steps.by_epoch) == ([27, 33], 0.1, True)
    assert cascade_t.train_dataloader.batch_size == 2
    assert cascade_t.auto_scale_lr == dict(enable=False, base_batch_size=8 * 2)


def test_cascade_t_model_is_the_papers(cascade_t):
    backbone = cascade_t.model.backbone
    assert (backbone.type, backbone.arch, backbone.drop_path_rate) == ('ConvNeXt', 'tiny', 0.4)
    assert backbone.layer_scale_init_value == 1.0
    assert backbone.init_cfg.checkpoint.endswith('/convnext_tiny_1k_224.pth')  # the final weights, not the EMA ones
    heads = cascade_t.model.roi_head.bbox_head
    assert len(heads) == 3
    for head, stds in zip(
        heads, ([0.1, 0.1, 0.2, 0.2], [0.05, 0.05, 0.1, 0.1], [0.033, 0.033, 0.067, 0.067]), strict=True
    ):
        assert (head.type, head.num_shared_convs, head.num_shared_fcs) == ('ConvFCBBoxHead', 4, 1)
        assert head.norm_cfg.type == 'SyncBN'
        assert (head.loss_bbox.type, head.loss_bbox.loss_weight) == ('GIoULoss', 10.0)
        assert head.reg_decoded_bbox and not head.reg_class_agnostic
        assert head.bbox_coder.target_stds == stds


def test_cascade_t_augmentation_is_the_papers(cascade_t):
    load, annotations, flip, choice, pack = cascade_t.train_dataloader.dataset.pipeline
    assert (flip.type, flip.prob) == ('RandomFlip', 0.5)
    (plain,), (small, crop, again) = choice.transforms
    scales = [(480, 1333), (512, 1333), (544, 1333), (576, 1333), (608, 1333), (640, 1333)]
    scales += [(672, 1333), (704, 1333), (736, 1333), (768, 1333), (800, 1333)]
    assert plain.scales == again.scales == scales
    assert small.scales == [(400, 1333), (500, 1333), (600, 1333)]
    assert (crop.crop_type, crop.crop_size, crop.allow_negative_crop) == ('absolute_range', (384, 600), True)


def test_cascade_t_has_86_million_parameters(cascade_t):
    init_default_scope('mmdet')
    with torch.device('meta'):
        model = MODELS.build(cascade_t.model)
    assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(86, abs=0.5)


@pytest.mark.skipif(torch.cuda.is_available(), reason='this machine has a GPU: nothing falls back')
@pytest.mark.parametrize(('dtype', 'precision'), [(None, 'fp16'), ('float16', 'fp16'), ('bfloat16', 'bf16')])
def test_without_a_gpu_mixed_precision_and_syncbn_fall_back_with_one_warning_each(dtype, precision, capsys):
    cfg = load_config(REPOSITORY / 'configs/cascade_convnext_t_coco.py')
    if dtype:
        cfg.optim_wrapper.dtype = dtype
    adapt_to_machine(cfg)
    fp32, bn = capsys.readouterr().out.splitlines()
    assert fp32.startswith('warning: ') and precision in fp32 and bn.startswith('warning: ') and 'SyncBN' in bn
    assert cfg.optim_wrapper.type == 'OptimWrapper' and 'dtype' not in cfg.optim_wrapper
    assert {head.norm_cfg.type for head in cfg.model.roi_head.bbox_head} == {'BN'}


@pytest.mark.parametrize(
    ('given', 'fused'),
    [
        (dict(type='AdamW'), True),
        (dict(type='Adam'), True),
        (dict(type='AdamW', fused=False), False),
        (dict(type='AdamW', foreach=False), None),
        (dict(type='SGD'), None),
    ],
    ids=str,
)
def test_with_a_gpu_adam_is_fused_unless_the_config_says_how(given, fused, monkeypatch):
    monkeypatch.setattr('torch.cuda.is_available', lambda: True)
    cfg = Config(dict(model={}, optim_wrapper=dict(type='AmpOptimWrapper', optimizer=dict(lr=1, **given))))
    adapt_to_machine(cfg)
    assert cfg.optim_wrapper.optimizer.get('fused') is fused and cfg.optim_wrapper.type == 'AmpOptimWrapper'


@pytest.mark.parametrize('config', CONFIGS, ids=str)
def test_every_config_builds_its_model(config):
    cfg = Config.fromfile(REPOSITORY / config)
    assert cfg.custom_imports.imports == ['convnext_backbone']
    check_settings(cfg)
    init_default_scope(cfg.default_scope)
    with torch.device('meta'):
        model = MODELS.build(copy.deepcopy(cfg.model))  # a detector writes into its config
    if str(config) in MODELS_OF_PAPERS:
        init_cfg = cfg.model.get('init_cfg') or cfg.model.backbone.get('init_cfg') or {}
        assert MODELS_OF_PAPERS[str(config)].weights == init_cfg.get('checkpoint')
    reader = next((cfg.model[part] for part in ('neck', 'decode_head', 'panoptic_head') if part in cfg.model), None)
    if reader:
        assert list(model.backbone.out_channels) == reader.in_channels
    elif cfg.model.type == 'ImageClassifier':
        assert model.head.in_features == model.backbone.out_channels[-1]


@pytest.mark.parametrize('config', CONFIGS, ids=str)
def test_every_config_opens_with_its_purpose_and_its_command(config):
    head = (REPOSITORY / config).read_text().split('_base_')[0]
    assert head.startswith('# ') and f'tools/train.py {config}' in head


def test_metafiles_are_of_the_configs_of_the_papers():
    assert [path.parent.name for path in METAFILES] == ['configs', 'roadmap']
    folders = ('configs/*.py', 'configs/roadmap/r50/*.py', 'configs/roadmap/r200/*.py')
    expected = [str(path.relative_to(REPOSITORY)) for folder in folders for path in REPOSITORY.glob(folder)]
    assert sorted(MODELS_OF_PAPERS) == sorted(expected)


@pytest.mark.parametrize('config', MODELS_OF_PAPERS)
def test_a_config_opens_with_the_score_of_its_metafile(config):
    model = MODELS_OF_PAPERS[config]
    score = f'Published: {model.score}.' if model.score else 'Ours, no published score.' if model.ours else None
    first = (REPOSITORY / config).read_text().splitlines()[0]
    assert first.endswith(f' {score}') if score else not re.search('Published|Ours', first)


def test_scores_keep_the_digits_of_the_paper():
    assert MODELS_OF_PAPERS['configs/roadmap/r50/width.py'].scores == {'Top 1 Accuracy': '80.50'}
    assert MODELS_OF_PAPERS['configs/upernet_convnext_t_ade20k.py'].score == '46.0 mIoU, 46.7 with --tta'


LOOK_UP = """
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
by_name, by_class = Config.fromfile('by_name.py'), Config.fromfile('by_class.py')
init_default_scope('{library}')
import {library}.models
from {library}.registry import MODELS as LIBRARY_MODELS
for cfg in (by_name, by_class):
    print(*(type(registry.build(cfg.model)).__module__ for registry in (MODELS, LIBRARY_MODELS)))
"""


@pytest.mark.parametrize('library', ['mmdet', pytest.param('mmseg', marks=pytest.mark.slow)])
def test_the_registry_finds_the_backbone_from_any_directory(library, tmp_path):
    (tmp_path / 'by_name.py').write_text(
        "custom_imports = dict(imports=['convnext_backbone'], allow_failed_imports=False)\n"
        "model = dict(type='ConvNeXt', arch='atto')\n"
    )
    (tmp_path / 'by_class.py').write_text(
        "from convnext_backbone import ConvNeXt\nmodel = dict(type=ConvNeXt, arch='atto')\n"
    )
    code = LOOK_UP.format(library=library)
    result = subprocess.run([sys.executable, '-c', code], cwd=tmp_path, capture_output=True, text=True)
    assert result.stdout.split()[-4:] == ['convnext_backbone.models.convnext'] * 4, result.stderr[-2000:]


def test_importing_the_package_imports_no_mm_library():
    code = 'import sys, convnext_backbone; print(sorted({"mmcv", "mmdet", "mmseg", "timm"} & set(sys.modules)))'
    result = subprocess.run([sys.executable, '-c', code], cwd='/', capture_output=True, text=True)
    assert result.stdout.strip() == '[]', result.stderr[-2000:]
