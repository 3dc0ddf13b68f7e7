"""Recipes of detection and on frozen features: the papers' numbers, one training step each; other detectors. Exact."""

import copy
import functools
import math
import re
from pathlib import Path

import pytest
import torch
from conftest import REPOSITORY
from mmengine.config import Config
from mmengine.optim import OptimWrapper, build_optim_wrapper
from mmengine.registry import MODELS, RUNNERS, init_default_scope
from mmengine.runner import Runner
from torch import nn

from convnext_backbone.config.load import load_config
from convnext_backbone.config.machine import adapt_to_machine
from convnext_backbone.engine.layer_decay import num_layers

# The paper's table: arch, weights, box AP, mask AP, millions of parameters, rate, layer decay, num_layers, drop path.
PUBLISHED = dict(
    mask_rcnn_convnext_t_coco=('tiny', '1k', 46.2, 41.7, 48, 1e-4, 0.95, 6, 0.4),
    cascade_convnext_t_coco=('tiny', '1k', 50.4, 43.7, 86, 2e-4, 0.7, 6, 0.4),
    cascade_convnext_s_coco=('small', '1k', 51.9, 45.0, 108, 2e-4, 0.7, 12, 0.6),
    cascade_convnext_b_coco=('base', '1k', 52.7, 45.6, 146, 2e-4, 0.8, 12, 0.7),
    cascade_convnext_b_22k_coco=('base', '22k', 54.0, 46.9, 146, 1e-4, 0.8, 12, 0.6),
    cascade_convnext_l_22k_coco=('large', '22k', 54.8, 47.6, 255, 1e-4, 0.7, 12, 0.7),
    cascade_convnext_xl_22k_coco=('xlarge', '22k', 55.2, 47.7, 407, 1e-4, 0.7, 12, 0.8),
)
# Ours, after V1's of the same size: arch, rate, layer decay, drop path.
V2 = dict(
    cascade_convnext_v2_atto_coco=('atto', 2e-4, 0.7, 0.1),
    cascade_convnext_v2_nano_coco=('nano', 2e-4, 0.7, 0.1),
    cascade_convnext_v2_t_coco=('tiny', 2e-4, 0.7, 0.4),
    cascade_convnext_v2_b_coco=('base', 2e-4, 0.8, 0.7),
    cascade_convnext_v2_l_coco=('large', 1e-4, 0.7, 0.7),
)
# Ours, after mmdet's recipes for Swin: arch, channels of the maps that are read, drop path, of DINO and Mask2Former.
TRANSFORMERS = dict(
    dino_convnext_t_coco=('tiny', [192, 384, 768], 0.2),
    dino_convnext_s_coco=('small', [192, 384, 768], 0.2),
    dino_convnext_b_coco=('base', [256, 512, 1024], 0.2),
    dino_convnext_l_coco=('large', [384, 768, 1536], 0.2),
    mask2former_convnext_t_coco=('tiny', [96, 192, 384, 768], 0.3),
    mask2former_convnext_b_coco=('base', [128, 256, 512, 1024], 0.3),
)
FROZEN = dict(  # and the recipe that it is, but for the backbone
    cascade_dinov3_convnext_t_coco='cascade_convnext_t_coco',
    upernet_dinov3_convnext_t_ade20k='upernet_convnext_t_ade20k',
)
URL = 'https://dl.fbaipublicfiles.com/convnext/'
DINOV3 = 'hf://facebook/dinov3-convnext-tiny-pretrain-lvd1689m/model.safetensors'
CLASSES = ('circle', 'square', 'triangle', 'star', 'cross')
DETECTORS = (REPOSITORY / 'docs/detectors.md').read_text()


@functools.cache
def read(name: str) -> Config:
    """A config, read-only."""
    return Config.fromfile(REPOSITORY / f'configs/{name}.py')


