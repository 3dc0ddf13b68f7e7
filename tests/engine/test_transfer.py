"""Starts from the weights of other models: all is taken but what predicts classes, where these are others. Exact."""

import copy
import itertools

import pytest
import torch
from families import mmpretrain, randomized
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from small_runs import write_config

from convnext_backbone.engine.transfer import start_from
from convnext_backbone.utils.errors import CheckpointMismatch
from convnext_backbone.weights.load_model import REVISE_KEYS

SHAPES = ('circle', 'square', 'triangle', 'star', 'cross')
OTHERS = ('person', 'car', 'dog')


class Data:
    def __init__(self, *classes):
        self.metainfo = dict(classes=classes)


@pytest.fixture(scope='module', params=['detector', 'segmentor'])
def settings(request, tmp_path_factory):
    """The model of a config for the five shapes."""
    cfg = Config.fromfile(write_config(request.param, tmp_path_factory.mktemp(request.param)))
    init_default_scope(cfg.default_scope)
    return cfg.model


def with_classes(node, number):
    """The same model for another number of classes."""
    if isinstance(node, dict):
        for key, value in node.items():
            if key == 'num_classes':
                node[key] = number
            else:
                with_classes(value, number)
    elif isinstance(node, list):
        for value in node:
            with_classes(value, number)
    return node


def build(settings, number=5):
    return MODELS.build(with_classes(copy.deepcopy(settings), number))


def start(model, settings, source, theirs, ours, change=lambda state: state):
    state = change(dict(source.state_dict()))
    checkpoint = dict(state_dict=state, meta=dict(dataset_meta=dict(classes=theirs)) if theirs else {})
    return start_from(model, settings, checkpoint, 'x.pth', Data(*ours), REVISE_KEYS)


def compare(model, source, before):
    """The names of the tensors that were not taken, which must be unchanged."""
    own, theirs, left = model.state_dict(), source.state_dict(), []
    for name, tensor in own.items():
        if theirs[name].shape != tensor.shape or not torch.equal(tensor, theirs[name]):
            assert torch.equal(tensor, before[name]), name
            left.append(name)
    return left


def predictors(settings):
    """What predicts classes, by hand; the boxes of the demo's cascade are of no class."""
    if settings.type == 'EncoderDecoder':
        parts = ['decode_head.conv_seg', 'auxiliary_head.conv_seg']
    else:
        parts = [f'roi_head.bbox_head.{i}.fc_cls' for i in range(3)]
        parts += [f'roi_head.mask_head.{i}.conv_logits' for i in range(3)]
    return {f'{part}.{kind}' for part, kind in itertools.product(parts, ('weight', 'bias'))}


@pytest.mark.parametrize('theirs', [OTHERS, SHAPES[::-1], (*OTHERS, 'cat', 'bird'), None], ids=str)
def test_heads_of_other_classes_start_anew_and_all_else_is_taken(theirs, settings):
    source, model = randomized(build(settings, len(theirs or OTHERS))), build(settings)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    (said,) = start(model, settings, source, theirs, SHAPES)
    fresh = predictors(settings)
    assert set(compare(model, source, before)) == fresh
    if settings.type == 'EncoderDecoder':
        heads = '4 tensors (decode_head: 2, auxiliary_head: 2)'
    else:
        bbox, mask = ([f'roi_head.{kind}_head.{i}: 2' for i in range(3)] for kind in ('bbox', 'mask'))
        heads = f'12 tensors ({", ".join(bbox + mask)})'
    assert (
        said
        == {
            OTHERS: 'The 3 classes of the checkpoint are others than the 5 of the data.',
            SHAPES[::-1]: 'The classes of the checkpoint are in another order than those of the data.',
            (*OTHERS, 'cat', 'bird'): 'The 5 classes of the checkpoint are others than the 5 of the data.',
            None: 'The checkpoint names no classes, and what predicts them does not fit.',
        }[theirs]
        + f' What predicts them starts anew: {heads}.'
    )


@pytest.mark.parametrize('theirs', [SHAPES, None])
def test_heads_of_the_same_classes_are_taken(theirs, settings):
    source, model = randomized(build(settings)), build(settings)
    said = start(model, settings, source, theirs, SHAPES)
    assert compare(model, source, {}) == []
    assert said == ([] if theirs else ['The checkpoint names no classes: they are taken to be those of the data.'])


