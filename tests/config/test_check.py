"""Settings that are refused, and failures that a config explains: each ends in one sentence. Exact."""

import argparse
import errno
import math
import os
import re

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import DATASETS, HOOKS, MODELS, RUNNERS, Registry
from torch import nn

from convnext_backbone import UserError
from convnext_backbone.config.check import check_settings
from convnext_backbone.config.check_data import check_classes, check_heads
from convnext_backbone.config.failures import explain_failures
from convnext_backbone.config.load import load_config, prepare_config
from convnext_backbone.utils.errors import ArgumentError

COUNT = 'an integer of at least 1'
RATE = 'a number from 0 to 1e30'
CLIPPING = 'a dict with max_norm, or with the type value and clip_value'


def make_config(**settings) -> Config:
    """A config of settings by dotted name, with __ in the place of dots."""
    cfg = Config(dict(default_scope='mmengine'))
    cfg.merge_from_dict({name.replace('__', '.'): value for name, value in settings.items()})
    return cfg


@pytest.mark.parametrize(
    ('name', 'value', 'allowed'),
    [
        ('train_dataloader.batch_size', 0, COUNT),
        ('val_dataloader.batch_size', 1.5, COUNT),
        ('train_cfg.max_epochs', 0, COUNT),
        ('train_cfg.max_iters', -1, COUNT),
        ('train_cfg.val_interval', 0, COUNT),
        ('auto_scale_lr.base_batch_size', 0, COUNT),
        ('randomness.seed', -1, 'an integer from 0 to 4294967295'),
        ('randomness.seed', True, 'an integer from 0 to 4294967295'),
        ('resume', 'epoch_3.pth', 'True or False'),
        ('optim_wrapper.accumulative_counts', 0, f"{COUNT}, or 'auto'"),
        ('optim_wrapper.clip_grad', dict(x=1), CLIPPING),
        ('optim_wrapper.clip_grad', dict(type='value', max_norm=1), CLIPPING),
        ('optim_wrapper.clip_grad.max_norm', -1, 'a number above 0'),
        ('optim_wrapper.optimizer.lr', -1e-3, RATE),
        ('optim_wrapper.optimizer.lr', math.inf, RATE),
        ('optim_wrapper.optimizer.weight_decay', -0.1, RATE),
        ('optim_wrapper.paramwise_cfg.custom_keys.norm.lr_mult', -1, RATE),
        ('optim_wrapper.paramwise_cfg.bias_decay_mult', '0', RATE),
        ('param_scheduler.eta_min', -1e-6, RATE),
        ('default_hooks.checkpoint.save_best', [], 'the name of a score, or a list of names'),
        ('train_dataloader.dataset.metainfo.classes', 'circle', 'a list of names, or a file'),
        ('val_dataloader.dataset.dataset.metainfo.classes', [1, 2], 'a list of names, or a file'),
    ],
)
def test_a_setting_out_of_range_is_named(name, value, allowed):
    with pytest.raises(ArgumentError) as refused:
        check_settings(make_config(**{name: value}))
    assert str(refused.value) == f'{name}={value!r} is out of range: it takes {allowed}.'


def test_settings_in_range_pass(tmp_path):
    (tmp_path / 'classes.txt').write_text('circle\nsquare\n')
    check_settings(
        make_config(
            train_dataloader__batch_size=1,
            train_dataloader__dataset__metainfo__classes=('circle', 'square'),
            val_dataloader__dataset__metainfo__classes=str(tmp_path / 'classes.txt'),
            train_cfg=dict(type='IterBasedTrainLoop', max_iters=1),
            train_dataloader__sampler=dict(type='InfiniteSampler'),
            randomness__seed=None,
            optim_wrapper=dict(accumulative_counts='auto', clip_grad=dict(type='value', clip_value=0.5)),
            param_scheduler=[dict(type='CosineAnnealingLR', eta_min=0, eta_min_ratio=None)],
            default_hooks__checkpoint__save_best=['coco/bbox_mAP'],
        )
    )


@pytest.mark.parametrize('name', ['model.head.loss_weight', 'param_scheduler.start_factor'])
def test_what_is_not_a_number_is_named(name):
    with pytest.raises(ArgumentError, match=f'^{re.escape(name)}=nan is not a number.$'):
        check_settings(make_config(**{name: math.nan}))


