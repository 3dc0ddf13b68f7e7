"""Class names out of a checkpoint: text, safe to print, as many as the model predicts."""

import pytest
import torch
from conftest import REPOSITORY
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope

from convnext_backbone import CheckpointError, UserError
from convnext_backbone.apis.builders import build_classifier, build_detector, build_segmentor
from convnext_backbone.weights.dataset_meta import dataset_classes, dataset_meta

COLOURS = [(1, 2, 3), (4, 5, 6)]


@pytest.mark.parametrize(
    'meta',
    [
        dict(dataset_meta=dict(classes=('cat', 'dog'), palette=COLOURS)),
        dict(dataset_meta=dict(classes=['cat', 'dog'], palette=[list(colour) for colour in COLOURS])),
        dict(CLASSES=('cat', 'dog'), PALETTE=COLOURS),  # of mmdet 2 and mmseg 0
    ],
)
def test_names_and_colours_are_read(meta):
    assert dataset_classes(dict(meta=meta), 'x.pth') == ('cat', 'dog')
    assert [*map(tuple, dataset_meta(dict(meta=meta), 'x.pth')['palette'])] == COLOURS


@pytest.mark.parametrize(
    'checkpoint',
    [{}, dict(meta=None), dict(meta={}), dict(meta=dict(dataset_meta=None)), dict(meta=dict(dataset_meta={}))]
    + [dict(meta=dict(dataset_meta=dict(classes=empty))) for empty in (None, [], ())],
    ids=str,
)
def test_a_checkpoint_may_name_no_classes(checkpoint):
    assert dataset_classes(checkpoint, 'x.pth') is None and dataset_meta(checkpoint, 'x.pth') == {}


@pytest.mark.parametrize('classes', ['person', 7, {'cat': 1}, ('cat', 7), ('cat', None), ('cat', b'dog'), (('cat',),)])
def test_names_that_are_no_list_of_texts_are_refused(classes):
    for stored in (dict(classes=classes), classes if isinstance(classes, tuple) else [classes]):
        checkpoint = dict(meta=dict(dataset_meta=stored))
        with pytest.raises(CheckpointError, match=r'x.pth has meta.dataset_meta.classes=.*, which is no list of names'):
            dataset_classes(checkpoint, 'x.pth')


def test_names_are_safe_to_print():
    """Escape sequences, line breaks, text that runs backwards, and names without end."""
    names = ('caf\u00e9', '\x1b[2Jcat', 'a\nerror: b', '\u202eevil', 'x' * 10**6)
    stored = dataset_classes(dict(meta=dict(dataset_meta=dict(classes=names))), 'x.pth')
    assert stored[:3] == ('caf\u00e9', r"'\x1b[2Jcat'", r"'a\nerror: b'")
    assert all(name.isprintable() and len(name) < 300 for name in stored)


@pytest.mark.parametrize(
    'palette', [None, 'red', COLOURS[:1], [(1, 2), (3, 4)], [(1, 2, 300)] * 2, [('\x1b', 0, 0)] * 2]
)
def test_a_palette_without_a_colour_for_each_class_is_left_out(palette):
    stored = dict(classes=('cat', 'dog'), palette=palette)
    assert dataset_meta(dict(meta=dict(dataset_meta=stored)), 'x.pth') == dict(classes=('cat', 'dog'))


@pytest.mark.parametrize(
    ('config', 'build', 'predicted'),
    [
        (REPOSITORY / 'configs/demo/cascade_convnext_atto_shapes.py', build_detector, 5),
        (REPOSITORY / 'configs/demo/upernet_convnext_atto_camvid.py', build_segmentor, 11),
        (REPOSITORY / 'configs/demo/pretrain_convnext_atto_shapes.py', build_classifier, 5),
    ],
)
def test_too_few_names_are_refused(config, build, predicted, tmp_path):
    cfg = Config.fromfile(config)
    init_default_scope(cfg.get('default_scope', 'mmengine'))
    state = MODELS.build(cfg.model).state_dict()
    path = str(tmp_path / 'x.pth')
    torch.save(dict(state_dict=state, meta=dict(dataset_meta=dict(classes=('cat',)))), path)
    with pytest.raises(
        UserError, match=rf'predicts {predicted} classes, but only 1 are named \(cat\).*checkpoint {path}'
    ):
        build(cfg, path)
    names = tuple(f'\x1b[31m{number}' for number in range(predicted))
    torch.save(
        dict(state_dict=state, meta=dict(dataset_meta=dict(classes=names, palette=[(0, 0, 9)] * predicted))), path
    )
    model = build(cfg, path)
    found = model.class_names if build is build_classifier else model.dataset_meta['classes']
    assert len(found) == predicted and all(name.isprintable() for name in found)
