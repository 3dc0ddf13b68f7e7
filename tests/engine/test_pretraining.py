"""Pre-training as a user runs it, on drawn images: resume, two processes, faults, transfer to detection. Exact."""

import copy
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from conftest import REPOSITORY, refusal, run_tool
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from small_runs import DEMO, DETECTOR, SMALL

from convnext_backbone import LabelledImagesHook, UserError, read_checkpoint

STEPS = 6
CHANNELS = [40, 80, 160, 320]
UPERNET = dict(
    type='EncoderDecoder',
    data_preprocessor=dict(type='SegDataPreProcessor', size=(64, 64), bgr_to_rgb=True),
    backbone=dict(type='ConvNeXt', arch='atto'),
    decode_head=dict(
        type='UPerHead',
        in_channels=CHANNELS,
        in_index=[0, 1, 2, 3],
        pool_scales=(1, 2),
        channels=16,
        num_classes=5,
        norm_cfg=dict(type='BN'),
        align_corners=False,
        loss_decode=dict(type='CrossEntropyLoss'),
    ),
    test_cfg=dict(mode='whole'),
)


def train(data, work_dir, *arguments, options=(), cwd, how=run_tool):
    command = ['train.py', DEMO, '--data-root', data, '--work-dir', work_dir, *arguments]
    return how(*command, '--cfg-options', *SMALL, *options, cwd=cwd)


def differing(first: dict, second: dict) -> list[str]:
    return [name for name in first if not torch.equal(first[name], second[name])]


@pytest.fixture(scope='module')
def data(shapes):
    return shapes / 'imagenet'


@pytest.fixture(scope='module')
def run(data, run_once):
    """An undisturbed run: its work_dir and its output."""
    return run_once('classification', partial(train, data, 'out'))


@pytest.fixture(scope='module')
def checkpoint(run):
    return read_checkpoint(run[0] / 'epoch_2.pth')


def test_a_run_logs_its_progress_and_writes_reports(run):
    work_dir, output = run
    assert '4 images a step = 1 processes x 2 images x 2 accumulated batches' in output
    assert 'Epoch(train) [2][6/6]' in output and 'eta: ' in output
    assert 'accuracy/top1: ' in output and 'accuracy/top5: ' in output and 'ema_accuracy/top1: ' in output
    classes = json.loads((work_dir / 'per_class.json').read_text())
    assert [row['class'] for row in classes] == ['circle', 'cross', 'square', 'star', 'triangle']
    for picture in ('confusion.png', 'curves.png'):
        assert (work_dir / picture).read_bytes()[:4] == b'\x89PNG'


def test_a_checkpoint_holds_and_describes_plain_and_averaged_weights(checkpoint):
    assert checkpoint['meta']['weights'] == {'state_dict': 'plain', 'ema_state_dict': 'averaged, decay 0.99'}
    plain, averaged = checkpoint['state_dict'], checkpoint['ema_state_dict']
    assert list(plain) == list(averaged) and len(differing(plain, averaged)) > 100
    assert {name.split('.')[0] for name in plain} == {'backbone', 'norm', 'head'}
    assert checkpoint['meta']['dataset_meta'] == dict(classes=('circle', 'cross', 'square', 'star', 'triangle'))


def test_an_epoch_has_as_many_optimizer_steps_as_accumulated_batches(checkpoint):
    steps = {int(state['step']) for state in checkpoint['optimizer']['state'].values()}
    assert steps == {STEPS} and checkpoint['meta']['iter'] == 2 * STEPS


def test_a_resumed_run_ends_with_the_same_weights_and_averages(run, checkpoint, data, tmp_path, call_tool):
    """Bit for bit; `test_tools.py` kills a run, and the one on shards resumes within an epoch."""
    result = train(data, 'out', '--resume', run[0] / 'epoch_1.pth', cwd=tmp_path, how=call_tool)
    assert result.returncode == 0 and 'resumed epoch: 1, iter: 6' in result.stdout, result.stderr[-3000:]
    resumed = read_checkpoint(tmp_path / 'out/epoch_2.pth')
    for weights in ('state_dict', 'ema_state_dict'):
        assert differing(checkpoint[weights], resumed[weights]) == []


