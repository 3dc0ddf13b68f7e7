"""Exact: the numbers of the recipes on ImageNet are the papers' (V1: tables 5 and 6, section 3.3; V2: its code)."""

import functools
import math

import pytest
import torch
from conftest import REPOSITORY
from mmengine.config import Config
from mmengine.registry import MODELS, OPTIMIZERS, PARAM_SCHEDULERS, init_default_scope
from PIL import Image
from timm.data.transforms import RandomResizedCropAndInterpolation
from torch import nn
from torchvision.transforms import InterpolationMode, RandomHorizontalFlip

from convnext_backbone.datasets.timm_dataset import build_transform

ARCHS = dict(t='tiny', s='small', b='base', l='large', xl='xlarge')
PRETRAIN_1K = dict(t=(0.1, 82.1), s=(0.4, 83.1), b=(0.5, 83.8), l=(0.5, 84.3))  # stochastic depth, published top-1
PRETRAIN_22K = dict(t=0.0, s=0.0, b=0.1, l=0.1, xl=0.2)
ISOTROPIC = dict(s=(0.1, None, 78.7), b=(0.2, None, 82.0), l=(0.5, 1e-6, 82.6))
FINETUNE_1K = dict(b=(0.8, 85.1), l=(0.95, 85.5))
FINETUNE_22K = dict(
    t=(0.0, 82.9, 84.1), s=(0.1, 84.6, 85.8), b=(0.2, 85.8, 86.8), l=(0.3, 86.6, 87.5), xl=(0.4, 87.0, 87.8)
)
PRETRAINING = [f'pretrain_convnext_{size}_imagenet' for size in PRETRAIN_1K]
PRETRAINING_22K = [f'pretrain_convnext_{size}_imagenet22k' for size in PRETRAIN_22K]
PRETRAINING_ISOTROPIC = [f'pretrain_isotropic_{size}_imagenet' for size in ISOTROPIC]
FINETUNING_22K = [f'finetune_convnext_{size}_22k_{side}_imagenet' for size in FINETUNE_22K for side in (224, 384)]
FINETUNING_1K = [f'finetune_convnext_{size}_384_imagenet' for size in FINETUNE_1K]
URL = 'https://dl.fbaipublicfiles.com/convnext/convnext_{}.pth'
V2 = dict(atto='atto', femto='femto', pico='pico', nano='nano', t='tiny', b='base', l='large', h='huge')
FCMAE = 'https://dl.fbaipublicfiles.com/convnext/convnextv2/pt_only/convnextv2_{}_1k_224_fcmae.pt'
# After FCMAE: base rate, epochs, warm-up, layer decay, weight decay, drop path, mixup and CutMix, smoothing.
FINETUNE_V2 = dict(
    atto=(2e-4, 600, 0, (0.9, 'single'), 0.3, 0.1, (0.0, 0.0), 0.2),
    t=(8e-4, 300, 40, (0.9, 'single'), 0.05, 0.2, (0.8, 1.0), 0.1),
    b=(6.25e-4, 100, 20, (0.6, 'group'), 0.05, 0.1, (0.8, 1.0), 0.1),
)
NEAREST = dict(femto='atto', pico='atto', nano='atto', l='b', h='b')  # of the sizes that have numbers
FINETUNED_V2 = dict(atto=76.7, femto=78.5, pico=80.3, nano=81.9, t='83.0', b=84.9, l=85.8, h=86.3)


@functools.cache
def read(name: str) -> Config:
    return Config.fromfile(REPOSITORY / f'configs/{name}.py')


def decays(cfg: Config) -> list[float]:
    return [hook.decay for hook in cfg.custom_hooks if hook.type == 'AveragedWeightsHook']


