"""The validation is tried before training: what it would fail on is one sentence, and the run stays as it is. Exact."""

import itertools
import json
import math
import random
import re
import shutil

import mmengine
import numpy as np
import pytest
import torch
from conftest import refusal
from mmengine.config import Config
from mmengine.evaluator import BaseMetric
from mmengine.hooks import Hook
from mmengine.model import BaseDataPreprocessor, BaseModel
from mmengine.registry import MODELS, init_default_scope
from mmengine.structures import BaseDataElement
from PIL import Image
from small_runs import arguments, write_config
from torch import nn
from torch.utils.data import Dataset

from convnext_backbone import ResumableRunner, UserError, read_checkpoint

NUMBERS = itertools.count()


class Pictures(Dataset):
    """Images, augmented at random; of those of validation some have another size."""

    def __init__(self, sizes=((8, 8),) * 4):
        self.sizes, self.loaded = sizes, []
        self.metainfo = dict(classes=('a', 'b'))

    def __len__(self):
        return len(self.sizes)

    def get_data_info(self, index):
        return dict(zip(('height', 'width'), self.sizes[index], strict=True))

    def __getitem__(self, index):
        self.loaded.append(index)
        noise = torch.rand(3, *self.sizes[index]) + float(np.random.rand()) + random.random()
        return dict(inputs=noise, data_samples=BaseDataElement(metainfo=dict(number=index)))


class Together(BaseDataPreprocessor):
    """Stacks the images of a batch, which must be of one size."""

    def forward(self, data, training=False):
        return dict(inputs=torch.stack(data['inputs']), data_samples=data['data_samples'])


class Toy(BaseModel):
    def __init__(self):
        super().__init__(data_preprocessor=Together())
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.5), nn.Conv2d(4, 2, 3))
        self.layers[1].eval()  # a frozen part
        self.batches = 0

    def forward(self, inputs, data_samples=None, mode='tensor'):
        scores = self.layers(inputs)
        if mode == 'loss':
            return dict(loss=scores.square().mean())
        self.batches += 1
        return [
            BaseDataElement(scores=one, number=sample.number) for one, sample in zip(scores, data_samples, strict=True)
        ]


class Mean(BaseMetric):
    default_prefix = 'toy'
    key, value = 'scores', 0.5

    def process(self, data_batch, data_samples):
        self.results += [sample[self.key].mean() for sample in data_samples]

    def compute_metrics(self, results):
        print('printed by a metric')
        self.seen = len(results)
        return dict(mean=self.value, spread=1.0)


class Recorder(Hook):
    """What the hooks of a run see of its validations."""

    def __init__(self):
        self.calls, self.states = [], None

    def before_val_iter(self, runner, batch_idx, data_batch=None):
        self.calls.append(batch_idx)

    def before_train_epoch(self, runner):
        self.states = (random.random(), float(np.random.rand()), float(torch.rand(())))
        self.modes = [module.training for module in runner.model.modules()]


def build(work_dir, metric=None, sizes=((8, 8),) * 4, batch_size=1, save_best=None, hooks=(), trial=True, **settings):
    config = dict(
        model=Toy(),
        work_dir=str(work_dir),
        train_dataloader=dict(dataset=Pictures(), batch_size=2, sampler=dict(type='DefaultSampler', shuffle=True)),
        train_cfg=dict(by_epoch=True, max_epochs=2),
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.01)),
        val_dataloader=dict(
            dataset=Pictures(sizes), batch_size=batch_size, sampler=dict(type='DefaultSampler', shuffle=False)
        ),
        val_cfg=dict(),
        val_evaluator=metric if isinstance(metric, list) else [metric or Mean()],
        default_hooks=dict(checkpoint=dict(type='CheckpointHook', interval=1, save_best=save_best, rule='greater')),
        custom_hooks=[*hooks],
        randomness=dict(seed=5),
        experiment_name=f'trial_{next(NUMBERS)}',
    )
    if save_best is None:
        del config['default_hooks']['checkpoint']['rule']
    runner = ResumableRunner(**{**config, **settings})
    if not trial:
        runner._hooks = [hook for hook in runner.hooks if type(hook).__name__ != 'ValidationCheckHook']
    return runner