def test_the_names_of_mmpretrain_are_known(settings):
    source, model = randomized(build(settings, 3)), build(settings)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}

    def change(state):
        return {mmpretrain(name, value)[0]: value for name, value in state.items()}

    (said,) = start(model, settings, source, OTHERS, SHAPES, change)
    assert set(compare(model, source, before)) == predictors(settings) and 'starts anew' in said


@pytest.mark.parametrize('theirs', [SHAPES, OTHERS])
@pytest.mark.parametrize('case', ['lacks a head', 'lacks a tensor', 'other width', 'other size', 'backbone alone'])
def test_what_does_not_depend_on_classes_must_be_filled(case, theirs, settings):
    part = 'decode_head' if settings.type == 'EncoderDecoder' else 'roi_head'
    inner = 'fpn_bottleneck.conv.weight' if part == 'decode_head' else 'bbox_head.1.shared_fcs.0.weight'

    def change(state):
        if case == 'lacks a head':
            return {name: value for name, value in state.items() if not name.startswith(part)}
        if case == 'backbone alone':
            return {name: value for name, value in state.items() if name.startswith('backbone.')}
        if case == 'lacks a tensor':
            del state[f'{part}.{inner}']
        if case == 'other width':
            state[f'{part}.{inner}'] = state[f'{part}.{inner}'][:8]
        if case == 'other size':  # deeper, and else the same
            state |= {name.replace('.2.1.', '.2.2.'): value for name, value in state.items() if 'stages.2.1.' in name}
        return state

    source, model = randomized(build(settings, len(theirs))), build(settings)
    words = 'backbone.stages.2.2' if case == 'other size' else part
    with pytest.raises(
        CheckpointMismatch, match=rf'The checkpoint x.pth does not fit the model of the config \(.*{words}'
    ):
        start(model, settings, source, theirs, SHAPES, change)


def test_parts_that_the_model_has_not_are_left_and_said(settings):
    source, model = randomized(build(settings)), build(settings)

    def change(state):
        return state | {'roi_head.keypoint_head.conv.weight': torch.ones(3), 'aux.bias': torch.ones(2)}

    assert start(model, settings, source, SHAPES, SHAPES, change) == [
        'The model has no place for 2 tensors (roi_head.keypoint_head: 1, aux: 1) of the checkpoint.'
    ]


@pytest.mark.parametrize('prefix', ['', 'module.'])
@pytest.mark.parametrize('theirs', [SHAPES, OTHERS])
def test_a_head_that_only_the_model_has_starts_anew(theirs, prefix, settings):
    head = 'auxiliary_head.' if settings.type == 'EncoderDecoder' else 'roi_head.mask_head.'
    source, model = randomized(build(settings, len(theirs))), build(settings)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}

    def change(state):
        return {prefix + name: value for name, value in state.items() if not name.startswith(head)}

    first, *others = start(model, settings, source, theirs, SHAPES, change)
    added = {name for name in before if name.startswith(head)}
    left = added if theirs == SHAPES else added | predictors(settings)
    theirs_too = {name for name, value in source.state_dict().items() if torch.equal(value, before[name])}
    assert {*compare(model, source, before)} == left - theirs_too
    assert first.startswith(f'The checkpoint has no weights for {len(added)} tensors ({head[:-1]}')
    assert len(others) == (theirs != SHAPES) and all(head not in sentence for sentence in others)


def test_the_one_channel_of_two_classes_is_a_number_of_classes(tmp_path):
    cfg = Config.fromfile(write_config('segmentor', tmp_path))
    init_default_scope('mmseg')
    with_classes(cfg.model, 2)
    for head in (cfg.model.decode_head, cfg.model.auxiliary_head):
        head.update(out_channels=1, threshold=0.3, loss_decode=dict(type='CrossEntropyLoss', use_sigmoid=True))
    model = MODELS.build(cfg.model)
    source = randomized(MODELS.build(cfg.model))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    start(model, cfg.model, source, ('road', 'rest'), ('crack', 'rest'))
    assert set(compare(model, source, before)) == predictors(cfg.model)