@pytest.mark.parametrize('name', PRETRAINING + PRETRAINING_22K + PRETRAINING_ISOTROPIC)
def test_what_all_pretraining_shares(name):
    cfg = read(name)
    assert cfg.optim_wrapper.optimizer == dict(type='AdamW', lr=4e-3, betas=(0.9, 0.999), weight_decay=0.05)
    assert cfg.auto_scale_lr == dict(enable=False, base_batch_size=4096)
    assert cfg.optim_wrapper.accumulative_counts == 'auto' and 'clip_grad' not in cfg.optim_wrapper
    assert cfg.optim_wrapper.paramwise_cfg == dict(decay_rate=1.0)
    assert cfg.model.label_smoothing == 0.1 and 'head_init_scale' not in cfg.model
    assert cfg.model.data_preprocessor == dict(random_erasing=0.25, mixup_alpha=0.8, cutmix_alpha=1.0)
    check_augmentation(cfg, 224)
    epochs, warmup = (90, 5) if name in PRETRAINING_22K else (300, 50 if name in PRETRAINING_ISOTROPIC else 20)
    assert cfg.train_cfg.max_epochs == epochs
    rise, fall = cfg.param_scheduler
    assert (rise.type, rise.begin, rise.end) == ('LinearLR', 0, warmup) and rise.start_factor <= 1e-6
    assert (fall.type, fall.begin, fall.end, fall.T_max) == ('CosineAnnealingLR', warmup, epochs, epochs - warmup)
    assert fall.eta_min_ratio * 4e-3 == pytest.approx(1e-6)
    assert decays(cfg) == ([] if name in PRETRAINING_22K else [0.9999])


def check_augmentation(cfg: Config, size: int) -> None:
    train, test = cfg.train_dataloader, cfg.test_dataloader
    assert train.drop_last and train.dataset.is_training and not test.dataset.get('is_training')
    expected = dict(input_size=size, auto_augment='rand-m9-mstd0.5-inc1', interpolation='bicubic')
    assert train.dataset.transform == expected
    crop = dict(crop_pct=0.875) if size == 224 else dict(crop_pct=1.0, crop_mode='squash')
    assert test.dataset.transform == dict(input_size=size, interpolation='bicubic', **crop)


@pytest.mark.parametrize('size', PRETRAIN_1K)
def test_pretraining_1k(size):
    cfg = read(f'pretrain_convnext_{size}_imagenet')
    assert cfg.model.backbone == dict(type='ConvNeXt', arch=ARCHS[size], drop_path_rate=PRETRAIN_1K[size][0])
    assert cfg.model.num_classes == 1000


@pytest.mark.parametrize('size', PRETRAIN_22K)
def test_pretraining_22k(size):
    cfg = read(f'pretrain_convnext_{size}_imagenet22k')
    assert cfg.model.backbone == dict(type='ConvNeXt', arch=ARCHS[size], drop_path_rate=PRETRAIN_22K[size])
    assert cfg.model.num_classes == 21841 and cfg.train_dataloader.dataset.type == 'TimmShards'


@pytest.mark.parametrize('size', ISOTROPIC)
def test_pretraining_isotropic(size):
    rate, scale, _ = ISOTROPIC[size]
    expected = dict(type='ConvNeXtIsotropic', arch=ARCHS[size], drop_path_rate=rate)
    expected |= dict(layer_scale_init_value=scale) if scale else {}
    assert read(f'pretrain_isotropic_{size}_imagenet').model.backbone == expected


@pytest.mark.parametrize('name', FINETUNING_1K + FINETUNING_22K)
def test_what_all_finetuning_shares(name):
    cfg = read(name)
    assert cfg.optim_wrapper.optimizer == dict(type='AdamW', lr=5e-5, betas=(0.9, 0.999), weight_decay=1e-8)
    assert cfg.auto_scale_lr == dict(enable=False, base_batch_size=512)
    assert cfg.optim_wrapper.accumulative_counts == 'auto'
    rate = 0.7 if name in FINETUNING_1K else 0.8
    assert cfg.optim_wrapper.paramwise_cfg == dict(decay_rate=rate, decay_type='layer_wise')
    assert cfg.model.label_smoothing == 0.1 and cfg.model.head_init_scale == 0.001
    assert cfg.model.data_preprocessor == dict(random_erasing=0.25)  # no mixup, no CutMix
    check_augmentation(cfg, 224 if '_224_' in name else 384)
    assert cfg.train_cfg.max_epochs == 30
    fall = cfg.param_scheduler
    assert (fall.type, fall.begin, fall.end, fall.T_max) == ('CosineAnnealingLR', 0, 30, 30)
    assert fall.eta_min_ratio * 5e-5 == pytest.approx(1e-6)
    assert decays(cfg) == ([0.9999] if '_xl_' in name else [])


@pytest.mark.parametrize('size', FINETUNE_22K)
@pytest.mark.parametrize('side', [224, 384])
def test_finetuning_from_22k(size, side):
    cfg = read(f'finetune_convnext_{size}_22k_{side}_imagenet')
    assert cfg.model.backbone == dict(type='ConvNeXt', arch=ARCHS[size], drop_path_rate=FINETUNE_22K[size][0])
    assert cfg.model.init_cfg == dict(type='Pretrained', checkpoint=URL.format(f'{ARCHS[size]}_22k_224'))


