"""Configs and annotation files that are wrong at random: each works, and does what it says, or ends in one sentence.

FUZZ_EXAMPLES=5000 python -m pytest tests/test_fuzz.py -rP --hypothesis-show-statistics    # so many of each kind
"""

import contextlib
import copy
import gc
import json
import math
import os
import re
import shutil
import signal
from collections import Counter
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import REPOSITORY, managers, refusal
from hypothesis import HealthCheck, Phase, assume, event, example, given, settings
from hypothesis import strategies as st
from mmengine.config import Config
from mmengine.logging import MMLogger
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS
from mmengine.runner import Runner
from mmengine.visualization import Visualizer
from PIL import Image
from torch import nn

from convnext_backbone import ConvNeXt, UserError, image_hooks
from convnext_backbone.config_checks import check_settings
from convnext_backbone.run_config import explained_failures, load_config

SECONDS = 60  # that one example may take
TINY = dict(depths=[1, 1, 1, 1], channels=[4, 4, 4, 4])
CONSTANT = dict(type='Constant', val=0.1, layer='Linear')


def fuzzed(few: int, tests: int = 1):
    """The settings of a test that has a few examples, or its part of those asked for; always the same ones."""
    return settings(
        max_examples=int(os.environ.get('FUZZ_EXAMPLES', few * tests)) // tests,
        derandomize=True,
        database=None,
        deadline=timedelta(seconds=SECONDS),
        phases=[Phase.explicit, Phase.generate, Phase.shrink],
        suppress_health_check=[*HealthCheck],
    )


@contextlib.contextmanager
def no_hang():
    signal.signal(signal.SIGALRM, lambda *args: pytest.fail(f'an example takes more than {SECONDS} s'))
    signal.alarm(SECONDS)
    yield
    signal.alarm(0)


MISSING = '<missing>'
SCALARS = st.one_of(
    st.sampled_from(
        [None, True, False, MISSING, math.nan, math.inf, -math.inf, 10**12, -(2**63), 10**400, 1e300, -1e-9]
    ),
    st.integers(-3, 5),
    st.floats(-2, 2),
    st.sampled_from(['', 'x', 'auto', '1', '1e-3', 'tiny', 'ConvNeXt', '\n', '\0', '/', 'long' * 100]),
)
ODD = st.one_of(
    SCALARS,
    st.lists(SCALARS, max_size=4),
    st.lists(SCALARS, max_size=4).map(tuple),
    st.dictionaries(st.sampled_from(['type', 'x', 'depths', 'channels', 'lr_mult']), SCALARS, max_size=2),
)


def mutations(plausible: dict[str, list], most: int = 2):
    """Up to so many changes of a config: a dotted name, and a value that may be right or anything else."""
    one = st.tuples(st.sampled_from([*plausible]), st.booleans()).flatmap(
        lambda chosen: st.tuples(
            st.just(chosen[0]), st.sampled_from(plausible[chosen[0]] or [None]) if chosen[1] else ODD
        )
    )
    return st.lists(one, min_size=1, max_size=most, unique_by=lambda change: change[0])


def change(node: object, name: str, value: object) -> None:
    """Sets a value by its dotted name, or takes it out."""
    *parents, last = (int(part) if part.isdigit() else part for part in name.split('.'))
    for parent in parents:
        try:
            node = node[parent]
        except (KeyError, IndexError, TypeError):
            return  # another change took it out
        if not isinstance(node, (dict, list)):
            return
    if isinstance(node, list):
        if isinstance(last, int) and last < len(node):
            node[last] = copy.deepcopy(value)
    elif value == MISSING:
        node.pop(last, None)
    else:
        node[last] = copy.deepcopy(value)