def build(model: dict, scope: str) -> nn.Module:
    init_default_scope(scope)
    with torch.device('meta'):
        return MODELS.build(copy.deepcopy(model))  # a detector writes into its config


def first_line(name: str) -> str:
    return (REPOSITORY / f'configs/{name}.py').read_text().splitlines()[0]


def without(cfg: Config, *keys: str) -> dict:
    """A config as a dict, without some dotted names."""
    rest = cfg.to_dict()
    for *way, last in (key.split('.') for key in keys):
        functools.reduce(dict.__getitem__, way, rest).pop(last)
    return rest


def test_every_detection_recipe_is_in_a_table_here():
    names = {path.stem for path in REPOSITORY.glob('configs/*_coco.py')}
    assert names == {*PUBLISHED, *V2, *TRANSFORMERS, *FROZEN} - {'upernet_dinov3_convnext_t_ade20k'}


@pytest.mark.parametrize('name', [*PUBLISHED, *V2])
def test_what_all_recipes_share_is_cascade_ts(name):
    """Cascade T's numbers are compared with the paper's in test_configs.py."""
    own = ['model', 'optim_wrapper.optimizer.lr', 'optim_wrapper.paramwise_cfg.decay_rate']
    assert without(read(name), *own) == without(read('cascade_convnext_t_coco'), *own)
    if name.startswith('cascade'):
        own = ['backbone', 'neck.in_channels']
        assert without(read(name).model, *own) == without(read('cascade_convnext_t_coco').model, *own)


@pytest.mark.parametrize('name', PUBLISHED)
def test_a_recipe_is_the_papers(name):
    arch, data, _, _, millions, lr, decay, layers, drop_path = PUBLISHED[name]
    cfg = read(name)
    assert cfg.optim_wrapper.optimizer.lr == lr and cfg.optim_wrapper.paramwise_cfg.decay_rate == decay
    assert cfg.model.backbone == dict(
        type='ConvNeXt',
        arch=arch,
        drop_path_rate=drop_path,
        layer_scale_init_value=1.0,
        init_cfg=dict(type='Pretrained', checkpoint=f'{URL}convnext_{arch}_{data}_224.pth'),
    )
    model = build(cfg.model, 'mmdet')
    assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(millions, abs=0.5)
    assert num_layers(model.backbone.depths) == layers


@pytest.mark.parametrize('name', PUBLISHED)
def test_a_recipe_quotes_the_published_scores(name):
    _, data, box, mask, *_ = PUBLISHED[name]
    assert f'pre-trained on ImageNet-{data.upper()}, COCO 3x.' in first_line(name)
    assert first_line(name).endswith(f' Published: {box} box AP, {mask} mask AP.')


@pytest.mark.parametrize('name', [*V2, *TRANSFORMERS, *FROZEN])
def test_a_recipe_of_ours_says_so(name):
    assert first_line(name).endswith(' Ours, no published score.')


def test_mask_rcnn_has_the_standard_heads():
    head, masks = (read('mask_rcnn_convnext_t_coco').model.roi_head[part] for part in ('bbox_head', 'mask_head'))
    assert (head.type, head.fc_out_channels, head.num_classes) == ('Shared2FCBBoxHead', 1024, 80)
    assert (head.loss_bbox.type, head.reg_class_agnostic) == ('L1Loss', False)
    assert (masks.type, masks.num_convs, masks.num_classes) == ('FCNMaskHead', 4, 80)


@pytest.mark.parametrize('name', V2)
def test_a_recipe_of_v2(name):
    arch, lr, decay, drop_path = V2[name]
    cfg = read(name)
    assert cfg.optim_wrapper.optimizer.lr == lr and cfg.optim_wrapper.paramwise_cfg.decay_rate == decay
    backbone = cfg.model.backbone
    assert (backbone.arch, backbone.use_grn, backbone.drop_path_rate) == (arch, True, drop_path)
    assert backbone.init_cfg.checkpoint == f'{URL}convnextv2/im1k/convnextv2_{arch}_1k_224_ema.pt'