@pytest.mark.parametrize(
    ('loader', 'loop'),
    [
        ('train_dataloader', dict(type='EpochBasedTrainLoop', max_epochs=1)),
        ('train_dataloader', dict(by_epoch=True, max_epochs=1)),
        ('val_dataloader', dict(type='IterBasedTrainLoop', max_iters=1)),
    ],
)
def test_an_epoch_that_never_ends_is_named(loader, loop):
    cfg = make_config(**{f'{loader}.sampler': dict(type='InfiniteSampler'), 'train_cfg': loop})
    with pytest.raises(ArgumentError, match=f"^{loader}.sampler.type='InfiniteSampler' never ends.*DefaultSampler"):
        check_settings(cfg)


@pytest.mark.parametrize('key', ['CLASSES', 'Classes', 'PALETTE'])
def test_the_spelling_of_earlier_versions_is_named(key):
    """The engine ignores it, and takes the classes of the data set's type."""
    name = f'train_dataloader.dataset.metainfo.{key}'
    with pytest.raises(
        ArgumentError, match=f'^{name} has no effect, in the spelling of earlier versions: write {key.lower()}.$'
    ):
        check_settings(make_config(**{name: ('circle', 'square')}))


def weighted_head(key: str, number: int, **head) -> Config:
    loss = dict(type='CrossEntropyLoss', class_weight=[1.0] * number)
    return make_config(model=dict(decode_head=[{'num_classes': 5, key: loss, **head}]))


@pytest.mark.parametrize(
    ('key', 'number', 'head', 'given'),
    [
        ('loss_decode', 4, {}, 'give 5.'),
        ('loss_decode', 2, dict(num_classes=2, out_channels=1), 'give 1.'),
        ('loss_cls', 5, {}, 'give 6, the last for the background.'),
    ],
)
def test_class_weights_of_another_number_are_named(key, number, head, given):
    weights, classes = [1.0] * number, head.get('num_classes', 5)
    with pytest.raises(ArgumentError) as refused:
        check_settings(weighted_head(key, number, **head))
    assert str(refused.value) == (
        f'model.decode_head.0.{key}.class_weight={weights} has {number} values, but model.decode_head.0.num_classes='
        f'{classes}: {given}'
    )


def test_class_weights_of_the_right_number_pass():
    check_settings(weighted_head('loss_decode', 5))
    check_settings(weighted_head('loss_decode', 1, num_classes=2, out_channels=1))
    check_settings(weighted_head('loss_cls', 6))
    check_settings(make_config(model__bbox_head=dict(num_classes=5, loss_cls=dict(class_weight=1.0))))
    check_settings(make_config(model__decode_head=dict(num_classes=5, loss_decode=dict(class_weight='weights.npy'))))


def test_heads_are_compared_with_data_that_has_folders_alone():
    data = dict(metainfo=dict(classes=('a', 'b')), data_prefix=dict(img_path='/a', seg_map_path='/b'))
    cfg = Config(dict(model=dict(decode_head=dict(num_classes=3)), train_dataloader=dict(dataset=data)))
    with pytest.raises(ArgumentError, match='model.decode_head.num_classes=3 does not fit .* 2 classes'):
        check_classes(cfg, 'train')


def test_a_head_with_another_number_of_classes_is_named():
    cfg = make_config(model__roi_head=dict(bbox_head=[dict(num_classes=2), dict(num_classes=80)]))
    with pytest.raises(ArgumentError, match=r'^model.roi_head.bbox_head.1.num_classes=80 .*2 classes \(cat, dog\)'):
        check_heads(cfg, ['cat', 'dog'])


# ---- failures --------------------------------------------------------------------------------------------------------


def explain(cfg: Config, error: Exception) -> str:
    """The sentence on an error; fails if it passes unexplained."""
    with pytest.raises(UserError) as explained, explain_failures(cfg):
        raise error
    assert explained.value.__cause__ is error
    return str(explained.value)


WORKER = """Caught RuntimeError in DataLoader worker process 0.
Original Traceback (most recent call last):
  File "worker.py", line 1, in loop
    raise RuntimeError("unable to write to file </torch_1_2_3>: " + reason)
RuntimeError: {}
"""