@pytest.mark.slow
def test_a_run_on_shards_resumes_to_the_same_weights(data, tmp_path, call_tool):
    """From within an epoch, with workers, mixup and averaged weights."""
    shards = tmp_path / 'shards'
    shards.mkdir()
    for split in ('train', 'val'):
        images = [*enumerate(sorted((data / split).glob('*/*.JPEG')))]
        labels = {name: i for i, name in enumerate(sorted(path.name for path in (data / split).iterdir()))}
        for number in range(3):
            with tarfile.open(shards / f'{split}-{number}.tar', 'w') as shard:
                for i, path in images[number::3]:
                    shard.add(path, arcname=f'{i:04}.jpg')
                    (tmp_path / 'label').write_text(str(labels[path.parent.name]))
                    shard.add(tmp_path / 'label', arcname=f'{i:04}.cls')
    base = f'_base_ = {str(DEMO)!r}\n'
    for split in ('train', 'val'):
        dataset = dict(
            _delete_=True,
            type='TimmShards',
            data_root=str(shards),
            shards=split + '-{0..2}.tar',
            is_training=split == 'train',
            transform=dict(input_size=32, auto_augment='rand-m9-mstd0.5-inc1') if split == 'train' else {},
        )
        base += f'{split}_dataloader = dict(sampler=None, dataset={dataset!r})\n'
    (tmp_path / 'config.py').write_text(base)
    options = [option for option in SMALL if not option.startswith('test_')]
    options += ['default_hooks.checkpoint.by_epoch=False', 'default_hooks.checkpoint.interval=4']
    options += ['default_hooks.checkpoint.max_keep_ckpts=-1']
    weights = []
    for name, resume in (('whole', []), ('resumed', ['--resume', 'whole/iter_4.pth'])):
        arguments = ['config.py', '--work-dir', name, *resume, '--cfg-options', *options]
        result = call_tool('train.py', *arguments, cwd=tmp_path)
        assert result.returncode == 0, result.stderr[-3000:]
        assert 'Epoch(train) [2][6/6]' in result.stdout and 'ema_accuracy/top1: ' in result.stdout
        weights.append(read_checkpoint(tmp_path / name / 'iter_12.pth'))
    assert 'resumed epoch: 0, iter: 4' in result.stdout
    for kind in ('state_dict', 'ema_state_dict'):
        assert differing(weights[0][kind], weights[1][kind]) == []


# Without what is drawn once for a batch, which differs between one process and two.
BY_SAMPLE = [
    'model.backbone.drop_path_rate=0.0',
    'model.data_preprocessor.mixup_alpha=0.0',
    'model.data_preprocessor.cutmix_alpha=0.0',
    'model.data_preprocessor.random_erasing=0.0',
    'optim_wrapper.optimizer.lr=5e-4',  # AdamW turns the rounding of gradients near 0 into steps of this length
    'train_cfg.val_interval=2',
]


def environment() -> dict[str, str]:
    """Environment variables in which `python` is the one of the tests."""
    return {**os.environ, 'PATH': f'{Path(sys.executable).parent}{os.pathsep}{os.environ["PATH"]}'}


def run_script(*command: object, cwd) -> subprocess.CompletedProcess:
    """Run a shell script of the tools."""
    return subprocess.run([*map(str, command)], cwd=cwd, env=environment(), capture_output=True, text=True, timeout=600)


@pytest.mark.parametrize('script', ['dist_train.sh', 'slurm_train.sh'])
def test_a_script_without_arguments_prints_its_usage(script, tmp_path):
    result = run_script(REPOSITORY / 'tools' / script, DEMO, cwd=tmp_path)
    assert result.returncode == 2 and f'tools/{script}' in result.stderr and 'CONFIG' in result.stderr


@pytest.mark.slow
def test_two_processes_give_the_weights_of_one(data, tmp_path):
    """To 1e-5, with augmentation and gradient accumulation: steps of 1 x 4 images and of 2 x 1 x 2."""
    runs, scores = [], []
    for name, processes, batch in (('one', 1, 4), ('two', 2, 1)):
        options = [*SMALL, *BY_SAMPLE, f'train_dataloader.batch_size={batch}']
        launch = [REPOSITORY / 'tools/dist_train.sh', DEMO, processes, '--data-root', data, '--work-dir', name]
        launch += ['--cfg-options', *options]
        result = run_script(*launch, cwd=tmp_path)
        assert result.returncode == 0, result.stderr[-3000:]
        runs.append(read_checkpoint(tmp_path / name / 'epoch_2.pth'))
        line = [line for line in result.stdout.splitlines() if 'ema_accuracy/top1' in line][-1]
        scores.append(re.findall(r'accuracy/top\d: (\S+)', line))
    for weights in ('state_dict', 'ema_state_dict'):
        one, two = (run[weights] for run in runs)
        for name, tensor in one.items():
            torch.testing.assert_close(two[name], tensor, rtol=0, atol=1e-5)
    assert scores[0] == scores[1] and len(scores[0]) == 4


