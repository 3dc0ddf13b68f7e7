"""Exact: what moves with the length, the batches and the learning rate of a run, and what stays."""

import pytest
import torch
from conftest import REPOSITORY
from mmengine.registry import PARAM_SCHEDULERS, DefaultScope

from convnext_backbone.config.load import load_config
from convnext_backbone.config.schedule import Schedule, set_schedule
from convnext_backbone.utils.errors import UserError

CASCADE = 'cascade_convnext_t_coco'
UPERNET = 'upernet_convnext_t_ade20k'
FINETUNE = 'finetune_convnext_t_22k_224_imagenet'
PRETRAIN = 'pretrain_convnext_t_imagenet'


@pytest.fixture
def changed(monkeypatch):
    """A recipe that was changed, and the lines that say so."""
    for name in ('WORLD_SIZE', 'SLURM_NTASKS', 'OMPI_COMM_WORLD_SIZE'):
        monkeypatch.delenv(name, raising=False)

    def change(name, images=None, own_data=False, **asked):
        cfg = load_config(REPOSITORY / f'configs/{name}.py')
        return cfg, set_schedule(cfg, Schedule(**asked), images, own_data)

    return change


@pytest.mark.parametrize('name', [CASCADE, UPERNET, FINETUNE])
def test_nothing_is_changed_where_nothing_is_asked(name, changed):
    cfg, lines = changed(name)
    assert not lines and cfg.to_dict() == load_config(REPOSITORY / f'configs/{name}.py').to_dict()


def test_epochs_move_milestones_warm_up_and_intervals(changed):
    cfg, lines = changed(CASCADE, epochs=72)
    warm_up, steps = cfg.param_scheduler
    assert (cfg.train_cfg.max_epochs, cfg.train_cfg.val_interval, cfg.default_hooks.checkpoint.interval) == (72, 2, 2)
    assert (warm_up.end, steps.milestones, steps.end) == (1000, [54, 66], 72)
    assert (cfg.optim_wrapper.optimizer.lr, cfg.train_dataloader.batch_size) == (2e-4, 2)
    assert [' '.join(line.split()) for line in lines][0] == 'train_cfg.max_epochs 36 -> 72'


def test_epochs_of_a_recipe_in_iterations(changed):
    """300 images in batches of 4 are 75 iterations an epoch; 4 batches make the 16 images of a step."""
    cfg, _ = changed(UPERNET, images=300, epochs=40, batch_size=4)
    warm_up, poly = cfg.param_scheduler
    assert (cfg.train_cfg.max_iters, cfg.train_cfg.val_interval, cfg.default_hooks.checkpoint.interval) == (
        3000,
        300,
        75,
    )
    assert (warm_up.end, poly.begin, poly.end) == (28, 0, 3000)
    assert (cfg.optim_wrapper.accumulative_counts, cfg.optim_wrapper.optimizer.lr) == (4, 1e-4)


def test_iterations_of_a_recipe_in_epochs(changed):
    cfg, _ = changed(PRETRAIN, iters=3000)
    warm_up, cosine = cfg.param_scheduler
    assert (cfg.train_cfg.type, cfg.train_cfg.max_iters, cfg.train_cfg.val_interval) == ('IterBasedTrainLoop', 3000, 10)
    assert (warm_up.by_epoch, warm_up.end, cosine.begin, cosine.end, cosine.T_max) == (False, 200, 200, 3000, 2800)
    assert not any('convert_to_iter_based' in schedule for schedule in cfg.param_scheduler)
    assert cfg.train_dataloader.sampler.type == 'InfiniteSampler'
    assert (cfg.default_hooks.checkpoint.by_epoch, cfg.default_hooks.checkpoint.interval) == (False, 10)
    assert cfg.log_processor.by_epoch is False and cfg.default_hooks.logger.log_metric_by_epoch is False


def test_a_warm_up_in_steps_takes_a_tenth_of_a_short_run(changed):
    cfg, _ = changed(CASCADE, iters=200)
    assert [schedule.end for schedule in cfg.param_scheduler] == [20, 200]
    assert cfg.param_scheduler[1].milestones == [150, 183]


def test_batches_are_accumulated_to_the_images_of_the_recipe(changed):
    """So the rate stays; in a recipe in iterations, which are batches, as many more make the same number of steps."""
    cfg, _ = changed(CASCADE, batch_size=4)
    assert (cfg.train_dataloader.batch_size, cfg.optim_wrapper.accumulative_counts) == (4, 4)
    assert (cfg.optim_wrapper.optimizer.lr, cfg.train_cfg.max_epochs) == (2e-4, 36)
    cfg, _ = changed(UPERNET, batch_size=1)
    assert (cfg.optim_wrapper.accumulative_counts, cfg.train_cfg.max_iters) == (16, 16 * 160_000)
    assert cfg.param_scheduler[0].end == 16 * 1500


def test_processes_count(changed, monkeypatch):
    monkeypatch.setenv('WORLD_SIZE', '4')
    cfg, _ = changed(CASCADE, batch_size=2)
    assert cfg.optim_wrapper.accumulative_counts == 2


def test_other_images_a_step_scale_the_rate(changed):
    cfg, lines = changed(CASCADE, batch_size=4, batch_size_total=4)
    assert cfg.optim_wrapper.optimizer.lr == pytest.approx(5e-5)
    assert 'lr 0.0002 -> 5e-05: 4 images a step instead of 16' in [' '.join(line.split()) for line in lines]
    cfg, _ = changed(CASCADE, batch_size=4, batch_size_total=4, lr=1e-4)
    assert cfg.optim_wrapper.optimizer.lr == pytest.approx(1e-4)