@pytest.mark.parametrize(
    ('error', 'short_of', 'said', 'remedy'),
    [
        (RuntimeError(WORKER.format(said)), 'shared memory', said, 'enlarge /dev/shm (docker run --shm-size=8g)')
        for said in (
            'unable to write to file </torch_1_23_4>: No space left on device (28)',
            'unable to allocate shared memory(shm) for file </torch_1_23_4>: No space left on device (28)',
            'unable to mmap 4096 bytes from file </torch_1_23_4>: Cannot allocate memory (12)',
            'unable to resize file </torch_1_23_4> to the right size: Invalid argument (22)',
        )
    ]
    + [
        (error, 'open files', said, 'raise their limit with `ulimit -n 65536`')
        for error, said in (
            (OSError(errno.EMFILE, 'Too many open files'), '[Errno 24] Too many open files'),
            (
                RuntimeError(
                    'unable to open shared memory object </torch_1_23_4> in read-write mode: Too many open files (24)'
                ),
                'unable to open shared memory object </torch_1_23_4> in read-write mode: Too many open files (24)',
            ),
            (RuntimeError('received 0 items of ancdata'), 'received 0 items of ancdata'),
        )
    ]
    + [
        (error, 'processes', said, 'raise their limit with `ulimit -u 65536`')
        for error, said in (
            (BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN)), '[Errno 11] Resource temporarily unavailable'),
            (RuntimeError("can't start new thread"), "can't start new thread"),
        )
    ]
    + [
        (error, 'memory', said, 'lower the batch size')
        for error, said in (
            (OSError(errno.ENOMEM, os.strerror(errno.ENOMEM)), '[Errno 12] Cannot allocate memory'),
            (
                torch.OutOfMemoryError('CUDA out of memory. Tried to allocate 2 GiB.\nSee'),
                'CUDA out of memory. Tried to allocate 2 GiB.',
            ),
            (
                RuntimeError('DefaultCPUAllocator: (Cannot allocate memory)'),
                'DefaultCPUAllocator: (Cannot allocate memory)',
            ),
            (
                RuntimeError('unable to mmap 4096 bytes from file </home/a/b.pth>: Cannot allocate memory (12)'),
                'unable to mmap 4096 bytes from file </home/a/b.pth>: Cannot allocate memory (12)',
            ),
        )
    ],
)
def test_what_a_run_is_short_of_is_named(error, short_of, said, remedy):
    expected = f'The run is short of {short_of} ({said}): {remedy}, or lower num_workers of the data loaders.'
    assert explain(make_config(), error) == expected


def test_a_full_disk_is_named_before_what_was_being_built():
    cfg = make_config(work_dir='out')

    @HOOKS.register_module(name='Full', force=True)
    def full() -> None:
        raise OSError(errno.ENOSPC, 'No space left on device')

    with pytest.raises(UserError, match='^out cannot be written: No space left on device; '), explain_failures(cfg):
        HOOKS.build(dict(type='Full'))


def test_what_cannot_be_built_is_named_by_its_place_and_value():
    cfg = make_config(custom_hooks=[dict(type='IterTimerHook'), dict(type='SyncBuffersHook', x=1)])
    with pytest.raises(UserError) as explained, explain_failures(cfg):
        for hook in cfg.custom_hooks:
            HOOKS.build(hook)
    sentence = "custom_hooks.1={'type': 'SyncBuffersHook', 'x': 1} of the config cannot be built: TypeError: "
    assert str(explained.value).startswith(sentence) and 'build_functions.py:' in str(explained.value)


def test_the_innermost_part_is_named():
    cfg = make_config(model=dict(type='ImageClassifier', backbone=dict(type='ConvNeXt', arch='atto', depth=50)))
    with pytest.raises(
        UserError, match=r"^model.backbone=\{'type': 'ConvNeXt', .*of the config cannot be built.*depth"
    ):
        with explain_failures(cfg):
            MODELS.build(cfg.model)


def test_arguments_that_a_library_adds_do_not_hide_the_part():
    cfg = make_config(model=dict(type='ImageClassifier', backbone=dict(type='ConvNeXt', arch='atto')))
    with pytest.raises(UserError, match=r'^model.backbone=\{[^}]*\} of the config cannot be built.*train_cfg'):
        with explain_failures(cfg):
            MODELS.build({**cfg.model.backbone, 'train_cfg': None})


def test_an_unknown_type_comes_with_the_scope_that_was_searched():
    cfg = make_config(custom_hooks=[dict(type='NoHook')])
    with pytest.raises(
        UserError, match=r"cannot be built: with default_scope='mmengine', KeyError: .*NoHook is not in"
    ):
        with explain_failures(cfg):
            HOOKS.build(cfg.custom_hooks[0])


def test_a_bad_initialization_is_named():
    cfg = make_config(model=dict(type='ConvNeXt', arch='atto', init_cfg=dict(type='Normal', val=1)))
    with pytest.raises(UserError, match=r'^model.init_cfg=.* of the config cannot be built: TypeError: .*val'):
        with explain_failures(cfg):
            MODELS.build(cfg.model).init_weights()


def test_what_the_runner_itself_cannot_take_is_the_config(tmp_path):
    cfg = make_config(work_dir=str(tmp_path), model=dict(type='ConvNeXt'), train_cfg=dict(by_epoch=True))
    with pytest.raises(UserError, match='^The config cannot be built: ValueError: .*train_dataloader'):
        with explain_failures(cfg):
            RUNNERS.build(cfg)