def assert_names(sentence: str, changes: list) -> None:
    """Whether a sentence names one of the things that were changed."""
    assert '\n' not in sentence.strip() and len(sentence) < 3000, sentence
    words = {part for name, _ in changes for part in [part for part in name.split('.') if not part.isdigit()][-2:]}
    words -= {'model', 'dataset', 'train_dataloader'} - {name for name, _ in changes}
    words |= {word for _, value in changes for word in re.findall(r'[^\s\'"`{}()\[\],:]+', repr(value))}
    sentence = re.sub(r'(\d)x(\d)', r'\1 \2', sentence.replace('--data-root', 'data_root'))
    named = set(re.findall(r'[^\s\'"`{}()\[\],:=;]+', sentence))
    words |= {name for name, _ in changes}
    if any(len(word) > 99 and word[-30:] in sentence for word in words):
        return  # a long text is cut
    assert any(word in name.split('.') or word == name for word in words for name in named), (sentence, changes)


# What ConvNeXt takes.
BACKBONE = {
    'arch': [
        'atto',
        dict(depths=[1, 1, 2, 1], channels=[4, 8, 4, 8]),
        dict(depths=(1, 2, 1, 1), channels=(4, 4, 4, 4)),
    ],
    'arch.depths': [[2, 1, 1, 1]],
    'arch.channels': [[8, 8, 8, 8]],
    'in_channels': [1, 4],
    'drop_path_rate': [0.0, 0.5, 0],
    'layer_scale_init_value': [0, 1.0],
    'use_grn': [True],
    'out_indices': [(0, 1, 2, 3), [3, 1], -1, 0, (-1, -2)],
    'out_norm': [False],
    'frozen_stages': [1, 4],
    'with_cp': [True],
    'init_cfg': [None, CONSTANT, [dict(type='Pretrained', checkpoint='x.pth')]],
    'init_cfg.type': ['Normal', 'Pretrained'],
    'fused': [False],
    'depth': [50],
}


