"""UperNet on ADE20K: recipe, sizes, data layout, sliding windows, --tta, resume. Exact.

Recipes that run are shrunk: every size in pixels by the same factor, nothing else.
"""

import functools
import itertools
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import REPOSITORY, refusal
from mmengine.config import Config
from mmengine.registry import DATASETS, METRICS, MODELS, OPTIMIZERS, PARAM_SCHEDULERS, RUNNERS, init_default_scope
from PIL import Image
from torch import nn

from convnext_backbone import read_checkpoint
from convnext_backbone.config.load import load_config
from convnext_backbone.config.machine import adapt_to_machine
from convnext_backbone.engine.layer_decay import num_layers

# The paper's table: arch, pre-training, crop, mIoU, mIoU of --tta, parameters in millions, rate, num_layers, drop path.
RECIPES = dict(
    upernet_convnext_t_ade20k=('tiny', '1k', 512, 46.0, 46.7, 60, 1e-4, 6, 0.4),
    upernet_convnext_s_ade20k=('small', '1k', 512, 48.7, 49.6, 82, 1e-4, 12, 0.3),
    upernet_convnext_b_ade20k=('base', '1k', 512, 49.1, 49.9, 122, 1e-4, 12, 0.4),
    upernet_convnext_b_22k_ade20k=('base', '22k', 640, 52.6, 53.1, 122, 1e-4, 12, 0.4),
    upernet_convnext_l_22k_ade20k=('large', '22k', 640, 53.2, 53.7, 235, 1e-4, 12, 0.4),
    upernet_convnext_xl_22k_ade20k=('xlarge', '22k', 640, 53.6, 54.0, 391, 8e-5, 12, 0.4),
)
SMALLEST, *OTHERS = RECIPES
RATIOS = (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)


@functools.cache
def read(name: str) -> Config:
    """A config, not to be changed."""
    return Config.fromfile(REPOSITORY / f'configs/{name}.py')


@pytest.mark.parametrize('name', RECIPES)
def test_the_optimizer_is_the_papers(name):
    cfg, rate = read(name), RECIPES[name][6]
    wrapper = cfg.optim_wrapper
    assert wrapper.optimizer == dict(type='AdamW', lr=rate, betas=(0.9, 0.999), weight_decay=0.05)
    assert (wrapper.type, wrapper.constructor) == ('AmpOptimWrapper', 'LayerDecayOptimWrapperConstructor')
    assert wrapper.paramwise_cfg == dict(decay_rate=0.9, decay_type='stage_wise') and 'clip_grad' not in wrapper
    assert (cfg.train_cfg.type, cfg.train_cfg.max_iters) == ('IterBasedTrainLoop', 160_000)
    assert cfg.train_dataloader.batch_size == 2
    assert cfg.auto_scale_lr == dict(enable=False, base_batch_size=8 * 2)


@pytest.mark.parametrize('name', [SMALLEST, 'upernet_convnext_xl_22k_ade20k'])
def test_the_learning_rate_follows_the_official_schedule(name):
    """At each step: linear from the peak to 0 at the last iteration, times a warm-up from 1e-6 over 1500 iterations."""
    cfg, peak = read(name), RECIPES[name][6]
    optimizer = OPTIMIZERS.build(dict(cfg.optim_wrapper.optimizer, params=[nn.Parameter(torch.zeros(1))]))
    schedulers = [PARAM_SCHEDULERS.build(dict(part, optimizer=optimizer)) for part in cfg.param_scheduler]
    for step in range(3000):
        warm = min(1, step / 1500 + 1e-6)
        assert optimizer.param_groups[0]['lr'] == pytest.approx(peak * warm * (1 - step / 160_000), rel=1e-3), step
        optimizer.step()
        for scheduler in schedulers:
            scheduler.step()