@pytest.mark.parametrize('name', TRANSFORMERS)
def test_a_recipe_with_a_transformer(name):
    arch, channels, drop_path = TRANSFORMERS[name]
    cfg, recipe = read(name), read(f'{name.split("_")[0]}_convnext_t_coco')
    backbone, reader = cfg.model.backbone, 'neck' if name.startswith('dino') else 'panoptic_head'
    assert (backbone.arch, backbone.drop_path_rate) == (arch, drop_path)
    assert backbone.init_cfg.checkpoint == f'{URL}convnext_{arch}_22k_224.pth'
    assert cfg.model[reader].in_channels == channels
    own = ['model.backbone.arch', 'model.backbone.init_cfg', f'model.{reader}.in_channels']
    assert without(cfg, *own) == without(recipe, *own)
    dinov3 = DINOV3.replace('tiny', arch)
    comment = (REPOSITORY / f'configs/{name}.py').read_text().split('\n_base_')[0]
    assert f'--cfg-options model.backbone.init_cfg.checkpoint={dinov3}\n' in comment


def read_mmdets(name: str, folder: Path) -> Config:
    (folder / 'swin.py').write_text(f"_base_ = 'mmdet::{name}.py'")
    return Config.fromfile(folder / 'swin.py')


def test_dino_is_trained_as_in_mmdets_recipe_for_swin_l(tmp_path):
    swin = read_mmdets('dino/dino-5scale_swin-l_8xb2-36e_coco', tmp_path)
    cfg = read('dino_convnext_t_coco')
    assert cfg.param_scheduler == [without(swin.param_scheduler[0], '_scope_')]
    assert cfg.optim_wrapper == swin.optim_wrapper
    assert cfg.train_dataloader == swin.train_dataloader and cfg.train_cfg == swin.train_cfg
    assert cfg.model.backbone.drop_path_rate == swin.model.backbone.drop_path_rate


def test_mask2former_is_trained_as_in_mmdets_recipe_for_swin_t(tmp_path):
    swin = read_mmdets('mask2former/mask2former_swin-t-p4-w7-224_8xb2-lsj-50e_coco', tmp_path)
    cfg = read('mask2former_convnext_t_coco')
    assert cfg.param_scheduler == swin.param_scheduler and cfg.train_cfg == swin.train_cfg
    assert cfg.train_dataloader.dataset.pipeline == swin.train_dataloader.dataset.pipeline
    assert cfg.model.backbone.drop_path_rate == swin.model.backbone.drop_path_rate
    wrapper = cfg.optim_wrapper
    assert wrapper.optimizer == swin.optim_wrapper.optimizer and wrapper.clip_grad == swin.optim_wrapper.clip_grad
    model = build(cfg.model, 'mmdet')
    rates = {}
    for group in build_optim_wrapper(model, wrapper).optimizer.param_groups:
        for name in group['param_names']:
            rates[name] = group['lr'], group['weight_decay']
    assert {rate for name, (rate, _) in rates.items() if name.startswith('backbone.')} == {1e-5}
    assert {rate for name, (rate, _) in rates.items() if not name.startswith('backbone.')} == {1e-4}
    for name in ('query_embed.weight', 'query_feat.weight', 'level_embed.weight', 'cls_embed.bias'):
        assert rates[f'panoptic_head.{name}'] == (1e-4, 0)
    assert rates['panoptic_head.cls_embed.weight'] == (1e-4, 0.05)
    assert rates['backbone.stages.0.0.norm.weight'] == (1e-5, 0)
    assert rates['backbone.stages.0.0.pwconv1.weight'] == (1e-5, 0.05)