def refusal_of(runner) -> str:
    """The sentence that ends a run before its first step, with nothing written that a resume would take for a run."""
    with pytest.raises(UserError) as refused:
        runner.train()
    assert runner.iter == 0 and '\n' not in str(refused.value)
    return str(refused.value)


def test_a_run_is_the_same_with_its_trial(tmp_path, capfd):
    """Bit for bit: weights, statistics, random numbers, training modes; hooks, metrics and log know nothing of it."""
    runs = []
    for trial in (True, False):
        recorder, metric = Recorder(), Mean()
        runner = build(tmp_path / str(trial), metric, hooks=[recorder], trial=trial)
        random.seed(1), np.random.seed(1), torch.manual_seed(1)
        runner.train()
        state = read_checkpoint(tmp_path / str(trial) / 'epoch_2.pth')
        runs.append((state, recorder, metric, capfd.readouterr().out.count('printed by a metric'), runner))
    (one, seen, metric, printed, runner), (other, unseen, same, printed_too, without) = runs
    assert runner.model.batches == without.model.batches + 1 == 9
    assert one['state_dict'].keys() == other['state_dict'].keys()
    assert [
        name for name, tensor in one['state_dict'].items() if not torch.equal(tensor, other['state_dict'][name])
    ] == []
    assert seen.calls == unseen.calls == [0, 1, 2, 3] * 2
    assert seen.states == unseen.states and seen.modes == unseen.modes
    assert metric.seen == same.seen == 4 and printed == printed_too == 2


def test_the_batch_is_the_one_whose_images_differ_most_in_shape(tmp_path):
    sizes = ((8, 8), (8, 8), (8, 9), (8, 8), (8, 8), (16, 9))
    runner = build(tmp_path, sizes=sizes, batch_size=2)
    sentence = refusal_of(runner)
    assert runner.val_dataloader.dataset.loaded == [4, 5]
    assert sentence.startswith(
        'val_dataloader.batch_size=2 puts images of 8 x 8 and 9 x 16 pixels into one batch, which'
    )
    assert 'set val_dataloader.batch_size=1' in sentence


def test_sizes_are_not_blamed_for_other_failures(tmp_path):
    runner = build(tmp_path, sizes=((8, 8), (8, 9)), batch_size=2)
    runner.model.layers[3] = nn.Conv2d(5, 2, 3)
    with pytest.raises(RuntimeError, match='channels'):
        runner.train()


def test_the_size_of_an_image_is_read_from_its_file(tmp_path):
    from convnext_backbone.engine.validation import _image_size

    Image.new('L', (7, 5)).save(tmp_path / 'a.png')
    assert _image_size(dict(img_path=str(tmp_path / 'a.png'))) == (7, 5)
    assert _image_size(dict(img_path=str(tmp_path / 'b.png'))) == (1, 1)


def test_an_image_that_is_missing_is_named_before_training(tmp_path):
    """Also one that is not in the batch of the trial; what lies elsewhere than in files is not looked for."""
    for number in (0, 1, 3):
        (tmp_path / f'{number}.png').touch()
    runner = build(tmp_path / 'run')
    runner.val_dataloader.dataset.get_data_info = lambda index: dict(img_path=f'{tmp_path}/{index}.png')
    assert refusal_of(runner).startswith(f'The image {tmp_path}/2.png of the validation data is missing: ')
    (tmp_path / '0.png').unlink()
    runner.train()


def test_a_metric_that_needs_more_than_a_batch_stops_no_run(tmp_path):
    class OfTwoClasses(Mean):
        def compute_metrics(self, results):
            if len(results) < 3:
                raise ValueError('Only one class is present.')
            return super().compute_metrics(results)

    runner = build(tmp_path, OfTwoClasses())
    runner.train()
    log = next(tmp_path.glob('*/*.log')).read_text()
    assert 'Only one class is present.' in log and 'It may need more than a batch, so the run goes on.' in log
    assert 'mean' in log