@pytest.mark.parametrize('name', RECIPES)
def test_the_images_are_scaled_and_cropped_as_in_the_paper(name):
    cfg, crop = read(name), RECIPES[name][2]
    load, annotations, resize, cut, flip, colours, pack = cfg.train_dataloader.dataset.pipeline
    assert resize == dict(type='RandomResize', scale=(4 * crop, crop), ratio_range=(0.5, 2.0), keep_ratio=True)
    assert cut == dict(type='RandomCrop', crop_size=(crop, crop), cat_max_ratio=0.75)
    assert (flip, colours.type) == (dict(type='RandomFlip', prob=0.5), 'PhotoMetricDistortion')
    assert cfg.model.data_preprocessor.size == (crop, crop)
    load, resize, annotations, pack = cfg.test_dataloader.dataset.pipeline
    assert resize == dict(type='Resize', scale=(4 * crop, crop), keep_ratio=True)
    assert cfg.val_dataloader == cfg.test_dataloader and cfg.val_evaluator == cfg.test_evaluator
    stride = {512: 341, 640: 426}[crop]
    assert cfg.model.test_cfg == dict(mode='slide', crop_size=(crop, crop), stride=(stride, stride))
    load, augment = cfg.tta_pipeline
    resizes, flips, annotations, pack = augment.transforms
    sides = [(int(4 * crop * ratio), int(crop * ratio)) for ratio in RATIOS]
    assert resizes == [dict(type='Resize', scale=side, keep_ratio=True) for side in sides]
    assert flips == [dict(type='RandomFlip', prob=prob) for prob in (0.0, 1.0)]


@pytest.mark.parametrize('name', RECIPES)
def test_the_model_is_the_papers(name):
    arch, data, _, _, _, millions, _, layers, drop_path = RECIPES[name]
    model = read(name).model
    url = f'https://dl.fbaipublicfiles.com/convnext/convnext_{arch}_{data}_224.pth'  # the final weights, not the EMA
    assert model.backbone == dict(
        type='ConvNeXt',
        arch=arch,
        drop_path_rate=drop_path,
        layer_scale_init_value=1.0,
        init_cfg=dict(type='Pretrained', checkpoint=url),
    )
    head, auxiliary = model.decode_head, model.auxiliary_head
    assert (head.type, head.channels, head.pool_scales, head.dropout_ratio) == ('UPerHead', 512, (1, 2, 3, 6), 0.1)
    assert (auxiliary.type, auxiliary.channels, auxiliary.num_convs) == ('FCNHead', 256, 1)
    assert (auxiliary.dropout_ratio, auxiliary.concat_input, auxiliary.in_index) == (0.1, False, 2)
    assert [h.loss_decode.loss_weight for h in (head, auxiliary)] == [1.0, 0.4]
    assert {h.num_classes for h in (head, auxiliary)} == {150}
    assert {h.norm_cfg.type for h in (head, auxiliary)} == {'SyncBN'}
    init_default_scope('mmseg')
    with torch.device('meta'):
        model = MODELS.build(model)
    assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(millions, abs=0.5)
    assert tuple(head.in_channels) == model.backbone.out_channels and len(head.in_index) == 4
    assert auxiliary.in_channels == model.backbone.out_channels[2]
    assert num_layers(model.backbone.depths) == layers


@pytest.mark.parametrize('name', RECIPES)
def test_a_config_quotes_the_published_scores(name):
    _, data, crop, score, augmented, *_ = RECIPES[name]
    first = (REPOSITORY / f'configs/{name}.py').read_text().splitlines()[0]
    assert f'ImageNet-{data.upper()}, ADE20K at {crop} pixels.' in first
    assert first.endswith(f'Published: {score} mIoU, {augmented} with --tta.')


@pytest.fixture(scope='module')
def ade20k(real_data):
    """Three images of ADE20K from the config's pipeline, their masks as stored, and the classes."""
    root = real_data / 'ade_samples/sampleData'
    cfg = load_config(REPOSITORY / f'configs/{SMALLEST}.py')  # --data-root would split these images
    init_default_scope('mmseg')
    settings = cfg.val_dataloader.dataset
    settings.data_root = str(root)
    settings.data_prefix = dict(img_path='images', seg_map_path='annotations')
    dataset = DATASETS.build(settings)
    assert len(dataset) == 3 and len(dataset.metainfo['classes']) == 150
    samples = [dataset[i]['data_samples'] for i in range(3)]
    masks = [np.array(Image.open(root / f'annotations/{Path(sample.img_path).stem}.png')) for sample in samples]
    assert all((mask == 0).any() for mask in masks)
    return samples, masks, dataset.metainfo