@pytest.mark.parametrize('size', FINETUNE_1K)
def test_finetuning_from_1k(size):
    cfg = read(f'finetune_convnext_{size}_384_imagenet')
    assert cfg.model.backbone == dict(type='ConvNeXt', arch=ARCHS[size], drop_path_rate=FINETUNE_1K[size][0])
    weights = f'{ARCHS[size]}_1k_224' + ('_ema' if size == 'l' else '')  # the averaged ones for L alone
    assert cfg.model.init_cfg == dict(type='Pretrained', checkpoint=URL.format(weights))


@pytest.mark.parametrize('size', V2)
def test_pretraining_without_labels(size):
    cfg = read(f'fcmae_convnext_v2_{size}_imagenet')
    assert cfg.model == dict(
        type='MaskedAutoencoder',
        backbone=dict(type='ConvNeXt', arch=V2[size], use_grn=True),  # no drop path
        mask_ratio=0.6,
        patch_size=32,
        data_preprocessor=dict(type='ImagePreprocessor'),
    )
    optimizer = dict(type='AdamW', lr=1.5e-4 * 4096 / 256, betas=(0.9, 0.95), weight_decay=0.05)
    assert cfg.optim_wrapper.optimizer == optimizer and 'clip_grad' not in cfg.optim_wrapper
    assert cfg.optim_wrapper.paramwise_cfg == dict(decay_rate=1.0)
    assert cfg.auto_scale_lr == dict(enable=False, base_batch_size=4096)
    assert cfg.optim_wrapper.accumulative_counts == 'auto'
    assert cfg.train_cfg.max_epochs == 1600 and decays(cfg) == []
    rise, fall = cfg.param_scheduler
    assert (rise.type, rise.begin, rise.end) == ('LinearLR', 0, 40) and rise.start_factor <= 1e-6
    assert (fall.type, fall.begin, fall.end, fall.T_max) == ('CosineAnnealingLR', 40, 1600, 1560)
    assert fall.eta_min == 0 and 'eta_min_ratio' not in fall


def test_images_without_labels_are_cropped_and_flipped_and_nothing_else():
    data = read('fcmae_convnext_v2_t_imagenet').train_dataloader.dataset
    assert data.type == 'UnlabelledImages' and data.is_training
    crop, flip, to_bytes = build_transform(True, **data.transform).transforms
    assert isinstance(crop, RandomResizedCropAndInterpolation) and crop.size == (224, 224)
    assert (tuple(crop.scale), crop.interpolation) == ((0.2, 1.0), InterpolationMode.BICUBIC)
    assert isinstance(flip, RandomHorizontalFlip) and flip.p == 0.5
    assert to_bytes(Image.new('RGB', (4, 4), 'white')).dtype == torch.uint8


@pytest.mark.parametrize('size', V2)
def test_finetuning_after_pretraining_without_labels(size):
    cfg = read(f'finetune_convnext_v2_{size}_imagenet')
    row = FINETUNE_V2[NEAREST.get(size, size)]
    base_lr, epochs, warmup, (decay, kind), weight_decay, drop_path, (mixup, cutmix), smoothing = row
    lr = base_lr * 1024 / 256
    backbone = dict(type='ConvNeXt', arch=V2[size], use_grn=True, drop_path_rate=drop_path)
    assert cfg.model.backbone == backbone and cfg.model.head_init_scale == 0.001
    assert cfg.model.init_cfg == dict(type='Pretrained', checkpoint=FCMAE.format(V2[size]))
    optimizer = dict(type='AdamW', lr=pytest.approx(lr), betas=(0.9, 0.999), weight_decay=weight_decay)
    assert cfg.optim_wrapper.optimizer == optimizer
    assert cfg.optim_wrapper.paramwise_cfg == dict(decay_rate=decay, decay_type=kind)
    assert cfg.auto_scale_lr == dict(enable=False, base_batch_size=1024)
    assert cfg.optim_wrapper.accumulative_counts == 'auto'
    assert cfg.model.label_smoothing == smoothing
    assert cfg.model.data_preprocessor == dict(random_erasing=0.25, mixup_alpha=mixup, cutmix_alpha=cutmix)
    check_augmentation(cfg, 224)
    assert cfg.train_cfg.max_epochs == epochs and decays(cfg) == [0.9999]
    *rises, fall = cfg.param_scheduler
    assert [(rise.type, rise.begin, rise.end) for rise in rises] == [('LinearLR', 0, warmup)] * bool(warmup)
    assert (fall.type, fall.begin, fall.end, fall.T_max) == ('CosineAnnealingLR', warmup, epochs, epochs - warmup)
    assert fall.eta_min_ratio * lr == pytest.approx(1e-6)


