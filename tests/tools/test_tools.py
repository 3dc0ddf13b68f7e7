"""The tools, run as a user runs them, from another working directory; real training on drawn data."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest
import torch
from conftest import REPOSITORY, refusal, run_tool
from pycocotools.coco import COCO
from small_runs import arguments, write_config

DEMO = REPOSITORY / 'configs/demo/cascade_convnext_atto_shapes.py'
ITERATIONS = 6  # 2 epochs of 6 images in batches of 2
# With all randomness of a recipe: stochastic depth, flips, worker processes. A checkpoint every second iteration is in
# the middle of an epoch.
SMALL = [
    'train_dataloader.batch_size=2',
    'train_dataloader.num_workers=2',
    'train_dataloader.persistent_workers=True',
    'train_cfg.max_epochs=2',
    'train_cfg.val_interval=2',
    'model.backbone.drop_path_rate=0.5',
    'model.backbone.fused=True',
    'default_hooks.checkpoint.by_epoch=False',
    'default_hooks.checkpoint.interval=2',
    'default_hooks.logger.interval=1',
]


def weights(path: Path) -> dict[str, torch.Tensor]:
    from convnext_backbone import read_checkpoint

    return read_checkpoint(path)['state_dict']


def train(shapes, work_dir, *arguments, options=(), cwd, how=run_tool):
    return how(
        'train.py', DEMO, '--data-root', shapes, '--work-dir', work_dir, *arguments,
        '--cfg-options', *SMALL, 'randomness.seed=3', *options, cwd=cwd,
    )  # fmt: skip


@pytest.fixture(scope='module')
def run(shapes, run_once):
    """An uninterrupted run: its work_dir and its output."""
    return run_once('detection', partial(train, shapes, 'out'))


def test_train_shows_progress_scores_and_curves(run):
    work_dir, output = run
    assert 'eta: 0:00:' in output and 'coco/bbox_mAP:' in output and 'coco/segm_mAP:' in output
    assert 'Layer decay: layer_wise' in output
    assert str(work_dir) in output.splitlines()[-1]
    assert (work_dir / 'curves.png').read_bytes()[:4] == b'\x89PNG'


@pytest.mark.slow
def test_a_killed_run_resumes_to_the_same_weights(run, shapes, tmp_path, call_tool):
    """Exact: after SIGKILL in the middle of an epoch and --resume, the weights are those of the uninterrupted run."""
    command = [sys.executable, REPOSITORY / 'tools/train.py', DEMO, '--data-root', shapes, '--work-dir', 'out']
    command += ['--cfg-options', *SMALL, 'randomness.seed=3']
    process = subprocess.Popen(
        [*map(str, command)], cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    deadline = time.monotonic() + 300
    while not (tmp_path / 'out/last_checkpoint').is_file() or process.poll() is not None:
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGSTOP)
    sentence = refusal(train(shapes, 'out', '--resume', cwd=tmp_path, how=call_tool))
    assert all(word in sentence for word in ('in use', str(process.pid), '--work-dir'))
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert not (tmp_path / f'out/iter_{ITERATIONS}.pth').exists()  # it was stopped before its end
    result = train(shapes, 'out', '--resume', cwd=tmp_path)
    assert result.returncode == 0, result.stderr[-3000:]
    assert 'resumed epoch: 0, iter: 2' in result.stdout
    expected, resumed = weights(run[0] / 'iter_6.pth'), weights(tmp_path / 'out/iter_6.pth')
    assert expected.keys() == resumed.keys()
    assert [name for name in expected if not torch.equal(expected[name], resumed[name])] == []


@pytest.mark.slow
def test_damaged_checkpoints_are_passed_over(run, shapes, tmp_path, call_tool):
    shutil.copytree(run[0], tmp_path / 'out')
    flipped, cut = tmp_path / 'out/iter_6.pth', tmp_path / 'out/iter_4.pth'
    content = bytearray(flipped.read_bytes())
    content[len(content) // 2] ^= 1  # of a tensor: torch reads it without an error
    flipped.write_bytes(content)
    os.truncate(cut, 10_000)
    sentence = refusal(train(shapes, 'out', f'--resume={flipped}', cwd=tmp_path, how=call_tool))
    assert 'iter_6.pth' in sentence and 'checksum' in sentence
    result = train(shapes, 'out', '--resume', cwd=tmp_path, how=call_tool)
    assert result.returncode == 0, result.stderr[-3000:]
    warnings = [line for line in result.stderr.splitlines() if line.startswith('warning:')]
    assert ['iter_6.pth' in warnings[0], 'iter_4.pth' in warnings[1], len(warnings)] == [True, True, 2]
    expected, resumed = weights(run[0] / 'iter_6.pth'), weights(flipped)
    assert [name for name in expected if not torch.equal(expected[name], resumed[name])] == []


@pytest.mark.slow
def test_a_resume_with_another_batch_size_continues_at_the_same_image_or_is_refused(run, shapes, tmp_path, call_tool):
    """After two batches of two images, of six in an epoch."""

    def resume(size: int) -> subprocess.CompletedProcess:
        options = [f'train_dataloader.batch_size={size}']
        return train(shapes, 'out', '--resume', run[0] / 'iter_2.pth', options=options, cwd=tmp_path, how=call_tool)

    sentence = refusal(resume(3))
    assert all(words in sentence for words in ('middle of epoch 1', '2 images together and not 3', 'end of an epoch'))
    result = resume(4)
    assert result.returncode == 0, result.stderr[-3000:]
    assert 'Batches of 4 images, and not of 2: this is iteration 1.' in result.stdout
    assert result.stdout.count('Epoch(train)') == 3  # one is left of the first epoch


@pytest.mark.parametrize(
    ('restarts', 'arguments'), [('1', []), pytest.param('0', ['--auto-resume'], marks=pytest.mark.slow)]
)
def test_a_run_that_is_started_again_goes_on(restarts, arguments, run, shapes, tmp_path, call_tool, monkeypatch):
    """By torchrun after a failure, or by a scheduler that repeats the command."""
    shutil.copytree(run[0], tmp_path / 'out')
    monkeypatch.setenv('TORCHELASTIC_RESTART_COUNT', restarts)
    result = train(shapes, 'out', *arguments, cwd=tmp_path, how=call_tool)
    assert result.returncode == 0 and f'iter: {ITERATIONS}' in result.stdout + result.stderr


@pytest.mark.slow
def test_auto_resume_starts_where_there_is_nothing(shapes, tmp_path, call_tool):
    result = train(shapes, 'out', '--auto-resume', options=['train_cfg.max_epochs=1'], cwd=tmp_path, how=call_tool)
    assert result.returncode == 0 and (tmp_path / 'out/iter_2.pth').is_file()


@pytest.mark.slow
def test_another_seed_leads_to_other_weights(run, shapes, tmp_path, call_tool):
    """So that the test above can fail."""
    options = ['randomness.seed=4', 'train_cfg.max_epochs=1']
    result = train(shapes, 'out', options=options, cwd=tmp_path, how=call_tool)
    assert result.returncode == 0, result.stderr[-3000:]
    one, other = weights(run[0] / 'iter_2.pth'), weights(tmp_path / 'out/iter_2.pth')
    assert not torch.equal(one['backbone.stages.0.0.pwconv1.weight'], other['backbone.stages.0.0.pwconv1.weight'])


def test_no_run_is_overwritten(run, shapes, call_tool):
    before = {path: path.stat().st_mtime_ns for path in run[0].glob('*.pth')}
    sentence = refusal(train(shapes, run[0], cwd=run[0].parent, how=call_tool))
    assert '--resume' in sentence and '--work-dir' in sentence and str(run[0]) in sentence
    assert before == {path: path.stat().st_mtime_ns for path in run[0].glob('*.pth')}


@pytest.mark.slow
def test_the_test_tool_repeats_the_scores_of_the_run(run, shapes, tmp_path):
    result = run_tool(
        'test.py', DEMO, run[0] / 'iter_6.pth', '--data-root', shapes, '--work-dir', 'out', '--json', cwd=tmp_path
    )
    assert result.returncode == 0, result.stderr[-3000:]
    scores = json.loads(result.stdout)
    logged = next(line for line in run[1].splitlines() if 'Epoch(val)' in line and 'bbox_mAP' in line)
    for name in ('coco/bbox_mAP', 'coco/segm_mAP'):
        assert f'{name}: {scores[name]:.4f}' in logged
    assert json.loads((tmp_path / 'out/scores.json').read_text()) == scores


def test_predict_writes_pictures_and_coco_json(run, shapes, tmp_path):
    images = sorted((shapes / 'val2017').glob('*.jpg'))
    result = run_tool(
        'predict.py', DEMO, run[0] / 'iter_6.pth', images[0], shapes / 'val2017', '--work-dir', 'out',
        '--score-thr', '0.0', cwd=tmp_path,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr[-3000:]
    out = tmp_path / 'out/predictions'
    pictures = sorted(path.name for path in out.glob('*.jpg'))
    assert pictures == sorted([*(path.name for path in images), f'{images[0].stem}_2.jpg'])
    assert str(Path('out/predictions/overview.png')) in result.stdout and (out / 'overview.png').is_file()
    coco = COCO(out / 'predictions.json')
    assert [c['name'] for c in coco.loadCats(coco.getCatIds())] == ['circle', 'square', 'triangle', 'star', 'cross']
    assert len(coco.imgs) == len(images) + 1 and coco.anns
    for annotation in coco.anns.values():
        image = coco.imgs[annotation['image_id']]
        assert coco.annToMask(annotation).shape == (image['height'], image['width'])
        assert 0 <= annotation['score'] <= 1 and len(annotation['bbox']) == 4


@pytest.mark.parametrize('task', [pytest.param('detector', marks=pytest.mark.slow), 'autoencoder'])
def test_nan_loss_stops_after_saving_the_last_good_state(task, shapes, tmp_path, call_tool):
    """The learning rate makes the weights infinite at the first iteration; the saved checkpoint is finite."""
    options = ['optim_wrapper.optimizer.lr=1e30', 'param_scheduler=None', 'optim_wrapper.accumulative_counts=1']
    command = arguments(task, write_config(task, tmp_path), shapes, options=options)
    sentence = refusal(call_tool('train.py', *command, cwd=tmp_path))
    assert 'iteration 2' in sentence and 'loss' in sentence and 'last_good_iter_1.pth' in sentence
    # The images of the batch.
    assert (str(shapes / 'train2017') if task == 'detector' else '00000000000') in sentence
    assert all(tensor.isfinite().all() for tensor in weights(tmp_path / 'out/last_good_iter_1.pth').values())
    assert (tmp_path / 'out/last_checkpoint').read_text().endswith('last_good_iter_1.pth')


def copy_with_defect(shapes: Path, copy: Path, what: str) -> Path:
    """A copy of the drawn data with one defect."""
    (copy / 'annotations').mkdir(parents=True)
    for part in ('train2017', 'val2017'):
        (copy / part).symlink_to(shapes / part)
    for split in ('train', 'val'):
        name = f'annotations/instances_{split}2017.json'
        (copy / name).write_bytes((shapes / name).read_bytes())
    annotations = copy / 'annotations/instances_train2017.json'
    if what == 'no annotations':
        annotations.unlink()
    elif what == 'not json':
        annotations.write_text(annotations.read_text()[:500])
    elif what == 'not COCO':
        annotations.write_text('{"labels": [1, 2]}')
    else:
        (copy / 'train2017').unlink()
        (copy / 'train2017').mkdir()
        for image in (shapes / 'train2017').iterdir():
            (copy / 'train2017' / image.name).write_bytes(b'no image' if what == 'broken image' else image.read_bytes())
        if what == 'missing image':
            next((copy / 'train2017').iterdir()).unlink()
    return copy


@pytest.mark.parametrize(
    ('what', 'named'),
    [
        ('no annotations', ['annotations/instances_train2017.json', '--data-root']),
        ('not json', ['annotations/instances_train2017.json', 'not json', 'COCO']),
        ('not COCO', ['annotations/instances_train2017.json', 'images', 'categories']),
        pytest.param('broken image', ['train2017/0000000000', '.jpg', 'decoded'], marks=pytest.mark.slow),
        pytest.param('missing image', ['train2017/0000000000', '.jpg', 'missing'], marks=pytest.mark.slow),
    ],
)
def test_bad_data_is_named(what, named, shapes, tmp_path, call_tool):
    data = copy_with_defect(shapes, tmp_path / 'data', what)
    how = run_tool if 'image' in what else call_tool  # images are read in processes of their own
    sentence = refusal(train(data, 'out', cwd=tmp_path, how=how))
    assert all(word in sentence for word in named)
    assert not list(tmp_path.glob('out/*.pth'))


@pytest.mark.parametrize(
    ('options', 'named'),
    [
        (['model.backbone.arch=atoo'], ["'atoo'", "'atto'"]),
        (['model.backbone.out_indices=[0,1,2,7]'], ['out_indices', '7']),
        (['model.backbone.in_channels=4'], ['(1, 3, 192, 256)', '4', 'in_channels']),
        (['optim_wrapper.paramwise_cfg.num_layers=6'], ['num_layers']),
    ],
)
def test_bad_settings_are_named(options, named, shapes, tmp_path, call_tool):
    sentence = refusal(train(shapes, 'out', options=options, cwd=tmp_path, how=call_tool))
    assert all(word in sentence for word in named)


@pytest.mark.slow
def test_small_images_are_named(shapes, tmp_path, call_tool):
    options = ['train_dataloader.dataset.pipeline.2.scale=(24,24)', 'model.data_preprocessor.pad_size_divisor=1']
    sentence = refusal(train(shapes, 'out', options=options, cwd=tmp_path, how=call_tool))
    assert '32' in sentence and '24' in sentence


@pytest.mark.parametrize(
    ('tool', 'arguments', 'named'),
    [
        ('train.py', ['nowhere.py'], ['nowhere.py']),
        (
            'train.py',
            [DEMO, '--data-root', 'nowhere'],
            ['nowhere', 'annotations/instances_train2017.json', '--data-root'],
        ),
        ('train.py', [DEMO, '--work-dir', '/proc/x', '--data-root', 'SHAPES'], ['/proc/x', '--work-dir']),
        ('train.py', [DEMO, '--resume', '--data-root', 'SHAPES'], ['work_dirs/cascade_convnext_atto_shapes', 'resume']),
        ('test.py', [DEMO, 'nowhere.pth', '--data-root', 'SHAPES'], ['nowhere.pth', 'does not exist']),
        ('predict.py', [DEMO, 'nowhere.pth', 'nowhere.jpg'], ['nowhere.jpg', 'does not exist']),
    ],
)
def test_what_is_not_there_is_named(tool, arguments, named, shapes, tmp_path, call_tool):
    sentence = refusal(call_tool(tool, *(shapes if a == 'SHAPES' else a for a in arguments), cwd=tmp_path))
    assert all(word in sentence for word in named)


def test_a_checkpoint_that_is_cut_off_or_of_another_model_is_refused(run, shapes, tmp_path, call_tool):
    data = (run[0] / 'iter_6.pth').read_bytes()
    (tmp_path / 'cut.pth').write_bytes(data[: len(data) // 2])
    sentence = refusal(call_tool('test.py', DEMO, 'cut.pth', '--data-root', shapes, cwd=tmp_path))
    assert 'cut.pth' in sentence and 'cut off' in sentence
    other = ['--cfg-options', 'model.backbone.arch=femto', 'model.neck.in_channels=[48,96,192,384]']
    sentence = refusal(call_tool('predict.py', DEMO, run[0] / 'iter_6.pth', shapes / 'val2017', *other, cwd=tmp_path))
    assert 'iter_6.pth does not fit' in sentence and 'backbone' in sentence


def test_an_image_that_cannot_be_decoded_is_named(run, tmp_path, call_tool):
    (tmp_path / 'broken.jpg').write_bytes(b'no image')
    sentence = refusal(call_tool('predict.py', DEMO, run[0] / 'iter_6.pth', 'broken.jpg', cwd=tmp_path))
    assert 'broken.jpg cannot be decoded' in sentence


@pytest.mark.slow
def test_the_benchmark_of_loading_has_a_row_for_each_contender(tmp_path, call_tool):
    result = call_tool('benchmark.py', 'load', '--arch', 'atto', '--repeat', '1', '--json', cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    report = json.loads(result.stdout)
    assert [row['contender'].split(',')[0] for row in report['rows']] == [
        'torch.load + load_state_dict',
        *2 * ['load_backbone'],
    ]
    assert all(row['seconds'] > 0 for row in report['rows'])


@pytest.mark.parametrize('case', ['other size', 'unknown format', 'weights alone'])
def test_a_detector_that_would_lack_weights_never_starts_to_train(case, run, shapes, tmp_path, call_tool):
    """Where the engine alone would only warn, or raise a KeyError."""
    whole = weights(run[0] / f'iter_{ITERATIONS}.pth')
    if case == 'unknown format':
        whole = {name.replace('dwconv', 'spatial'): tensor for name, tensor in whole.items()}
    torch.save(dict(state_dict=whole), tmp_path / 'x.pth')
    options = ['model.backbone.arch=femto', 'model.neck.in_channels=[48,96,192,384]'] if case == 'other size' else []
    if case == 'weights alone':
        result = train(shapes, 'out', '--resume', tmp_path / 'x.pth', cwd=tmp_path, how=call_tool)
        assert 'no training state to resume' in refusal(result)
        return
    result = train(shapes, 'out', options=[f'load_from={tmp_path}/x.pth', *options], cwd=tmp_path, how=call_tool)
    assert 'does not fill the backbone of the config' in refusal(result)
    assert 'Epoch(train)' not in result.stdout and not [*(tmp_path / 'out').glob('**/*.pth')]


def test_a_run_starts_from_the_weights_of_another_with_other_heads(run, shapes, tmp_path, call_tool):
    whole = weights(run[0] / f'iter_{ITERATIONS}.pth')
    torch.save({name: tensor for name, tensor in whole.items() if 'fc_cls' not in name}, tmp_path / 'x.pth')
    options = [f'load_from={tmp_path}/x.pth', 'train_cfg.max_epochs=1']
    result = train(shapes, 'out', options=options, cwd=tmp_path, how=call_tool)
    assert result.returncode == 0, result.stderr[-2000:]


@pytest.mark.slow
def test_a_detector_of_the_wrong_size_never_starts_to_train(shapes, tmp_path, call_tool):
    from convnext_backbone import ConvNeXt

    torch.save(ConvNeXt('femto').state_dict(), tmp_path / 'femto.pth')
    pretrained = ['model.backbone.init_cfg.type=Pretrained', f'model.backbone.init_cfg.checkpoint={tmp_path}/femto.pth']
    result = train(shapes, 'out', options=pretrained, cwd=tmp_path, how=call_tool)
    assert result.returncode == 2 and 'Traceback' not in result.stderr
    error = result.stderr[result.stderr.index('error: ') :].splitlines()
    assert 'which is atto, V1; nothing was loaded' in error[0] and len(error) < 24
    assert error[-1] == "The config line that fits: backbone=dict(type='ConvNeXt', arch='femto')"
    assert 'Epoch(train)' not in result.stdout and not [*(tmp_path / 'out').glob('**/*.pth')]