def mean_iou(ade20k, predictions) -> float:
    """The mIoU of predictions, arrays (H, W) of class ids from 0, by the config's metric."""
    samples, _, metainfo = ade20k
    metric = METRICS.build(read(SMALLEST).val_evaluator)
    metric.dataset_meta = metainfo
    outputs = [
        {**sample.to_dict(), 'pred_sem_seg': dict(data=torch.from_numpy(prediction.astype(int)))}
        for sample, prediction in zip(samples, predictions, strict=True)
    ]
    metric.process({}, outputs)
    return metric.evaluate(len(outputs))['mIoU']


def test_labels_are_those_of_the_mask_minus_one_at_full_size(ade20k):
    for sample, mask in zip(*ade20k[:2], strict=True):
        label = sample.gt_sem_seg.data[0].numpy()
        assert label.shape == mask.shape == sample.ori_shape
        assert (label[mask == 0] == 255).all() and (label[mask > 0] == mask[mask > 0] - 1).all()


@pytest.mark.parametrize('unlabelled', [0, 149])
def test_a_perfect_prediction_scores_100_whatever_the_unlabelled_pixels(unlabelled, ade20k):
    perfect = [np.where(mask == 0, unlabelled, mask.astype(int) - 1) for mask in ade20k[1]]
    assert mean_iou(ade20k, perfect) == 100


def test_a_prediction_off_by_one_scores_low(ade20k):
    """As of a model that was trained on the masks as stored."""
    assert mean_iou(ade20k, ade20k[1]) < 10


def test_a_prediction_that_confuses_two_classes_scores_less(ade20k):
    wrong = [mask.astype(int) - 1 for mask in ade20k[1]]
    ids, counts = np.unique(wrong[0][wrong[0] >= 0], return_counts=True)
    wrong[0][wrong[0] == ids[counts.argmax()]] = ids[counts.argmin()]
    assert 50 < mean_iou(ade20k, wrong) < 100