@pytest.mark.parametrize('name', FROZEN)
class TestOnFrozenFeatures:
    def test_all_but_the_backbone_is_as_in_the_recipe(self, name):
        own = 'model.backbone'
        assert without(read(name), own) == without(read(FROZEN[name]), own)
        backbone = read(name).model.backbone
        assert backbone.init_cfg == dict(type='Pretrained', checkpoint=DINOV3)
        own = ['init_cfg', 'frozen_stages']
        assert without(backbone, *own) == without(read(FROZEN[name]).model.backbone, 'init_cfg')

    def test_norms_neck_and_heads_learn_at_the_full_rate(self, name):
        """Whatever the layer decay, and nothing else is trained."""
        cfg = read(name)
        model = build(cfg.model, cfg.default_scope).train()
        learning = {name for name, p in model.named_parameters() if p.requires_grad}
        outside = {name for name, p in model.named_parameters() if not name.startswith('backbone.')}
        assert learning == outside | {f'backbone.norm{i}.{part}' for i in range(4) for part in ('weight', 'bias')}
        wrapper = build_optim_wrapper(model, {**cfg.optim_wrapper, 'type': 'OptimWrapper'})
        groups = wrapper.optimizer.param_groups
        assert {name for group in groups for name in group['param_names']} == learning
        assert {group['lr'] for group in groups} == {cfg.optim_wrapper.optimizer.lr}
        assert sorted(group['weight_decay'] for group in groups) == [0, 0.05]