@pytest.mark.parametrize('fault', ['process', 'compute'])
def test_a_metric_that_does_not_fit_is_named(fault, tmp_path):
    class Misfit(Mean):
        key = 'boxes' if fault == 'process' else 'scores'

        def compute_metrics(self, results):
            return dict(mean=self.dataset_meta['colours'])

    sentence = refusal_of(build(tmp_path, Misfit()))
    key = 'boxes' if fault == 'process' else 'colours'
    assert sentence.startswith(
        "val_evaluator (Misfit) fails on the first batch of the validation data: KeyError: '" + key
    )
    assert re.search(r'test_validation.py:\d+\)', sentence)


def test_a_best_score_that_does_not_exist_is_named_before_training(tmp_path):
    sentence = refusal_of(build(tmp_path, save_best='toy/maen'))
    assert sentence == "default_hooks.checkpoint.save_best='toy/maen' is none of the scores: toy/mean, toy/spread."
    build(tmp_path, save_best=['toy/mean', 'toy/spread']).train()


@pytest.mark.parametrize('watcher', ['EarlyStoppingHook', 'ReduceOnPlateauLR'])
def test_a_score_that_a_hook_or_a_schedule_watches_must_exist(watcher, tmp_path):
    part = dict(type=watcher, monitor='mean', rule='greater')
    more = dict(hooks=[part]) if watcher == 'EarlyStoppingHook' else dict(param_scheduler=[part])
    sentence = refusal_of(build(tmp_path, **more))
    assert sentence == f"monitor of {watcher}='mean' is none of the scores: toy/mean, toy/spread."


def test_the_average_may_be_the_best(tmp_path):
    hooks = [dict(type='AveragedWeightsHook', decay=0.5)]
    build(tmp_path, save_best='ema_toy/mean', hooks=hooks).train()
    assert list(tmp_path.glob('best_ema_toy_mean*.pth'))


def test_metrics_that_write_files_are_left_out(tmp_path):
    class Writing(Mean):
        output_dir = 'out'

        def evaluate(self, size):
            assert size == 4, 'not of a trial'
            return super().evaluate(size)

    build(tmp_path, [Writing(prefix='one'), Mean()], save_best='one/mean').train()


def test_scores_that_are_no_numbers_are_said(tmp_path):
    class NoNumber(Mean):
        value = np.float32('nan')

    runner = build(tmp_path, NoNumber(), train_cfg=dict(by_epoch=True, max_epochs=1))
    runner.train()
    (log,) = (path.read_text() for path in tmp_path.glob('*/*.log'))
    assert log.count('No number: toy/mean. The data has no pixel or object') == 1


def test_the_logs_of_a_run_are_json_whatever_its_scores(tmp_path):
    class NoNumber(Mean):
        value = np.float32('nan')

    parts = dict(dataset=Pictures(), sampler=dict(type='DefaultSampler', shuffle=False))
    tested = dict(test_dataloader=parts, test_cfg=dict(), test_evaluator=[NoNumber()])
    runner = build(tmp_path, NoNumber(), train_cfg=dict(by_epoch=True, max_epochs=1), **tested)
    runner.train()
    runner.test()
    (log,), (scores,) = tmp_path.glob('*/vis_data/scalars.json'), tmp_path.glob('*/[0-9]*.json')
    for path in (log, scores):
        records = [json.loads(line, parse_constant=pytest.fail) for line in path.read_text().splitlines()]
        assert records[-1]['toy/mean'] is None and records[-1]['toy/spread'] == 1
    assert any(record.get('loss', 0) > 0 for record in map(json.loads, log.read_text().splitlines()))


@pytest.mark.parametrize('indent', [None, 1])
def test_only_numbers_that_are_none_become_null(indent, tmp_path):
    """Those of texts stay, and those of results that a metric reads again."""
    record = {'NaN': math.nan, 'b': [math.inf, -math.inf, 'Infinity', 0.1], 'c': dict(d=np.float32('nan'), e=None)}
    expected = {'NaN': None, 'b': [None, None, 'Infinity', 0.1], 'c': dict(d=None, e=None)}
    mmengine.dump(record, tmp_path / 'a.json', indent=indent)
    assert (tmp_path / 'a.json').read_text() == json.dumps(expected, indent=indent)
    assert mmengine.dump(record, file_format='json') == json.dumps(expected)
    assert mmengine.dump([dict(score=math.nan)], file_format='json') == '[{"score": NaN}]'