def shrink(node: object, by: int) -> None:
    """Divide all sizes in pixels below a config node, in place."""
    for key, value in node.items() if isinstance(node, dict) else enumerate(node):
        if key in ('scale', 'crop_size', 'size', 'stride'):
            node[key] = tuple(side // by for side in value)
        elif isinstance(value, (dict, list)):
            shrink(value, by)


def shrunk(name: str, by: int = 8, **flags: object) -> Config:
    """A recipe with all sizes in pixels divided and random weights; flags as of the tools."""
    cfg = load_config(REPOSITORY / f'configs/{name}.py', **flags)
    for part in ('model', 'train_dataloader', 'val_dataloader', 'test_dataloader', 'tta_pipeline'):
        shrink(cfg[part], by)
    cfg.model.backbone.init_cfg = None
    for loader in (cfg.train_dataloader, cfg.val_dataloader, cfg.test_dataloader):
        loader.update(num_workers=0, persistent_workers=False)
    return cfg


def check_iteration(name: str, data: Path, work_dir: Path) -> None:
    """Train a recipe for one iteration on crops of 64 or 80 pixels; no checkpoint, as that takes GB."""
    cfg = shrunk(name, data_root=str(data), work_dir=str(work_dir))
    cfg.merge_from_dict(dict(val_dataloader=None, val_evaluator=None, val_cfg=None, experiment_name=work_dir.name))
    cfg.merge_from_dict(dict(train_cfg=dict(max_iters=1), default_hooks=dict(logger=dict(interval=1))))
    cfg.default_hooks.checkpoint.save_last = False
    cfg.randomness = dict(seed=0)
    adapt_to_machine(cfg)
    runner = RUNNERS.build(cfg)
    runner.train()
    moments = runner.optim_wrapper.optimizer.state
    parameters = dict(runner.model.named_parameters())
    assert [name for name, p in parameters.items() if p not in moments] == []
    assert all(moments[p]['exp_avg'].isfinite().all() for p in parameters.values())
    assert parameters['decode_head.conv_seg.bias'].abs().max() > 0  # it began at 0
    logged = runner.message_hub.log_scalars
    assert {'train/aux.loss_ce', 'train/decode.acc_seg'} <= logged.keys()
    # To random weights one class is about as likely as another; the mean counts the pixels that are ignored, as 0.
    assert 0 < logged['train/decode.loss_ce'].current() < np.log(150) + 0.5


def test_the_smallest_recipe_trains(shapes, tmp_path):
    check_iteration(SMALLEST, shapes / 'ade', tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize('name', OTHERS)
def test_every_recipe_trains(name, shapes, tmp_path):
    """The largest takes 8 GB of memory."""
    check_iteration(name, shapes / 'ade', tmp_path)


def tiny() -> Config:
    """The recipe with the atto backbone and narrow heads."""
    cfg = shrunk(SMALLEST)
    cfg.model.backbone.arch = 'atto'
    cfg.model.decode_head.update(in_channels=[40, 80, 160, 320], channels=16)
    cfg.model.auxiliary_head.update(in_channels=160, channels=16)
    adapt_to_machine(cfg)
    return cfg


@pytest.fixture(scope='module')
def config(tmp_path_factory):
    """The tiny recipe as a file."""
    path = tmp_path_factory.mktemp('config') / 'tiny.py'
    path.write_text('\n'.join(f'{name} = {value!r}' for name, value in tiny().to_dict().items()))
    return path


@pytest.fixture(scope='module')
def model():
    """Random weights that predict five classes."""
    init_default_scope('mmseg')
    torch.manual_seed(0)
    model = MODELS.build(tiny().model).eval()
    with torch.no_grad():
        model.decode_head.conv_seg.weight.normal_()
        model.decode_head.conv_seg.bias[:5] += 100
    return model


@pytest.fixture(scope='module')
def checkpoint(model, tmp_path_factory):
    path = tmp_path_factory.mktemp('checkpoint') / 'tiny.pth'
    torch.save(dict(state_dict=model.state_dict()), path)
    return path


@torch.no_grad()
def test_a_sliding_window_covers_an_image_of_any_shape(model, monkeypatch):
    def logits(image, mode):
        shapes = dict(ori_shape=image.shape[2:], img_shape=image.shape[2:])
        monkeypatch.setitem(model.test_cfg, 'mode', mode)
        return model.inference(image, [shapes])

    assert (model.test_cfg.mode, model.test_cfg.crop_size, model.test_cfg.stride) == ('slide', (64, 64), (42, 42))
    image = torch.randn(1, 3, 100, 150, generator=torch.Generator().manual_seed(0))
    whole, slid = logits(image, 'whole'), logits(image, 'slide')
    assert slid.shape == whole.shape == (1, 150, 100, 150) and slid.isfinite().all()
    assert not torch.allclose(slid, whole, atol=1)
    window = image[..., :64, :64]
    torch.testing.assert_close(logits(window, 'slide'), logits(window, 'whole'))
    # The second window of a row begins at column 42, the second of a column at row 100 - 64.
    torch.testing.assert_close(slid[..., :36, :42], logits(window, 'whole')[..., :36, :42])


@torch.no_grad()
def average(model, image, ratios, flips) -> np.ndarray:
    """The class (H, W) of the largest mean probability over scales and flips of a BGR image."""
    height, width = image.shape[:2]
    mean, std = torch.tensor([123.675, 116.28, 103.53]), torch.tensor([58.395, 57.12, 57.375])
    total = 0
    for ratio, flip in itertools.product(ratios, flips):
        scale = min(256 * ratio / max(height, width), 64 * ratio / min(height, width))
        resized = cv2.resize(image, (int(width * scale + 0.5), int(height * scale + 0.5)))
        pixels = torch.from_numpy(resized[..., ::-1].copy()).float()
        inputs = ((pixels - mean) / std).permute(2, 0, 1)[None]
        inputs = inputs.flip(3) if flip else inputs
        logits = F.interpolate(model(inputs), inputs.shape[2:], mode='bilinear')
        logits = logits.flip(3) if flip else logits
        total = total + F.interpolate(logits, (height, width), mode='bilinear').softmax(1)
    return total[0].argmax(0).numpy()


def test_tta_averages_scales_and_flips(model, checkpoint, config, shapes, tmp_path, call_tool):
    """By the tool: masks equal the averages computed here, and the scores are theirs."""
    arguments = [config, checkpoint, '--data-root', shapes / 'ade', '--work-dir', 'out', '--tta', '--json']
    result = call_tool('test.py', *arguments, '--cfg-options', 'test_evaluator.output_dir=masks', cwd=tmp_path)
    assert result.returncode == 0, result.stderr[-3000:]
    scores = json.loads(result.stdout)
    assert scores.keys() == {'aAcc', 'mIoU', 'mAcc'}
    right = labelled = 0
    for path in sorted((shapes / 'ade/images/validation').iterdir()):
        found = np.array(Image.open(tmp_path / f'masks/{path.stem}.png')) - 1
        truth = np.array(Image.open(shapes / f'ade/annotations/validation/{path.stem}.png'))
        right += (found == truth - 1.0)[truth > 0].sum()
        labelled += (truth > 0).sum()
        image = cv2.imread(str(path))
        assert (found == average(model, image, RATIOS, (False, True))).mean() > 0.999
    for ratios, flips in ((RATIOS, (False,)), (RATIOS[1:], (False, True)), (RATIOS[:-1], (False, True))):
        assert (found == average(model, image, ratios, flips)).mean() < 0.99  # each of them counts
    assert scores['aAcc'] == pytest.approx(100 * right / labelled, abs=0.1)


def test_tta_loads_the_checkpoint_strictly(checkpoint, config, shapes, tmp_path, call_tool):
    state = read_checkpoint(checkpoint)['state_dict']
    del state['backbone.norm3.weight']
    torch.save(dict(state_dict=state), tmp_path / 'part.pth')
    arguments = [config, 'part.pth', '--data-root', shapes / 'ade', '--tta']
    sentence = refusal(call_tool('test.py', *arguments, cwd=tmp_path))
    assert 'part.pth does not fit' in sentence and 'backbone.norm3.weight' in sentence


def test_tta_needs_a_tta_pipeline(shapes, tmp_path, call_tool):
    detector = REPOSITORY / 'configs/demo/cascade_convnext_atto_shapes.py'
    sentence = refusal(call_tool('test.py', detector, 'x.pth', '--data-root', shapes, '--tta', cwd=tmp_path))
    assert all(word in sentence for word in (detector.name, 'tta_model', 'tta_pipeline'))


def test_missing_data_is_named(tmp_path, call_tool):
    recipe = REPOSITORY / f'configs/{SMALLEST}.py'
    for flags, place in (([], 'data/ade/ADEChallengeData2016'), (['--data-root', 'nowhere'], 'nowhere')):
        sentence = refusal(call_tool('train.py', recipe, *flags, cwd=tmp_path))
        assert all(w in sentence for w in (str(tmp_path / place), 'images/training', 'annotations/training'))
        assert '--data-root' in sentence


ITERATIONS = 6
RUN = [
    f'train_cfg.max_iters={ITERATIONS}',
    'train_cfg.val_interval=3',
    'param_scheduler.0.end=4',
    'default_hooks.checkpoint.interval=2',
    'default_hooks.logger.interval=1',
    'randomness.seed=3',
]


@pytest.mark.slow
def test_a_killed_run_resumes_to_the_same_weights(config, shapes, tmp_path, call_tool):
    """SIGKILL, then --resume: weights and scores equal those of an uninterrupted run, to the last bit."""
    flags = ['--data-root', shapes / 'ade', '--cfg-options', *RUN]
    command = [sys.executable, REPOSITORY / 'tools/train.py', config, '--work-dir', 'cut', *flags]
    process = subprocess.Popen(
        [*map(str, command)], cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    deadline = time.monotonic() + 300
    while not (tmp_path / 'cut/last_checkpoint').is_file():
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert not (tmp_path / f'cut/iter_{ITERATIONS}.pth').exists()  # it was stopped before its end
    last = []
    for name, resume in (('cut', ['--resume']), ('whole', [])):
        result = call_tool('train.py', config, '--work-dir', name, *resume, *flags, cwd=tmp_path)
        assert result.returncode == 0, result.stderr[-3000:]
        assert ('resumed epoch: 0, iter: ' in result.stdout) == bool(resume)
        scores = [
            line.split('aAcc')[1].split(' data_time')[0] for line in result.stdout.splitlines() if 'aAcc:' in line
        ]
        last.append((read_checkpoint(tmp_path / f'{name}/iter_{ITERATIONS}.pth')['state_dict'], scores[-1]))
        assert (tmp_path / name / 'curves.png').is_file()
    (resumed, its_score), (whole, score) = last
    assert its_score == score and 'mIoU' in score
    assert resumed.keys() == whole.keys()
    assert [name for name in whole if not torch.equal(whole[name], resumed[name])] == []