def test_other_failures_pass_unchanged():
    build = Registry.build
    for error in (RuntimeError('x'), UserError('x'), FileNotFoundError(2, 'No such file', 'notes.txt')):
        with pytest.raises(type(error)) as raised, explain_failures(make_config(train_dataloader__num_workers=2)):
            raise error
        assert raised.value is error
    assert Registry.build is build


def test_a_worker_that_is_lost_while_its_sentence_is_made_is_named(monkeypatch):
    """As torch's handler of SIGCHLD does: it raises wherever the process is."""
    made = UserError.__init__

    def strike(self, *arguments):
        monkeypatch.undo()
        raise RuntimeError('DataLoader worker (pid 7) is killed by signal: Killed.')

    monkeypatch.setattr(UserError, '__init__', strike)
    with pytest.raises(UserError, match='^A process that loads data was killed'):
        with explain_failures(make_config(train_dataloader__num_workers=2)):
            raise ConnectionResetError(104, 'Connection reset by peer')
    assert UserError.__init__ is made


LOST = [ConnectionResetError(104, 'Connection reset by peer'), FileNotFoundError(2, 'No such file'), EOFError()]


@pytest.mark.parametrize('error', [*LOST, RuntimeError('DataLoader worker (pid 7) is killed by signal: Killed.')])
def test_a_killed_worker_is_recognised(error):
    sentence = explain(make_config(train_dataloader__num_workers=1), error)
    assert all(word in sentence for word in ('was killed', 'memory', 'num_workers', '--resume'))


@pytest.mark.parametrize('error', LOST)
def test_without_workers_none_was_killed(error):
    with pytest.raises(type(error)), explain_failures(make_config(train_dataloader__num_workers=0)):
        raise error


def test_a_batch_of_one_value_is_explained():
    with pytest.raises(UserError, match='batch_size=1.*at least two images'), explain_failures(make_config()):
        nn.BatchNorm2d(4)(torch.zeros(1, 4, 1, 1))


@pytest.mark.parametrize('text', ["[Errno 2] No such file or directory: '{}'", 'failed to load image: {}\n'])
def test_a_missing_image_is_named(text):
    assert explain(make_config(), OSError(text.format('a/b.jpg'))).startswith('The image a/b.jpg cannot be decoded')


def test_a_data_set_without_images_is_named(tmp_path):
    (tmp_path / 'none.json').write_text('{"metainfo": {}, "data_list": []}')
    cfg = make_config(
        val_dataloader__dataset=dict(type='mmengine.dataset.BaseDataset', ann_file=str(tmp_path / 'none.json'))
    )
    with pytest.raises(
        UserError, match=r'^val_dataloader.dataset=.*none.json.* has no image left: correct data_root, '
    ):
        with explain_failures(cfg):
            DATASETS.build(cfg.val_dataloader.dataset)


@pytest.mark.parametrize(
    ('parts', 'named'),
    [
        (dict(neck=dict(in_channels=[40, 80, 160, 384])), r'neck has in_channels=\[40, 80, 160, 384\], but'),
        (dict(decode_head=dict(in_channels=160, in_index=3)), r'decode_head has in_channels=160 and in_index=3, but'),
        (dict(decode_head=dict(in_channels=9, in_index=4)), r'decode_head has in_channels=9 and in_index=4, but'),
        (
            dict(decode_head=dict(in_channels=320), auxiliary_head=[dict(in_channels=[40], in_index=[1])]),
            r'auxiliary_head has in_channels=\[40\] and in_index=\[1\], but',
        ),
    ],
)
def test_channels_that_do_not_fit_are_named(parts, named):
    cfg = make_config(model=dict(backbone=dict(type='ConvNeXt', arch='atto'), **parts))
    sentence = explain(cfg, RuntimeError('sizes of tensors must match'))
    assert re.match(rf'model.{named} the backbone returns 4 maps of 40, 80, 160, 320 channels', sentence)


def test_channels_that_fit_explain_nothing():
    model = dict(backbone=dict(type='ConvNeXt', arch='atto'), decode_head=dict(in_channels=[40, 320], in_index=[0, -1]))
    with pytest.raises(RuntimeError, match='^x$'), explain_failures(make_config(model=model)):
        raise RuntimeError('x')


# ---- loading ---------------------------------------------------------------------------------------------------------

MODEL = "default_scope = 'mmengine'\nmodel = dict(type='ImageClassifier')\ntrain_cfg = dict(max_epochs=1)\n"