def test_rates_that_a_schedule_ends_with_follow(changed):
    cfg, _ = changed('demo/cascade_convnext_atto_shapes', lr=2e-3)
    assert cfg.optim_wrapper.optimizer.lr == pytest.approx(2e-3)
    assert cfg.param_scheduler[1].eta_min == pytest.approx(2e-5)


def test_a_small_set_has_2000_steps(changed):
    """240 images are 15 steps of 16: 134 epochs, where the 36 of the recipe would be 540 steps."""
    cfg, _ = changed(CASCADE, images=240, own_data=True)
    assert (cfg.train_cfg.max_epochs, cfg.optim_wrapper.accumulative_counts) == (134, 8)
    assert cfg.param_scheduler[0].end == 201  # a tenth of the run
    cfg, _ = changed(UPERNET, images=300, own_data=True)
    assert cfg.train_cfg.max_iters == 107 * 150  # 107 epochs of 150 batches are 2,000 steps of 8 batches


def test_a_small_set_has_8_steps_an_epoch(changed):
    """200 images are 25 for each: steps of 16 instead of 512, at the rate by the square root."""
    cfg, lines = changed(FINETUNE, images=200, own_data=True, epochs=30)
    assert (cfg.train_dataloader.batch_size, cfg.optim_wrapper.accumulative_counts) == (16, 1)
    assert cfg.optim_wrapper.optimizer.lr == pytest.approx(5e-5 / 32**0.5)
    assert cfg.auto_scale_lr.base_batch_size == 16 and any('16 images a step instead of 512' in line for line in lines)
    assert cfg.train_cfg.max_epochs == 30


def test_a_large_set_of_ones_own_has_the_epochs_of_the_recipe(changed):
    cfg, _ = changed(CASCADE, images=50_000, own_data=True)
    assert cfg.train_cfg.max_epochs == 36 and cfg.param_scheduler[0].end == 500


@pytest.mark.parametrize(
    ('asked', 'named'),
    [
        (dict(epochs=0), '--epochs=0'),
        (dict(lr=-1.0), '--lr=-1.0'),
        (dict(epochs=3, iters=30), '--epochs 3 and --iters 30 are two lengths of one run'),
        (dict(batch_size=3, batch_size_total=8), '--batch-size-total 8 is no multiple of the 3 images'),
    ],
)
def test_what_cannot_be_followed_is_refused(asked, named, changed):
    with pytest.raises(UserError, match=named):
        changed(CASCADE, **asked)


def test_epochs_of_unknown_length_are_refused(changed):
    with pytest.raises(UserError, match='--epochs 3: the images of an epoch cannot be counted here; give --iters'):
        changed(UPERNET, epochs=3)


@pytest.mark.parametrize(
    ('images', 'asked', 'batch', 'count'), [(12, {}, 2, 2), (12, dict(batch_size=2), 2, 4), (3, {}, 2, 2)]
)
def test_an_epoch_has_a_step(images, asked, batch, count, changed):
    """12 images: by default steps of 4, the least, and with a batch size as near to the recipe's 16 as an epoch has."""
    cfg, _ = changed(CASCADE, images=images, own_data=True, **asked)
    assert (cfg.train_dataloader.batch_size, cfg.optim_wrapper.accumulative_counts) == (batch, count)


@pytest.mark.parametrize(
    ('name', 'asked'),
    [
        (PRETRAIN, dict(epochs=1)),
        (PRETRAIN, dict(iters=20)),
        (CASCADE, dict(iters=20)),
        ('demo/upernet_convnext_atto_camvid', dict(iters=20)),
        ('demo/fcmae_convnext_v2_atto_shapes', dict(epochs=1)),
    ],
)
@pytest.mark.parametrize('images', [8, 32])
def test_the_shortest_warm_up_ends_at_the_rate_of_the_run(name, asked, images, changed):
    cfg, _ = changed(name, images=images, own_data=True, **asked)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=1.0)
    length = max(1, images // cfg.train_dataloader.batch_size // cfg.optim_wrapper.accumulative_counts)
    with DefaultScope.overwrite_default_scope('mmengine'):
        defaults = dict(optimizer=optimizer, epoch_length=length)
        warm_up = PARAM_SCHEDULERS.build(dict(cfg.param_scheduler[0]), default_args=defaults)
    for _ in range(cfg.param_scheduler[0].end * length):
        optimizer.step()
        warm_up.step()
    assert optimizer.param_groups[0]['lr'] == pytest.approx(1.0)


@pytest.mark.parametrize(
    ('name', 'asked'),
    [
        (PRETRAIN, dict(epochs=1)),
        ('demo/pretrain_convnext_atto_shapes', dict(epochs=1)),
        ('demo/upernet_convnext_atto_camvid', dict(iters=1)),
        (CASCADE, dict(epochs=1)),
    ],
)
def test_the_shortest_run_has_room_for_each_schedule(name, asked, changed):
    """A warm-up of one epoch, and what follows it, are the same epoch then."""
    cfg, _ = changed(name, images=32, own_data=True, **asked)
    last = cfg.train_cfg.get('max_epochs') or cfg.train_cfg.max_iters
    spans = [(one.get('begin', 0), one.end) for one in cfg.param_scheduler if one.get('by_epoch', True) or last == 1]
    assert last == 1 and spans and all(begin < end for begin, end in spans)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=1.0)
    with DefaultScope.overwrite_default_scope('mmengine'):
        for one in cfg.param_scheduler:
            PARAM_SCHEDULERS.build(dict(one), default_args=dict(optimizer=optimizer, epoch_length=4))
