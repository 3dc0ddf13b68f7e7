"""Arguments, settings and annotation files changed at random: each works as it says, or is refused in one sentence.

FUZZ_EXAMPLES=5000 python -m pytest tests/config/test_fuzz.py -rP    # so many of each kind; SEED=1 for others
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
from collections.abc import Callable
from datetime import timedelta

import pytest
import torch
from conftest import managers, refusal
from fuzz_space import (
    BACKBONE,
    CONSTANT,
    DAMAGE,
    ENTRIES,
    OPTIMIZATION,
    RLE,
    TINY,
    WRAPPER,
    change,
    mutations,
    small_detector,
)
from hypothesis import HealthCheck, Phase, event, given, seed, settings
from hypothesis import strategies as st
from mmengine.config import Config
from mmengine.logging import MMLogger
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS
from mmengine.runner import Runner
from mmengine.visualization import Visualizer
from torch import nn

from convnext_backbone import ConvNeXt, UserError
from convnext_backbone.config.check import check_settings
from convnext_backbone.config.failures import explain_failures

SECONDS = 60  # that one example may take


def fuzzed(few: int) -> Callable[[Callable], Callable]:
    """Run a test on a few examples, or on as many as FUZZ_EXAMPLES says; the same ones for the same SEED."""
    how = settings(
        max_examples=int(os.environ.get('FUZZ_EXAMPLES', few)),
        database=None,
        deadline=timedelta(seconds=SECONDS),
        phases=[Phase.explicit, Phase.generate, Phase.shrink],
        suppress_health_check=[*HealthCheck],
    )
    return lambda test: seed(int(os.environ.get('SEED', '0')))(how(test))


@contextlib.contextmanager
def no_hang():
    signal.signal(signal.SIGALRM, lambda *args: pytest.fail(f'an example takes more than {SECONDS} s'))
    signal.alarm(SECONDS)
    yield
    signal.alarm(0)


def assert_names(sentence: str, changes: list) -> None:
    """Check that a sentence names one of the changes."""
    assert '\n' not in sentence.strip() and len(sentence) < 3000, sentence
    words = {part for name, _ in changes for part in [part for part in name.split('.') if not part.isdigit()][-2:]}
    words -= {'model', 'dataset', 'train_dataloader'} - {name.rpartition('.')[2] for name, _ in changes}
    words |= {word for _, value in changes for word in re.findall(r'[^\s\'"`{}()\[\],:]+', repr(value))}
    sentence = re.sub(r'(\d)x(\d)', r'\1 \2', sentence.replace('--data-root', 'data_root'))
    named = set(re.findall(r'[^\s\'"`{}()\[\],:=;]+', sentence))
    words |= {name for name, _ in changes}
    if any(len(word) > 99 and word[-30:] in sentence for word in words):
        return  # a long text is cut
    assert any(word in name.split('.') or word == name for word in words for name in named), (sentence, changes)


@fuzzed(60)
@given(mutations(BACKBONE))
def test_arguments_of_the_backbone(changes):
    cfg = Config(dict(model=dict(backbone=dict(type='ConvNeXt', arch=TINY, init_cfg=CONSTANT))))
    for name, value in changes:
        change(cfg.model.backbone, name, value)
    with no_hang():
        try:
            with explain_failures(cfg):
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


MODEL = nn.ModuleDict(dict(backbone=ConvNeXt(TINY), head=nn.Linear(4, 4)))


def assert_rates(groups: list[dict], cfg: Config) -> None:
    """Check that learning rates and weight decays of an optimizer are those of a config with layer decay."""
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
@given(mutations(OPTIMIZATION))
def test_arguments_of_the_layer_decay(changes):
    cfg = Config(dict(optim_wrapper=copy.deepcopy(WRAPPER)))
    for name, value in changes:
        change(cfg, name, value)
    with no_hang():
        try:
            with explain_failures(cfg):
                check_settings(cfg)
                wrapper = build_optim_wrapper(MODEL, copy.deepcopy(cfg.optim_wrapper))
        except UserError as error:
            event('refused')
            assert_names(str(error), changes)
            return
    event('works')
    assert_rates(wrapper.optimizer.param_groups, cfg)


@pytest.fixture(scope='module')
def detector(shapes) -> Config:
    return small_detector(shapes)


@pytest.fixture
def start(call_tool, monkeypatch, tmp_path):
    """Run tools/train.py in this process on a config in memory; return its result and the runner."""
    runners = []
    init = Runner.__init__

    def remember(self: Runner, *args: object, **kwargs: object) -> None:
        runners.append(self)
        init(self, *args, **kwargs)

    monkeypatch.setattr(Runner, '__init__', remember)
    # These take most of the time of such a small run: compilers' versions, an empty figure, and garbage collection.
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


def assert_trained(runner: Runner, cfg: Config) -> None:
    """Check that a run did what its config says."""
    assert runner.iter == runner.max_iters >= 1
    assert all(tensor.isfinite().all() for tensor in runner.model.state_dict().values())
    assert_rates(runner.optim_wrapper.optimizer.param_groups, cfg)
    wanted = cfg.get('randomness', {}).get('seed')
    assert wanted is None or runner.seed == wanted
    if cfg.train_cfg.get('max_epochs'):
        assert runner.epoch == cfg.train_cfg.max_epochs
    assert len(runner.model.backbone.out_indices) == len(runner.model.backbone.out_channels)


@pytest.fixture(scope='module')
def two_images(shapes) -> dict:
    """The annotations of two of the drawn images, the second annotation as a crowd."""
    content = json.loads((shapes / 'annotations/instances_train2017.json').read_text())
    images = content['images'][:2]
    names = [image['id'] for image in images]
    annotations = [one for one in content['annotations'] if one['image_id'] in names]
    crowd = {**annotations[0], 'id': 10**6, 'iscrowd': 1, 'segmentation': RLE}
    return dict(content, images=images, annotations=[annotations[0], crowd, *annotations[1:]])


def test_annotations(detector, shapes, two_images, start, tmp_path):
    data = tmp_path / 'data'
    (data / 'annotations').mkdir(parents=True)
    (data / 'train2017').symlink_to(shapes / 'train2017')
    cfg = copy.deepcopy(detector)
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
    """Check that a data set has all images and objects of an annotation file but those that mmdet skips."""
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