def test_the_test_tool_repeats_the_scores_of_both_weights(run, data, tmp_path, call_tool):
    options = [option for option in SMALL if option.startswith('test_dataloader')]
    result = call_tool(
        'test.py', DEMO, run[0] / 'epoch_2.pth', '--data-root', data, '--work-dir', 'out', '--json',
        '--cfg-options', *options, cwd=tmp_path,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr[-3000:]
    scores = json.loads(result.stdout)
    last = [line for line in run[1].splitlines() if 'Epoch(val) [2]' in line and 'ema_accuracy/top1' in line][-1]
    for name in ('accuracy/top1', 'accuracy/top5', 'ema_accuracy/top1', 'ema_accuracy/top5'):
        assert f'  {name}: {scores[name]:.4f}' in last
    assert (tmp_path / 'out/confusion.png').is_file()


def test_predict_prints_classes_and_draws_pictures(run, data, tmp_path, call_tool):
    arguments = [DEMO, run[0] / 'epoch_2.pth', data / 'val/star', '--work-dir', 'out']
    result = call_tool('predict.py', *arguments, cwd=tmp_path)
    images = sorted((data / 'val/star').iterdir())
    lines = [line for line in result.stdout.splitlines() if line.startswith(str(images[0]))]
    assert len(lines) == 1 and all(name in lines[0] for name in ('circle', 'cross', 'square', 'star', 'triangle'))
    found = json.loads((tmp_path / 'out/predictions/predictions.json').read_text())
    assert [one['image'] for one in found] == [str(path) for path in images]
    assert sum(one['score'] for one in found[0]['classes']) == pytest.approx(1, abs=1e-5)
    assert (tmp_path / 'out/predictions/overview.png').read_bytes()[:4] == b'\x89PNG'
    assert (tmp_path / 'out/predictions' / f'{images[0].stem}.jpeg').is_file()


@pytest.mark.parametrize(
    ('options', 'named'),
    [
        (['model.num_classes=10'], ['5 classes', 'num_classes=5', 'class_map']),
        (['auto_scale_lr.base_batch_size=400'], ['7 batches', '200', 'base_batch_size']),
        (['train_dataloader.dataset.data_prefix=nowhere'], ['nowhere', '--data-root']),
        (['custom_hooks.0.decay=2.0', 'custom_hooks.0.type=AveragedWeightsHook'], ['decay=2.0']),
    ],
)
def test_wrong_training_settings_are_named(options, named, data, tmp_path, call_tool):
    sentence = refusal(train(data, 'out', options=options, cwd=tmp_path, how=call_tool))
    assert all(word in sentence for word in named), sentence
    assert not list(tmp_path.glob('out/*.pth'))


def test_a_misspelt_folder_does_not_shift_the_labels(run, data, tmp_path, call_tool):
    shutil.copytree(data, tmp_path / 'data')
    (tmp_path / 'data/val/circle').rename(tmp_path / 'data/val/sircle')
    sentence = refusal(train('data', 'out', cwd=tmp_path, how=call_tool))
    assert all(word in sentence for word in ('circle, sircle', 'class_map')) and not list(tmp_path.glob('out/*.pth'))
    sentence = refusal(call_tool('test.py', DEMO, run[0] / 'epoch_2.pth', '--data-root', 'data', cwd=tmp_path))
    assert "'circle' in the checkpoint" in sentence


def test_too_many_broken_images_stop_the_run(data, tmp_path, call_tool):
    shutil.copytree(data, tmp_path / 'data')
    first, second = sorted((tmp_path / 'data/train').glob('*/*.JPEG'))[:2]
    first.write_bytes(b'')
    result = train('data', 'one', options=['train_cfg.max_epochs=1'], cwd=tmp_path, how=call_tool)
    assert result.returncode == 0, result.stderr[-2000:]
    assert result.stdout.count(f'{first.parent.name}/{first.name} (') == 1 and '(1 so far)' in result.stdout
    second.write_bytes(b'')
    sentence = refusal(train('data', 'two', cwd=tmp_path, how=call_tool))
    assert '2 images cannot be read' in sentence and 'max_broken' in sentence


def test_broken_images_of_the_training_data_do_not_count_in_a_validation():
    loaders = {
        f'{mode}_dataloader': SimpleNamespace(dataset=range(size)) for mode, size in (('train', 300), ('val', 9))
    }
    runner, hook = SimpleNamespace(**loaders, logger=SimpleNamespace(warning=print)), LabelledImagesHook()
    labels = torch.zeros(2)
    hook.before_train_iter(runner, 0, dict(broken=['a\nb', 'c'], labels=labels))
    hook.before_val_iter(runner, 0, dict(broken=['', 'd'], labels=labels))
    with pytest.raises(UserError, match='^2 images cannot be read, the last of them e; 1 of 9 may be'):
        hook.before_val_iter(runner, 1, dict(broken=['', 'e'], labels=labels))


@pytest.mark.parametrize('ema', [False, True])
@pytest.mark.parametrize('which', ['epoch_2.pth', 'best_accuracy_top1_epoch_*.pth'])
def test_detector_and_segmentor_load_every_backbone_weight_of_a_run(which, ema, run):
    (path,) = run[0].glob(which)
    stored = read_checkpoint(path)['ema_state_dict' if ema else 'state_dict']
    for scope, model in (('mmdet', Config.fromfile(DETECTOR).model), ('mmseg', UPERNET)):
        init_default_scope(scope)
        model = copy.deepcopy(dict(model))
        model['backbone']['init_cfg'] = dict(type='Pretrained', checkpoint=str(path), ema=ema)
        model = MODELS.build(model)
        model.init_weights()
        own = {name: tensor for name, tensor in model.backbone.state_dict().items() if not name.startswith('norm')}
        assert differing(own, {name: stored[f'backbone.{name}'] for name in own}) == []


def test_a_detector_trains_from_a_pretrained_backbone(run, shapes, tmp_path, call_tool):
    options = ['model.backbone.init_cfg.type=Pretrained', f'model.backbone.init_cfg.checkpoint={run[0]}/epoch_2.pth']
    options += ['train_cfg.max_epochs=1', 'train_cfg.val_interval=2', 'default_hooks.logger.interval=1']
    arguments = [DETECTOR, '--data-root', shapes, '--work-dir', 'out', '--cfg-options', *options]
    result = call_tool('train.py', *arguments, cwd=tmp_path)
    assert result.returncode == 0, result.stderr[-3000:]
    assert (
        'epoch_2.pth (atto, V1, 3 input channels, 5 classes), official names, plain weights: 124 tensors'
        in result.stdout
    )
    assert 'Epoch(train) [1][3/3]' in result.stdout and (tmp_path / 'out/epoch_1.pth').is_file()


def test_a_segmentor_trains_from_a_pretrained_backbone(run, shapes, tmp_path, call_tool):
    model = copy.deepcopy(UPERNET)
    model['backbone']['init_cfg'] = dict(type='Pretrained', checkpoint=f'{run[0]}/epoch_2.pth', ema=True)
    pipeline = [dict(type='LoadImageFromFile'), dict(type='LoadAnnotations', reduce_zero_label=True)]
    pipeline += [dict(type='Resize', scale=(64, 64), keep_ratio=False), dict(type='PackSegInputs')]
    config = dict(
        default_scope='mmseg',
        custom_imports=dict(imports=['convnext_backbone']),
        model=model,
        train_dataloader=dict(
            batch_size=2,
            sampler=dict(type='DefaultSampler', shuffle=True),
            dataset=dict(
                type='BaseSegDataset',
                data_root=str(shapes / 'ade'),
                data_prefix=dict(img_path='images/training', seg_map_path='annotations/training'),
                metainfo=dict(classes=('circle', 'square', 'triangle', 'star', 'cross')),
                reduce_zero_label=True,
                pipeline=pipeline,
            ),
        ),
        train_cfg=dict(by_epoch=True, max_epochs=1),
        optim_wrapper=dict(
            constructor='LayerDecayOptimWrapperConstructor',
            paramwise_cfg=dict(decay_rate=0.9, decay_type='stage_wise'),
            optimizer=dict(type='AdamW', lr=1e-4),
        ),
        default_hooks=dict(logger=dict(type='LoggerHook', interval=1)),
    )
    (tmp_path / 'upernet.py').write_text('\n'.join(f'{name} = {value!r}' for name, value in config.items()))
    result = call_tool('train.py', 'upernet.py', '--work-dir', 'out', cwd=tmp_path)
    assert result.returncode == 0, result.stderr[-3000:]
    assert (
        'epoch_2.pth (atto, V1, 3 input channels, 5 classes), official names, averaged weights: 124 tensors'
        in result.stdout
    )
    assert 'Epoch(train) [1][3/3]' in result.stdout and 'decode.loss_ce' in result.stdout