# ---- the tools -------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_images_of_two_sizes_in_a_batch_end_a_run_before_it_trains(shapes, tmp_path, call_tool):
    """mmsegmentation takes one size in a batch; training crops to one, validation does not."""
    data = shutil.copytree(shapes / 'ade', tmp_path / 'data')
    for folder, suffix in (('images', '.jpg'), ('annotations', '.png')):
        path = sorted((data / folder / 'validation').glob(f'*{suffix}'))[3]
        with Image.open(path) as image:
            image.resize((96, 128), Image.Resampling.NEAREST).save(path)
    config, *flags = arguments('segmentor', write_config('segmentor', tmp_path), shapes)
    flags[1] = data
    options = ['--cfg-options', 'val_dataloader.batch_size=2', 'test_dataloader.batch_size=2']
    sentence = refusal(call_tool('train.py', config, *flags, *options, cwd=tmp_path))
    for words in (
        'val_dataloader.batch_size=2',
        '128 x 96',
        'pixels into one batch',
        'set val_dataloader.batch_size=1',
    ):
        assert words in sentence
    assert not list(tmp_path.glob('out/*.pth'))
    cfg = Config.fromfile(config)
    init_default_scope('mmseg')
    torch.save(dict(state_dict=MODELS.build(cfg.model).state_dict()), tmp_path / 'x.pth')
    sentence = refusal(call_tool('test.py', config, 'x.pth', *flags, *options, cwd=tmp_path))
    assert 'test_dataloader.batch_size=2' in sentence


def test_class_weights_train_with_void_pixels_and_a_best_score(shapes, tmp_path, call_tool):
    weights = 'loss_decode=dict(class_weight=[1.0, 2.0, 3.0, 4.0, 5.0])'
    more = f"""
model['decode_head'].update({weights})
model['auxiliary_head'].update({weights})
default_hooks['checkpoint'].update(save_best='mIoU')
"""
    config, *flags = arguments('segmentor', write_config('segmentor', tmp_path, more), shapes)
    result = call_tool('train.py', config, *flags, cwd=tmp_path)
    assert result.returncode == 0, result.stderr[-3000:]
    assert list(tmp_path.glob('out/best_mIoU_iter_*.pth'))


def test_a_detector_without_detections_tells_its_scores(shapes, tmp_path, call_tool):
    """COCO's metric has none of nothing, which is what an untrained detector may find."""
    options = ['default_hooks.checkpoint.save_best=coco/box_mAP', 'model.test_cfg.rcnn.score_thr=0.9']
    config, *flags = arguments('detector', write_config('detector', tmp_path), shapes, options=options)
    sentence = refusal(call_tool('train.py', config, *flags, cwd=tmp_path))
    assert "save_best='coco/box_mAP' is none of the scores: coco/bbox_mAP, coco/bbox_mAP_50" in sentence
    assert 'coco/segm_mAP' in sentence


def test_a_score_that_is_no_number_is_null_in_json(shapes, tmp_path, call_tool):
    """The precision of a class that no object of the test data has."""
    config, *flags = arguments('detector', write_config('detector', tmp_path), shapes)
    cfg = Config.fromfile(config)
    init_default_scope('mmdet')
    torch.save(dict(state_dict=MODELS.build(cfg.model).state_dict()), tmp_path / 'x.pth')
    content = json.loads((shapes / 'annotations/instances_val2017.json').read_text())
    kept = [one for one in content['annotations'] if one['category_id'] == 1]
    (tmp_path / 'val.json').write_text(json.dumps({**content, 'annotations': kept}))
    options = ['test_evaluator.classwise=True', f'test_evaluator.ann_file={tmp_path}/val.json']
    options += [f'test_dataloader.dataset.ann_file={tmp_path}/val.json']
    result = call_tool('test.py', config, 'x.pth', *flags, '--cfg-options', *options, cwd=tmp_path)
    assert result.returncode == 0, result.stderr[-2000:]

    def refuse(constant):
        raise AssertionError(constant)

    scores = json.loads((tmp_path / 'out/scores.json').read_text(), parse_constant=refuse)
    assert scores['coco/square_precision'] is None and isinstance(scores['coco/circle_precision'], float)
    assert re.search(r'^coco/square_precision +no number$', result.stdout, re.MULTILINE)
    assert 'No number: coco/square_precision' in result.stdout