def shrink(node: object, by: int) -> None:
    """Divide all sizes in pixels below a config node, in place."""
    for key, value in node.items() if isinstance(node, dict) else enumerate(node):
        if key == 'scales':
            node[key] = [tuple(side // by for side in scale) for scale in value]
        elif key in ('scale', 'crop_size', 'size', 'stride'):
            node[key] = tuple(side // by for side in value)
        elif isinstance(value, (dict, list, tuple)):
            shrink(value, by)


def one_iteration(name: str, shapes: Path, work_dir: Path) -> Runner:
    """Run a recipe's first step from random weights, on two drawn images of an eighth of its size with few regions."""
    cfg = load_config(REPOSITORY / f'configs/{name}.py', work_dir=str(work_dir))
    detector = cfg.default_scope == 'mmdet'
    by_epochs = cfg.train_cfg.type == 'EpochBasedTrainLoop'
    options = {
        'model.backbone.init_cfg': None,
        'train_cfg': dict(max_epochs=1) if by_epochs else dict(max_iters=1),
        'train_dataloader.num_workers': 0,
        'train_dataloader.persistent_workers': False,
        'train_dataloader.dataset.indices': 2,
        'train_dataloader.dataset.data_root': str(shapes if detector else shapes / 'ade'),
        **{f'val_{part}': None for part in ('dataloader', 'cfg', 'evaluator')},
        'default_hooks.checkpoint.save_last': False,
        'default_hooks.checkpoint.interval': -1,
        'default_hooks.logger.interval': 1,
        'experiment_name': name,
    }
    if detector:
        options['train_dataloader.dataset.metainfo'] = dict(classes=CLASSES)
    cfg.merge_from_dict(options)
    for part in ('model.data_preprocessor', 'train_dataloader.dataset.pipeline'):
        shrink(functools.reduce(getattr, part.split('.'), cfg), by=8)
    if 'num_queries' in cfg.model:
        cfg.model.num_queries = 20  # no more than a small image has places
    stages = cfg.model.train_cfg.get('rcnn', [])
    for stage in stages if isinstance(stages, list) else [stages]:
        stage.sampler.num = 32
    adapt_to_machine(cfg)
    runner = RUNNERS.build(cfg)
    runner.train()
    return runner


def check_step(model: nn.Module, wrapper: OptimWrapper) -> None:
    """Check that AdamW made a step with finite gradients of all that is trained, and of nothing else."""
    moments = wrapper.optimizer.state  # of parameters that had a gradient
    learning = {name: p for name, p in model.named_parameters() if p.requires_grad}
    assert [name for name, p in learning.items() if p not in moments] == []
    assert len(moments) == len(learning) and all(moments[p]['exp_avg'].isfinite().all() for p in learning.values())


@pytest.mark.parametrize(
    'name',
    [
        'mask_rcnn_convnext_t_coco',
        'cascade_convnext_v2_atto_coco',
        *(
            pytest.param(name, marks=pytest.mark.slow)
            for name in (*PUBLISHED, *V2, *TRANSFORMERS, *FROZEN)
            if name not in ('mask_rcnn_convnext_t_coco', 'cascade_convnext_v2_atto_coco')
        ),
    ],
)
def test_a_recipe_trains(name, shapes, tmp_path, monkeypatch):
    """Each trained parameter gets a gradient, as DDP without `find_unused_parameters` needs; XL takes 7 GiB."""
    monkeypatch.setattr(Config, 'pretty_text', '')  # which takes seconds to lay out
    runner = one_iteration(name, shapes, tmp_path)
    assert runner.iter == 1 and 'find_unused_parameters' not in runner.cfg
    check_step(runner.model, runner.optim_wrapper)
    losses = {key: value.current() for key, value in runner.message_hub.log_scalars.items() if 'loss' in key}
    assert len(losses) > 2 and all(math.isfinite(loss) for loss in losses.values()), losses


OTHERS = dict(re.findall(r'```python (\w+)\.py\n(.*?)```', DETECTORS, re.S))


def test_the_docs_have_the_lines_for_other_detectors():
    assert [name.split('_')[0] for name in OTHERS] == ['retinanet', 'mask2former', 'rtmdet', 'dino']


@pytest.mark.parametrize('name', OTHERS)
def test_the_lines_for_another_detector_train_it(name, tmp_path):
    """In one step on a small image each trained parameter gets a gradient."""
    from mmdet.testing import demo_mm_inputs

    (tmp_path / 'own.py').write_text(OTHERS[name])
    cfg = Config.fromfile(tmp_path / 'own.py')
    assert cfg.custom_imports.imports == ['convnext_backbone']
    recipe = read('cascade_convnext_t_coco').model
    assert cfg.model.backbone.init_cfg == recipe.backbone.init_cfg
    for part in ('mean', 'std', 'bgr_to_rgb'):  # the colours are those that the weights know
        assert cfg.model.data_preprocessor[part] == recipe.data_preprocessor[part]
    cfg.model.backbone.init_cfg = None
    if 'num_queries' in cfg.model:
        cfg.model.num_queries = 20  # no more than a small image has places
    for augmentation in cfg.model.data_preprocessor.get('batch_augments') or []:
        augmentation.size = (64, 64)
    adapt_to_machine(cfg)
    init_default_scope('mmdet')
    torch.manual_seed(0)
    model = MODELS.build(cfg.model).train()
    model.init_weights()  # as the runner does: until then some of mmdet's parameters are not initialized
    wrapper = build_optim_wrapper(model, cfg.optim_wrapper)
    masks = 'panoptic_head' in cfg.model
    images = demo_mm_inputs(1, image_shapes=(3, 64, 64), num_items=[3], num_classes=80, with_mask=masks)
    logged = model.train_step(images, wrapper)
    check_step(model, wrapper)
    assert all(value.isfinite() for key, value in logged.items() if 'loss' in key)


def test_the_retinanet_of_the_docs_has_the_papers_optimizer(tmp_path):
    (tmp_path / 'own.py').write_text(OTHERS['retinanet_convnext_t'])
    own, recipe = Config.fromfile(tmp_path / 'own.py').optim_wrapper, read('mask_rcnn_convnext_t_coco').optim_wrapper
    assert own.constructor == recipe.constructor
    assert own.paramwise_cfg == dict(decay_rate=0.7, decay_type='layer_wise')
    assert own.optimizer == {key: value for key, value in recipe.optimizer.items() if key != 'betas'}