@pytest.mark.parametrize('size', V2)
def test_a_config_with_the_numbers_of_another_size_says_so(size):
    text = (REPOSITORY / f'configs/finetune_convnext_v2_{size}_imagenet.py').read_text()
    nearest = NEAREST.get(size, '')
    said = f'Its numbers are those of {nearest.upper() if len(nearest) == 1 else nearest}, the nearest size'
    assert (said in text) == bool(nearest) and ('nearest' in text) == bool(nearest)


PUBLISHED = {
    **{f'pretrain_convnext_{size}_imagenet': row[-1] for size, row in PRETRAIN_1K.items()},
    **{f'pretrain_isotropic_{size}_imagenet': row[-1] for size, row in ISOTROPIC.items()},
    **{f'finetune_convnext_{size}_384_imagenet': row[-1] for size, row in FINETUNE_1K.items()},
    **{f'finetune_convnext_{size}_22k_224_imagenet': row[1] for size, row in FINETUNE_22K.items()},
    **{f'finetune_convnext_{size}_22k_384_imagenet': row[2] for size, row in FINETUNE_22K.items()},
    **{f'finetune_convnext_v2_{size}_imagenet': score for size, score in FINETUNED_V2.items()},
}


@pytest.mark.parametrize('name', PUBLISHED)
def test_a_config_quotes_the_published_score(name):
    assert f'Published: {PUBLISHED[name]} top-1.' in (REPOSITORY / f'configs/{name}.py').read_text().splitlines()[0]


@pytest.mark.parametrize(
    ('name', 'millions'),
    [
        ('pretrain_convnext_t_imagenet', 28.59),
        ('pretrain_convnext_s_imagenet', 50.22),
        ('pretrain_convnext_b_imagenet', 88.59),
        ('pretrain_convnext_l_imagenet', 197.77),
        ('finetune_convnext_xl_22k_384_imagenet', 350.20),
        ('finetune_convnext_v2_atto_imagenet', 3.71),
    ],
)
def test_a_classifier_has_the_papers_parameters(name, millions):
    init_default_scope('mmengine')
    with torch.device('meta'):
        model = MODELS.build(read(name).model)
    assert round(sum(p.numel() for p in model.parameters()) / 1e6, 2) == millions


@pytest.mark.parametrize(
    ('name', 'lowest'),
    [
        ('pretrain_convnext_t_imagenet', 1e-6),
        ('finetune_convnext_b_384_imagenet', 1e-6),
        ('finetune_convnext_v2_atto_imagenet', 1e-6),
        ('finetune_convnext_v2_t_imagenet', 1e-6),
        ('fcmae_convnext_v2_t_imagenet', 0),
    ],
)
def test_the_learning_rate_follows_the_official_schedule(name, lowest):
    """Step by step: a line from 0, then half a cosine; below its end only as far as layer decay scales it."""
    cfg = read(name)
    steps = max(2, 2100 // cfg.train_cfg.max_epochs)  # of an epoch
    optimizer = OPTIMIZERS.build(dict(cfg.optim_wrapper.optimizer, params=[nn.Parameter(torch.zeros(1))]))
    optimizer.param_groups.append({**optimizer.param_groups[0], 'lr': 0.5 * cfg.optim_wrapper.optimizer.lr})
    configs = cfg.param_scheduler if isinstance(cfg.param_scheduler, list) else [cfg.param_scheduler]
    schedulers = [PARAM_SCHEDULERS.build(dict(c, optimizer=optimizer, epoch_length=steps)) for c in configs]
    peak, epochs = cfg.optim_wrapper.optimizer.lr, cfg.train_cfg.max_epochs
    warmup = steps * (configs[0].end if len(configs) == 2 else 0)
    for step in range(steps * epochs):
        done = (step - warmup) / (steps * epochs - warmup)
        falling = lowest + 0.5 * (peak - lowest) * (1 + math.cos(math.pi * done))
        expected = peak * step / (warmup - 1) if step < warmup else falling
        lr, half = (group['lr'] for group in optimizer.param_groups)
        assert lr == pytest.approx(expected, rel=2e-2, abs=1e-8) and half == pytest.approx(lr / 2), step
        optimizer.step()
        for scheduler in schedulers:
            scheduler.step()