@fuzzed(60)
@given(mutations(BACKBONE))
def test_arguments_of_the_backbone(changes):
    cfg = Config(dict(model=dict(backbone=dict(type='ConvNeXt', arch=TINY, init_cfg=CONSTANT))))
    for name, value in changes:
        change(cfg.model.backbone, name, value)
    with no_hang():
        try:
            with explained_failures(cfg):
                model = MODELS.build(cfg.model.backbone)
                model.init_weights()
        except UserError as error:
            event('refused')
            assert_names(str(error), changes)
            return
        event('works')
        asked = {
            name: value for name, value in cfg.model.backbone.items() if name in vars(model) and name != 'out_indices'
        }
        assert {name: getattr(model, name) for name in asked} == asked
        images = torch.randn(2, model.in_channels, 64, 64)
        maps = model(images)
        sizes = zip(model.out_channels, model.strides, strict=True)
        assert [one.shape for one in maps] == [(2, channels, 64 // stride, 64 // stride) for channels, stride in sizes]
        assert all(one.isfinite().all() for one in maps)


OPTIMISATION = {
    'optim_wrapper': [dict(type='OptimWrapper', optimizer=dict(type='SGD', lr=0.1))],
    'optim_wrapper.type': ['OptimWrapper', 'AmpOptimWrapper'],
    'optim_wrapper.constructor': ['DefaultOptimWrapperConstructor'],
    'optim_wrapper.accumulative_counts': [1, 'auto'],
    'optim_wrapper.clip_grad': [None, dict(max_norm=1.0), dict(type='value', clip_value=0.5)],
    'optim_wrapper.clip_grad.max_norm': [1, 0.1],
    'optim_wrapper.paramwise_cfg': [dict(decay_rate=0.5)],
    'optim_wrapper.paramwise_cfg.decay_rate': [0.5, 1],
    'optim_wrapper.paramwise_cfg.decay_type': ['stage_wise', 'layer_wise'],
    'optim_wrapper.paramwise_cfg.custom_keys': [dict(backbone=dict(lr_mult=0.1, decay_mult=0)), dict(x={})],
    'optim_wrapper.paramwise_cfg.custom_keys.norm': [dict(lr_mult=2)],
    'optim_wrapper.paramwise_cfg.custom_keys.norm.lr_mult': [0, 3.0],
    'optim_wrapper.paramwise_cfg.custom_keys.norm.decay_mult': [0, 3.0],
    'optim_wrapper.paramwise_cfg.num_layers': [6],
    'optim_wrapper.optimizer': [dict(type='SGD', lr=0.1)],
    'optim_wrapper.optimizer.type': ['Adam'],
    'optim_wrapper.optimizer.lr': [0, 1e-3, 1],
    'optim_wrapper.optimizer.weight_decay': [0, 0.1],
    'optim_wrapper.optimizer.betas': [(0.9, 0.95), [0.5, 0.5]],
}


OPTIMIZER = dict(type='AdamW', lr=1e-3, weight_decay=0.05)
WRAPPER = dict(
    type='OptimWrapper',
    constructor='LayerDecayOptimWrapperConstructor',
    paramwise_cfg=dict(decay_rate=0.7, custom_keys=dict(norm=dict(lr_mult=0.5, decay_mult=1.0))),
    optimizer=OPTIMIZER,
    clip_grad=dict(max_norm=5.0),
)
MODEL = nn.ModuleDict(dict(backbone=ConvNeXt(TINY), head=nn.Linear(4, 4)))


def assert_rates(groups: list[dict], cfg: Config) -> None:
    """Whether the learning rates and weight decays of an optimizer are what a config with layer decay asks for."""
    wrapper = cfg.optim_wrapper
    paramwise, optimizer = wrapper.get('paramwise_cfg') or {}, wrapper.optimizer
    custom = (paramwise.get('custom_keys') or {}).values()
    for group in groups:
        lr, decay = group.get('initial_lr', group['lr']), group['weight_decay']
        assert 0 <= lr < math.inf and 0 <= decay < math.inf
        if wrapper.get('constructor') == 'LayerDecayOptimWrapperConstructor':
            steps = {optimizer.lr * paramwise['decay_rate'] ** step for step in range(9)}
            factors = {1.0, *(keys.get('lr_mult', 1) for keys in custom)}
            assert any(lr == pytest.approx(step * factor) for step in steps for factor in factors)
            factors = {1.0, *(keys.get('decay_mult', 1) for keys in custom)}
            decays = [0, *((optimizer.get('weight_decay') or 0) * factor for factor in factors)]
            assert any(decay == pytest.approx(one) for one in decays)


@fuzzed(60)
@given(mutations(OPTIMISATION))
def test_arguments_of_the_layer_decay(changes):
    cfg = Config(dict(optim_wrapper=copy.deepcopy(WRAPPER)))
    for name, value in changes:
        change(cfg, name, value)
    assume(cfg.get('optim_wrapper') is not None)
    with no_hang():
        try:
            with explained_failures(cfg):
                check_settings(cfg)
                wrapper = build_optim_wrapper(MODEL, copy.deepcopy(cfg.optim_wrapper))
        except UserError as error:
            event('refused')
            assert_names(str(error), changes)
            return
    event('works')
    assert_rates(wrapper.optimizer.param_groups, cfg)


# What a run takes, whatever its task. What would make it long, or start processes, is left out below.
RUN = {
    **{f'model.backbone.{name}': values for name, values in BACKBONE.items()},
    'model.backbone': [dict(type='ConvNeXt', arch=TINY)],
    'model.backbone.type': [],
    **OPTIMISATION,
    'auto_scale_lr': [None, dict(enable=True, base_batch_size=2)],
    'auto_scale_lr.enable': [True],
    'auto_scale_lr.base_batch_size': [1, 2, 4],
    'train_cfg': [dict(type='EpochBasedTrainLoop', max_epochs=1)],
    'train_cfg.type': ['IterBasedTrainLoop', 'EpochBasedTrainLoop'],
    'train_cfg.max_epochs': [1, 2],
    'train_cfg.max_iters': [1, 2],
    'train_cfg.val_interval': [1, 2],
    'train_cfg.val_begin': [1, 2],
    'train_dataloader': [],
    'train_dataloader.batch_size': [1, 2, 4],
    'train_dataloader.num_workers': [0],
    'train_dataloader.drop_last': [True],
    'train_dataloader.sampler': [dict(type='InfiniteSampler')],
    'train_dataloader.sampler.type': ['InfiniteSampler'],
    'train_dataloader.sampler.shuffle': [True],
    'train_dataloader.dataset': [],
    'train_dataloader.dataset.type': ['CocoDataset', 'BaseSegDataset', 'TimmDataset', 'LVISDataset'],
    'train_dataloader.dataset.data_root': [],
    'train_dataloader.dataset.data_prefix': [],
    'train_dataloader.dataset.data_prefix.img': [],
    'train_dataloader.dataset.ann_file': [],
    'train_dataloader.dataset.metainfo': [],
    'train_dataloader.dataset.metainfo.classes': [('circle',), ('circle', 'square', 'triangle', 'star', 'cross')],
    'train_dataloader.dataset.pipeline.1': [],
    'train_dataloader.dataset.transform': [],
    'train_dataloader.dataset.transform.input_size': [64],
    'train_dataloader.dataset.indices': [1, 2],
    'default_hooks': [None],
    'default_hooks.checkpoint': [None, dict(type='CheckpointHook')],
    'default_hooks.checkpoint.type': ['CheckpointHook'],
    'default_hooks.checkpoint.interval': [1, -1],
    'default_hooks.checkpoint.by_epoch': [True, False],
    'default_hooks.checkpoint.max_keep_ckpts': [1, -1],
    'default_hooks.checkpoint.save_best': ['auto', 'accuracy/top1'],
    'default_hooks.checkpoint.rule': ['less'],
    'default_hooks.logger': [None],
    'default_hooks.logger.interval': [1],
    'default_hooks.param_scheduler': [None],
    'custom_hooks': [[], [dict(type='CurvesHook')]],
    'custom_hooks.0': [dict(type='AveragedWeightsHook')],
    'custom_hooks.1': [],
    'custom_hooks.1.decay': [0.5, 0.9],
    'param_scheduler': [None, [], dict(type='ConstantLR', factor=0.5)],
    'param_scheduler.0': [dict(type='LinearLR', start_factor=0.5, end=3)],
    'param_scheduler.0.type': ['ConstantLR'],
    'param_scheduler.0.begin': [0, 1],
    'param_scheduler.0.end': [1, 5],
    'param_scheduler.0.by_epoch': [True, False],
    'param_scheduler.0.T_max': [1, 10],
    'param_scheduler.0.eta_min': [0, 1e-5],
    'randomness': [{}, dict(seed=0)],
    'randomness.seed': [0, 2**32 - 1, None],
    'randomness.deterministic': [],
    'load_from': [None, 'nowhere.pth'],
    'resume': [False, True],
    'log_level': ['WARNING'],
    'log_processor': [dict(by_epoch=True)],
    'visualizer': [],
    'default_scope': ['mmdet', 'mmseg', 'mmengine'],
    'env_cfg': [],
    'env_cfg.dist_cfg': [],
    'runner_type': ['ResumableRunner'],
    'val_cfg': [],
    'val_evaluator': [],
    'val_dataloader': [],
    'model': [],
    'model.type': [],
    'model.init_cfg': [],
    'model.data_preprocessor': [],
}
OF_TASK = dict(
    classifier={
        'model.num_classes': [5],
        'model.head_init_scale': [1e-3],
        'model.label_smoothing': [0.1],
        'model.data_preprocessor.mean': [[0.5], (0.5, 0.4, 0.3)],
        'model.data_preprocessor.std': [[0.5], (0.5, 0.4, 0.3)],
        'model.data_preprocessor.random_erasing': [0.5],
        'model.data_preprocessor.mixup_alpha': [0.8],
        'model.data_preprocessor.cutmix_alpha': [1.0],
    },
    detector={
        'model.neck.in_channels': [],
        'model.roi_head.mask_head.num_classes': [5],
        'model.roi_head.bbox_head.0.num_classes': [5],
    },
    segmentor={
        'model.decode_head.in_channels': [],
        'model.decode_head.in_index': [[0, 1, 2, 3]],
        'model.decode_head.num_classes': [5],
        'model.decode_head.dropout_ratio': [0],
    },
)
QUICK = dict(
    train_cfg=dict(_delete_=True, type='EpochBasedTrainLoop', max_epochs=1, val_interval=1),
    optim_wrapper=dict(_delete_=True, **WRAPPER),
    param_scheduler=[dict(type='CosineAnnealingLR', begin=0, end=2, T_max=2, by_epoch=True)],
    custom_hooks=[dict(type='FiniteCheckHook'), dict(type='AveragedWeightsHook', decay=0.9)],
    randomness=dict(seed=0),
    visualizer=dict(_delete_=True, type='Visualizer', vis_backends=[]),
    log_processor=dict(_delete_=True),
)
NO_EVALUATION = dict(val_cfg=None, val_dataloader=None, val_evaluator=None)
NO_EVALUATION |= dict(test_cfg=None, test_dataloader=None, test_evaluator=None)


def small_classifier(shapes: Path) -> Config:
    cfg = load_config(REPOSITORY / 'configs/demo/pretrain_convnext_atto_shapes.py', data_root=str(shapes / 'imagenet'))
    cfg.merge_from_dict(QUICK | dict(optim_wrapper=dict(_delete_=True, accumulative_counts='auto', **WRAPPER)))
    cfg.custom_hooks.append(dict(type='LabelledImagesHook'))  # which compares the classes with the head
    cfg.model.backbone.arch = dict(TINY)
    cfg.auto_scale_lr.base_batch_size = 2
    for loader in (cfg.train_dataloader, cfg.val_dataloader):
        loader.batch_size = 2
        loader.dataset.transform.input_size = 32
    cfg.test_dataloader = cfg.test_cfg = cfg.test_evaluator = None
    return cfg


def small_detector(shapes: Path) -> Config:
    cfg = load_config(REPOSITORY / 'configs/demo/cascade_convnext_atto_shapes.py', data_root=str(shapes))
    cfg.merge_from_dict(QUICK)
    cfg.merge_from_dict(NO_EVALUATION)
    model = cfg.model
    model.backbone.arch = dict(TINY)
    model.neck.update(in_channels=[4] * 4, out_channels=4)
    model.rpn_head.update(in_channels=4, feat_channels=4)
    heads = model.roi_head
    heads.update(num_stages=1, stage_loss_weights=[1.0], bbox_head=heads.bbox_head[:1])
    heads.bbox_head[0].update(in_channels=4, conv_out_channels=4, fc_out_channels=8)
    heads.bbox_roi_extractor.out_channels = heads.mask_roi_extractor.out_channels = 4
    heads.mask_head.update(in_channels=4, conv_out_channels=4, num_convs=1)
    model.train_cfg.rcnn = model.train_cfg.rcnn[:1]
    model.train_cfg.rpn_proposal.update(nms_pre=20, max_per_img=10)
    cfg.train_dataloader.dataset.update(indices=2)
    cfg.train_dataloader.dataset.pipeline[2].scale = (64, 48)
    return cfg


def small_segmentor(folder: Path) -> Config:
    chance = np.random.default_rng(0)
    for number in range(2):
        for name, size in (('img_dir', (48, 64, 3)), ('ann_dir', (48, 64))):
            (folder / name / 'train').mkdir(parents=True, exist_ok=True)
            pixels = chance.integers(0, 5, size, dtype=np.uint8)
            Image.fromarray(pixels).save(folder / name / f'train/{number}.{"jpg" if len(size) == 3 else "png"}')
    cfg = load_config(REPOSITORY / 'configs/demo/upernet_convnext_atto_camvid.py', data_root=str(folder))
    cfg.merge_from_dict(QUICK)
    cfg.merge_from_dict(NO_EVALUATION)
    cfg.train_cfg = dict(type='IterBasedTrainLoop', max_iters=1, val_interval=1)
    cfg.param_scheduler = [dict(type='PolyLR', power=1.0, eta_min=0.0, by_epoch=False, begin=0, end=2)]
    model = cfg.model
    model.backbone.arch = dict(TINY)
    model.auxiliary_head = None
    model.decode_head.update(in_channels=[4] * 4, channels=4, num_classes=5, pool_scales=(1, 2))
    model.data_preprocessor.size = (64, 64)
    data = cfg.train_dataloader.dataset
    data.metainfo = dict(classes=tuple('abcde'), palette=[[0, 0, i] for i in range(5)])
    data.pipeline[2].scale, data.pipeline[3].crop_size = (64, 64), (64, 64)
    cfg.train_dataloader.batch_size = 2
    return cfg


@pytest.fixture(autouse=True)
def no_pictures(monkeypatch):
    monkeypatch.setattr(image_hooks, 'write_class_report', lambda *_: None)  # half a second each


@pytest.fixture(scope='module')
def configs(shapes, tmp_path_factory) -> dict[str, Config]:
    return dict(
        classifier=small_classifier(shapes),
        detector=small_detector(shapes),
        segmentor=small_segmentor(tmp_path_factory.mktemp('scenes')),
    )


@pytest.fixture
def start(call_tool, monkeypatch, tmp_path):
    """Runs tools/train.py in this process on a config that is there already; returns what came, and the runner."""
    runners = []
    init = Runner.__init__

    def remember(self: Runner, *args: object, **kwargs: object) -> None:
        runners.append(self)
        init(self, *args, **kwargs)

    monkeypatch.setattr(Runner, '__init__', remember)
    # What takes most of the time of a run this small: compilers that are asked for their version, an empty picture, and
    # the rubbish that the engine collects among all that was imported.
    monkeypatch.setattr('mmengine.runner.runner.collect_env', dict)
    picture = Visualizer._initialize_fig(None, dict(frameon=False))
    monkeypatch.setattr(Visualizer, '_initialize_fig', lambda *args: picture)
    gc.collect()
    gc.freeze()
    (tmp_path / 'config.py').touch()

    def run(cfg: Config) -> tuple[object, Runner | None]:
        runners.clear()
        for handler in [one for logger in MMLogger._instance_dict.values() for one in logger.handlers]:
            handler.close()
        for kind in managers():
            kind._instance_dict.clear()
        monkeypatch.setattr(Config, 'fromfile', lambda path: copy.deepcopy(cfg))
        shutil.rmtree(tmp_path / 'out', ignore_errors=True)
        with no_hang():
            result = call_tool('train.py', 'config.py', '--work-dir', 'out', cwd=tmp_path)
        return result, runners[-1] if runners else None

    yield run
    gc.unfreeze()


def is_long(cfg: Config) -> bool:
    """Whether a config asks for more than the test has time for: many steps, or processes that load the data."""
    parts = [cfg.get(name) for name in ('train_cfg', 'train_dataloader')]
    loop, loader = (part if isinstance(part, dict) else {} for part in parts)
    numbers = [(loop.get('max_epochs'), 2), (loop.get('max_iters'), 2), (loader.get('num_workers'), 0)]
    return any(type(number) is int and most < number <= 1024 for number, most in numbers)


# What was found by other seeds.
FOUND = dict(
    classifier=[
        ('val_evaluator', [None]),
        ('train_dataloader.dataset.transform.input_size', 1),
        ('train_dataloader.batch_size', 10**12),
        ('default_hooks.checkpoint.save_best', 'x'),
    ],
    detector=[
        ('optim_wrapper.optimizer.lr', 1e300),
        ('train_dataloader.dataset.metainfo.classes', 'long' * 100),
    ],
    segmentor=[('train_dataloader.dataset.metainfo.classes', None)],
)


@pytest.mark.parametrize('task', OF_TASK)
def test_settings_of_a_run(task, configs, start):
    outcomes = Counter()

    @fuzzed(10, tests=len(OF_TASK))
    @given(mutations(RUN | OF_TASK[task]))
    def run(changes):
        cfg = copy.deepcopy(configs[task])
        for name, value in changes:
            change(cfg, name, value)
        if is_long(cfg):
            outcomes['left out'] += 1
            return
        result, runner = start(cfg)
        if result.returncode:
            outcomes['refused'] += 1
            assert_names(refusal(result), changes)
            return
        outcomes['works'] += 1
        assert_trained(runner, cfg)

    for found in FOUND[task]:
        run = example([found])(run)
    run()
    print(dict(outcomes))


def assert_trained(runner: Runner, cfg: Config) -> None:
    """Whether a run did what its config says."""
    assert runner.iter == runner.max_iters >= 1
    assert all(tensor.isfinite().all() for tensor in runner.model.state_dict().values())
    assert_rates(runner.optim_wrapper.optimizer.param_groups, cfg)
    seed = cfg.get('randomness', {}).get('seed')
    assert seed is None or runner.seed == seed
    if cfg.train_cfg.get('max_epochs'):
        assert runner.epoch == cfg.train_cfg.max_epochs
    assert len(runner.model.backbone.out_indices) == len(runner.model.backbone.out_channels)


RLE = dict(size=[96, 128], counts=[96 * 50, 96 * 20, 96 * 58])
ENTRIES = {
    'images': [[]],
    'images.0.id': [2],
    'images.0.file_name': ['nowhere.jpg', 'x/../000000000001.jpg'],
    'images.0.height': [96, 48, 200],
    'images.0.width': [128, 64, 200],
    'images.0.x': [1],
    'annotations': [[]],
    'annotations.0.id': [2],
    'annotations.0.image_id': [1, 2, 99],
    'annotations.0.category_id': [1, 5, 99],
    'annotations.0.bbox': [
        [5, 5, 20, 20],
        [-5, -5, 20, 20],
        [120, 90, 50, 50],
        [0, 0, 0, 0],
        [1e7, 0, 9, 9],
        [9, 9, 0.5, 9],
    ],
    'annotations.0.bbox.0': [5, -5.5, 1e30],
    'annotations.0.bbox.2': [5, -5.5, 1e30],
    'annotations.0.area': [0, 1e9, -1],
    'annotations.0.iscrowd': [1],
    'annotations.0.ignore': [1],
    'annotations.0.segmentation': [
        [],
        RLE,
        {**RLE, 'size': [128, 96]},
        {**RLE, 'counts': [5, 5]},
        {**RLE, 'counts': 'PPYo1'},
        [[1, 1, 2, 2]],
        [[5, 5, 20, 5, 20, 20], [1]],
        [[-50, -50, 500, 5, 20, 1e5]],
    ],
    'annotations.0.segmentation.0': [[5, 5, 20, 5, 20, 20]],
    'annotations.0.segmentation.0.0': [5, -5.5, 1e5],
    'annotations.1.segmentation.size': [[96, 128], [128, 96]],
    'annotations.1.segmentation.counts': [[96 * 128], 'PPYo1', 'e0d0'],
    'annotations.1.segmentation.counts.0': [96 * 50, 5],
    'categories': [[]],
    'categories.0.id': [2, 9],
    'categories.0.name': ['square', 'circle', 'dog'],
    **dict.fromkeys(['images.0', 'annotations.0', 'annotations.1', 'categories.0'], []),
}
DAMAGE = dict(
    none=lambda text: text,
    cut=lambda text: text[: len(text) // 2],
    empty=lambda text: b'',
    latin=lambda text: text.replace(b'circle', b'c\xefrcle'),
    wide=lambda text: text.decode().encode('utf-16'),
    marked=lambda text: b'\xef\xbb\xbf' + text,
    nested=lambda text: b'[' * 100_000,
)


@pytest.fixture(scope='module')
def two_images(shapes) -> dict:
    """The annotations of two of the drawn images, the second annotation as a crowd."""
    content = json.loads((shapes / 'annotations/instances_train2017.json').read_text())
    images = content['images'][:2]
    names = [image['id'] for image in images]
    annotations = [one for one in content['annotations'] if one['image_id'] in names]
    crowd = {**annotations[0], 'id': 10**6, 'iscrowd': 1, 'segmentation': RLE}
    return dict(content, images=images, annotations=[annotations[0], crowd, *annotations[1:]])


def test_annotations(configs, shapes, two_images, start, tmp_path):
    data = tmp_path / 'data'
    (data / 'annotations').mkdir(parents=True)
    (data / 'train2017').symlink_to(shapes / 'train2017')
    cfg = copy.deepcopy(configs['detector'])
    cfg.train_dataloader.dataset.pop('indices')
    cfg.default_hooks.checkpoint.update(interval=-1, save_last=False)
    cfg.custom_hooks = [dict(type='FiniteCheckHook')]
    cfg.train_dataloader.dataset.data_root = f'{data}/'
    file = data / 'annotations/instances_train2017.json'

    outcomes = Counter()

    @fuzzed(25)
    @given(mutations(ENTRIES), st.one_of(*[st.just('none')] * 9, st.sampled_from([*DAMAGE])))
    def run(changes, damage):
        content = copy.deepcopy(two_images)
        for name, value in changes:
            change(content, name, value)
        file.write_bytes(DAMAGE[damage](json.dumps(content).encode()))
        result, runner = start(cfg)
        if result.returncode:
            outcomes['refused'] += 1
            sentence = refusal(result)
            assert file.name in sentence or 'The image' in sentence or 'not finite' in sentence, sentence
            return
        outcomes['works'] += 1
        assert_trained(runner, cfg)
        assert_loaded(runner.train_dataloader.dataset, content)

    run()
    print(dict(outcomes))


def assert_loaded(dataset: object, content: dict) -> None:
    """Whether a data set has all the images and objects of an annotation file, but those that mmdet skips."""
    names = {category['id']: category['name'] for category in content['categories']}
    assert [dataset.get_data_info(i)['img_id'] for i in range(len(dataset))] == [one['id'] for one in content['images']]
    for place, image in enumerate(content['images']):
        labels = []
        for one in content['annotations']:
            x, y, width, height = one['bbox']
            seen = min(x + width, image['width']) > max(x, 0) and min(y + height, image['height']) > max(y, 0)
            large = width >= 1 and height >= 1 and not one['area'] <= 0
            if one['image_id'] == image['id'] and seen and large and not one.get('ignore'):
                if names.get(one['category_id']) in dataset.metainfo['classes']:
                    labels.append(dataset.metainfo['classes'].index(names[one['category_id']]))
        sample = dataset[(place, 0)]['data_samples']
        objects, ignored = sample.gt_instances, sample.ignored_instances
        assert sorted([*objects.labels.tolist(), *ignored.labels.tolist()]) == sorted(labels)
        for part in (objects, ignored):
            assert part.bboxes.tensor.isfinite().all()
            assert part.masks.masks.shape == (len(part.bboxes), *sample.img_shape)