@pytest.mark.parametrize(
    ('name', 'meant'),
    [('trian_cfg.max_epochs', 'train_cfg'), ('load_form', 'load_from'), ('modle.backbone.arch', 'model')],
)
def test_a_misspelt_first_name_of_a_setting_is_named(name, meant, tmp_path):
    (tmp_path / 'a.py').write_text(MODEL)
    with pytest.raises(UserError) as refused:
        load_config(tmp_path / 'a.py', cfg_options={name: 1})
    assert str(refused.value) == f'--cfg-options {name}: there is no {name.split(".")[0]}; is it {meant}?'


def test_new_settings_are_added(tmp_path):
    (tmp_path / 'a.py').write_text(MODEL)
    names = ('train_cfg.val_interval', 'load_from', 'val_cfg.fp16', 'find_unused_parameters', 'mine')
    cfg = load_config(tmp_path / 'a.py', cfg_options=dict.fromkeys(names, 1))
    assert (cfg.train_cfg.val_interval, cfg.load_from, cfg.val_cfg.fp16, cfg.mine) == (1, 1, 1, 1)


@pytest.mark.parametrize(
    ('text', 'flags', 'lacks'),
    [
        ('a = 1', {}, 'model'),
        ('model = 3', {}, 'model'),
        (MODEL, {}, 'train_dataloader'),
        (MODEL, dict(split='val'), 'val_dataloader'),
        (MODEL, dict(checkpoint='x.pth'), 'test_dataloader'),
        (MODEL + 'train_dataloader = dict()', dict(amp=True), 'optim_wrapper'),
    ],
)
def test_a_config_without_what_a_tool_needs_is_named(text, flags, lacks, tmp_path):
    path = tmp_path / 'a.py'
    path.write_text(text)
    with pytest.raises(UserError) as refused:
        prepare_config(argparse.Namespace(config=path, work_dir=None, data_root=None, cfg_options=None, **flags))
    assert str(refused.value) == (
        f'The config {path} has no {lacks}: add one, or name a config of configs/ and not of its _base_.'
    )


def test_a_config_that_cannot_be_read_is_named_in_one_line(tmp_path):
    (tmp_path / 'a.py').write_text('raise ValueError("""a\n\x1b[2Jb""")')
    with pytest.raises(UserError) as refused:
        load_config(tmp_path / 'a.py')
    assert str(refused.value) == f"The config {tmp_path}/a.py cannot be read: 'ValueError: a \\x1b[2Jb'"


ROOTS = """
model = dict()
train_dataloader = dict(dataset=dict(data_root='old/train/', ann_file='a.json'))
val_dataloader = dict(dataset=dict(data_root='{val}', ann_file='a.json'))
val_evaluator = dict(ann_file='{val}a.json', other='older/a.json')
"""


@pytest.mark.parametrize(('val', 'moved'), [('old/train/', ''), ('old/val/', 'val/'), ('old/', '')])
def test_each_data_set_keeps_its_place_in_another_data_root(val, moved, tmp_path):
    (tmp_path / 'a.py').write_text(ROOTS.format(val=val))
    cfg = load_config(tmp_path / 'a.py', data_root='new')
    assert cfg.train_dataloader.dataset.data_root == ('new/' if val == 'old/train/' else 'new/train/')
    assert cfg.val_dataloader.dataset.data_root == f'new/{moved}'
    assert cfg.val_evaluator == dict(ann_file=f'new/{moved}a.json', other='older/a.json')


def test_data_sets_without_a_common_place_cannot_be_moved(tmp_path):
    (tmp_path / 'a.py').write_text(ROOTS.format(val='elsewhere/'))
    with pytest.raises(UserError, match='several without a common one: elsewhere, old/train; set data_root of each'):
        load_config(tmp_path / 'a.py', data_root='new')
    assert load_config(tmp_path / 'a.py').val_dataloader.dataset.data_root == 'elsewhere/'


def test_augmented_tests_reach_all_data_sets(tmp_path):
    datasets = "dict(type='ConcatDataset', datasets=[dict(type='A', ann_file='a'), dict(type='B', data_root='b')])"
    lines = ['model = {}', 'tta_model = {}', "tta_pipeline = ['t']", f'test_dataloader = dict(dataset={datasets})']
    (tmp_path / 'a.py').write_text('\n'.join(lines))
    flags = dict(config=tmp_path / 'a.py', work_dir=None, data_root=None, cfg_options=None, checkpoint='a', tta=True)
    whole = prepare_config(argparse.Namespace(**flags)).test_dataloader.dataset
    assert [one.pipeline for one in whole.datasets] == [['t'], ['t']] and 'pipeline' not in whole
