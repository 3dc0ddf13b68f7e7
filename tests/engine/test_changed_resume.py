"""A resume with another config, other data or other classes: honoured and logged, or refused by name. Exact."""

import re
from pathlib import Path

import pytest
import torch
from mmengine.hooks import Hook
from mmengine.runner import Runner
from test_resume import Augmented, CutOff, Toy, short_pause, train  # noqa: F401  (a fixture for all tests here)

from convnext_backbone import ResumableRunner, read_checkpoint
from convnext_backbone.engine.class_check import check_classes
from convnext_backbone.engine.resume import find_checkpoints
from convnext_backbone.utils.errors import ArgumentError, CheckpointError, CheckpointMismatch, NonFiniteError


class Rates(Hook):
    """Records the learning rate of each iteration."""

    def __init__(self):
        self.seen = {}

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        self.seen[runner.iter] = runner.optim_wrapper.get_lr()['lr'][0]


def rates(work_dir, loop, lr=0.01, resume=False, cut=None, **settings):
    """Train, and return the rates and the log."""
    record = Rates()
    optimizer = dict(type='AdamW', lr=lr, weight_decay=settings.pop('weight_decay', 0.1))
    settings['optim_wrapper'] = dict(optimizer=optimizer, accumulative_counts=settings.get('step', 1))
    train(work_dir, loop, 0, 5, cut=cut and CutOff(cut), resume=resume, hooks=[record], **settings)
    return record.seen, ''.join(path.read_text() for path in sorted(work_dir.glob('*/*.log'))[-1:])


LINEAR = dict(type='LinearLR', start_factor=0.1, by_epoch=False, end=10)
SCHEDULES = dict(
    longer=([LINEAR], [{**LINEAR, 'end': 14}]),
    another=([LINEAR], [dict(type='CosineAnnealingLR', by_epoch=False, T_max=15)]),
    more=([LINEAR], [LINEAR, dict(type='PolyLR', by_epoch=False, begin=10, end=15)]),
    none=([LINEAR], None),
    some=(None, [LINEAR]),
    milestones=(
        [dict(type='MultiStepLR', by_epoch=False, milestones=[3, 12])],
        [dict(type='MultiStepLR', by_epoch=False, milestones=[6, 13])],
    ),
)


def test_a_warm_up_of_a_single_step_is_refused(tmp_path):
    """mmengine would train all of the run at a tenth of the rate, and say nothing."""
    with pytest.raises(ArgumentError, match='LinearLR from step 0 to 1 .* stay at 0.1 .* let it end at 2 or later'):
        rates(tmp_path / 'one', 'epoch', param_scheduler=[{**LINEAR, 'end': 1}])
    seen, _ = rates(tmp_path / 'two', 'epoch', param_scheduler=[{**LINEAR, 'end': 2}])
    assert [seen[0], seen[1], seen[9]] == pytest.approx([0.001, 0.01, 0.01])


@pytest.mark.parametrize('loop', ['epoch', 'infinite'])
@pytest.mark.parametrize('lr', [0.01, 0.002])
@pytest.mark.parametrize('change', SCHEDULES)
def test_a_resumed_run_has_the_rates_of_its_config(change, lr, loop, tmp_path):
    """From its first iteration on those that a run with this config has from the start; a line says what changed."""
    before, after = SCHEDULES[change]
    rates(tmp_path / 'cut', loop, param_scheduler=before, cut=10)
    seen, log = rates(tmp_path / 'cut', loop, lr=lr, param_scheduler=after, resume=True)
    expected, _ = rates(tmp_path / 'whole', loop, lr=lr, param_scheduler=after)
    assert seen == {number: rate for number, rate in expected.items() if number >= 8} and len(seen) > 5
    (line,) = [line for line in log.splitlines() if 'has other settings than the checkpoint' in line]
    assert 'iteration 8' in line and ' -> ' in line
    if lr != 0.01 and change in ('longer', 'some'):
        assert 'optimizer.lr' in line


@pytest.mark.parametrize('step', [1, 2])
def test_schedules_by_epochs_follow_the_config(step, tmp_path):
    """Counted in optimizer steps, or in epochs."""
    schedules = [
        dict(type='PolyLR', by_epoch=True, begin=0, end=3, convert_to_iter_based=True),
        dict(type='StepLR', by_epoch=True, step_size=1, gamma=0.5),
    ]
    rates(tmp_path / 'cut', 'epoch', param_scheduler=[LINEAR], cut=10, step=step)
    seen, _ = rates(tmp_path / 'cut', 'epoch', param_scheduler=schedules, resume=True, step=step)
    expected, _ = rates(tmp_path / 'whole', 'epoch', param_scheduler=schedules, step=step)
    assert seen == {number: rate for number, rate in expected.items() if number >= 8} and len(seen) == 10


def test_other_settings_of_the_optimizer_are_named_and_hold(tmp_path):
    rates(tmp_path, 'infinite', cut=10)
    _, log = rates(tmp_path, 'infinite', resume=True, weight_decay=0.3)
    assert 'other settings than the checkpoint: optimizer.weight_decay 0.1 -> 0.3. Those' in log
    assert read_checkpoint(tmp_path / 'iter_15.pth')['optimizer']['param_groups'][0]['weight_decay'] == 0.3


@pytest.mark.parametrize('schedule', [LINEAR, dict(type='OneCycleLR', eta_max=0.1, total_steps=20, by_epoch=False)])
def test_an_unchanged_config_is_not_mentioned(schedule, tmp_path):
    expected, _ = rates(tmp_path / 'whole', 'epoch', param_scheduler=schedule)
    rates(tmp_path / 'cut', 'epoch', cut=10, param_scheduler=schedule)
    seen, log = rates(tmp_path / 'cut', 'epoch', resume=True, param_scheduler=schedule)
    assert seen == {number: rate for number, rate in expected.items() if number >= 8} and seen
    assert 'resumed epoch' in log and 'other settings' not in log and 'Other data' not in log


def spoil(folder, change):
    """Change the checkpoint to resume from."""
    path = find_checkpoints(folder)[0]
    checkpoint = torch.load(path, weights_only=False)  # not mapped to the file, which is replaced
    change(checkpoint)
    torch.save(checkpoint, path)


def test_the_schedules_in_a_file_are_not_loaded(tmp_path):
    """Not their settings, nor their place, nor attributes that would shadow their methods."""
    rates(tmp_path / 'cut', 'epoch', cut=10)
    crafted = dict(begin=0, end=10**9, last_step=-5, _global_step='x', step=5, optimizer=None, base_values=[9.0])
    spoil(tmp_path / 'cut', lambda checkpoint: checkpoint.update(param_schedulers=[crafted, 5]))
    seen, log = rates(tmp_path / 'cut', 'epoch', resume=True)
    expected, _ = rates(tmp_path / 'whole', 'epoch')
    assert seen == {number: rate for number, rate in expected.items() if number >= 8}
    assert 'param_scheduler 2 of them -> 1 of them' in log


class Scores(Hook):
    """A score that does not get better, as of a validation after each epoch."""

    def after_train_epoch(self, runner):
        runner.param_schedulers[0].step(dict(score=0.5))

    priority = 'HIGHEST'


def plateau(work_dir, lr=0.01, patience=0, **settings):
    schedule = dict(type='ReduceOnPlateauLR', monitor='score', rule='greater', patience=patience, factor=0.5)
    hooks = dict(checkpoint=dict(type='CheckpointHook', by_epoch=True, interval=1))
    record, cut = Rates(), settings.pop('cut', None)
    settings['optim_wrapper'] = dict(optimizer=dict(type='AdamW', lr=lr))
    settings |= dict(default_hooks=hooks, hooks=[Scores(), record])
    train(work_dir, 'epoch', 0, 5, cut=cut and CutOff(cut), param_scheduler=schedule, **settings)
    return record.seen


def test_a_schedule_that_follows_a_score_goes_on_where_it_was(tmp_path):
    whole = plateau(tmp_path / 'whole')
    assert len({*whole.values()}) == 2
    plateau(tmp_path / 'cut', cut=15)
    seen = plateau(tmp_path / 'cut', resume=True)
    assert seen == {number: rate for number, rate in whole.items() if number >= 12} and seen


@pytest.mark.parametrize(
    ('settings', 'words'),
    [
        (dict(patience=3), 'param_scheduler.0.patience 0 -> 3'),
        (dict(lr=0.1), 'optimizer.initial.0 0.01 -> 0.1'),
        (dict(best='high'), 'their numbers are invalid'),
    ],
)
def test_another_schedule_that_follows_a_score_is_refused(settings, words, tmp_path):
    """It cannot be replayed."""
    plateau(tmp_path, cut=15)
    if 'best' in settings:
        spoil(tmp_path, lambda checkpoint: checkpoint['param_schedulers'][0].update(settings))
        settings = {}
    with pytest.raises(CheckpointError, match=re.escape(words)):
        plateau(tmp_path, resume=True, **settings)


class More(Augmented):
    """More images."""

    def __len__(self):
        return 20


@pytest.mark.parametrize('stored', [True, False])
def test_other_data_are_honoured_from_the_end_of_an_epoch_and_refused_within(stored, tmp_path):
    """Also from checkpoints of earlier versions, which do not hold the number of images."""
    by_epochs = dict(default_hooks=dict(checkpoint=dict(type='CheckpointHook', by_epoch=True, interval=1)))
    poly = [dict(type='PolyLR', by_epoch=True, begin=0, end=3, convert_to_iter_based=True)]
    rates(tmp_path / 'end', 'epoch', cut=9, param_scheduler=poly, **by_epochs)
    rates(tmp_path / 'middle', 'epoch', cut=9, param_scheduler=poly)
    for folder in ('end', 'middle') if not stored else ():
        spoil(tmp_path / folder, lambda checkpoint: checkpoint['meta'].pop('images'))
    seen, log = rates(tmp_path / 'end', 'epoch', resume=True, dataset=More(), param_scheduler=poly)
    expected, _ = rates(tmp_path / 'whole', 'epoch', dataset=More(), param_scheduler=poly)
    assert seen == {number: rate for number, rate in expected.items() if number >= 10} and len(seen) == 20
    assert 'param_scheduler.0.end 18 -> 30' in log
    assert ('Other data: 20 training images, not 12. This is iteration 10.' in log) == stored
    words = 'middle of epoch 2 of 12 training images, not 20' if stored else 'middle of epoch 2 of 6 batches, not 10'
    with pytest.raises(CheckpointError, match=f'{words}: resume with the same data, or from the end of an epoch'):
        rates(tmp_path / 'middle', 'epoch', resume=True, dataset=More(), param_scheduler=poly)


def test_other_data_and_batches_of_a_run_by_iterations_are_logged(tmp_path):
    rates(tmp_path, 'infinite', cut=9)
    spoil(tmp_path, lambda checkpoint: checkpoint['meta'].update(images_per_batch=4))
    _, log = rates(tmp_path, 'infinite', resume=True, dataset=More())
    assert 'Other data: 20 training images, not 12. This is iteration 8.' in log
    assert 'Batches of 2 images, and not of 4: this is iteration 8.' in log


@pytest.mark.parametrize(
    ('loop', 'meta', 'words'),
    [
        ('epoch', dict(iter=10**12), 'meta.iter=1000000000000 and meta.epoch=1, which contradict each other'),
        ('epoch', dict(iter=3), 'meta.iter=3 and meta.epoch=1, which contradict each other'),
        ('epoch', dict(epoch=9), 'longer than train_cfg.max_epochs=3, for 9'),
        ('infinite', dict(iter=10**12), 'longer than train_cfg.max_iters=15, for 1000000000000'),
    ],
)
def test_counters_that_do_not_fit_the_run_are_refused(loop, meta, words, tmp_path):
    rates(tmp_path, loop, cut=9)
    spoil(tmp_path, lambda checkpoint: checkpoint['meta'].update(meta))
    with pytest.raises(CheckpointError, match=words):
        rates(tmp_path, loop, resume=True)


def test_a_checkpoint_of_the_engines_own_runner_resumes(tmp_path):
    """It holds no number of images or batches."""
    hooks = dict(checkpoint=dict(type='CheckpointHook', by_epoch=True, interval=1))
    rates(tmp_path / 'cut', 'epoch', cut=15, kind=Runner, default_hooks=hooks)
    assert 'images' not in read_checkpoint(tmp_path / 'cut/epoch_2.pth')['meta']
    seen, log = rates(tmp_path / 'cut', 'epoch', resume=True)
    expected, _ = rates(tmp_path / 'whole', 'epoch')
    assert seen == {number: rate for number, rate in expected.items() if number >= 12} and len(seen) == 6
    assert 'other settings' not in log and 'Other data' not in log


def test_a_checkpoint_of_an_earlier_version_resumes_exactly(tmp_path):
    """It holds no number of images."""
    rates(tmp_path / 'whole', 'epoch')
    rates(tmp_path / 'cut', 'epoch', cut=10)
    spoil(tmp_path / 'cut', lambda checkpoint: checkpoint['meta'].pop('images'))
    rates(tmp_path / 'cut', 'epoch', resume=True)
    one, other = (read_checkpoint(tmp_path / name / 'iter_18.pth')['state_dict'] for name in ('whole', 'cut'))
    assert all(torch.equal(one[name], other[name]) for name in one)


class Diverging(Toy):
    """A loss that is not finite once a weight is large."""

    def forward(self, inputs, mode='tensor'):
        loss = super().forward(inputs, mode)['loss']
        return dict(loss=loss / (self.layers[0].weight.abs().max() < 30))


def test_the_advice_after_a_loss_that_is_not_finite_works(tmp_path):
    """A lower rate from an earlier checkpoint: from the state just before it the loss would be the same again."""
    settings = dict(model=Diverging(), param_scheduler=None)
    hooks = dict(checkpoint=dict(type='CheckpointHook', by_epoch=False, interval=2, max_keep_ckpts=-1))

    def run(lr, **more):
        optimizer = dict(optimizer=dict(type='AdamW', lr=lr))
        finite = [dict(type='FiniteCheckHook')]
        train(tmp_path, 'infinite', 0, 5, optim_wrapper=optimizer, default_hooks=hooks, hooks=finite, **more)

    with pytest.raises(NonFiniteError) as stopped:
        run(8.0, **settings)
    failed, saved, earlier = re.search(
        r'not finite at iteration (\d+) .* in (\S+)\. .*If training diverged, lower the learning rate and go on with '
        r'--resume (\S+)\.$',
        str(stopped.value),
    ).groups()
    assert Path(saved).name == f'last_good_iter_{int(failed) - 1}.pth' and int(Path(earlier).stem[5:]) < int(failed) - 1
    with pytest.raises(NonFiniteError, match=f'not finite at iteration {failed} '):
        run(0.01, model=Diverging(), param_scheduler=None, resume=True)
    run(0.01, model=Diverging(), param_scheduler=None, resume=True, load_from=earlier)
    assert read_checkpoint(tmp_path / 'iter_15.pth')['meta']['iter'] == 15


def test_a_loss_that_is_not_finite_from_the_start_names_no_checkpoint(tmp_path):
    optimizer = dict(optimizer=dict(type='AdamW', lr=100.0))
    with pytest.raises(NonFiniteError, match=r'lower the learning rate and start again with another --work-dir\.$'):
        train(
            tmp_path, 'infinite', 0, 5, optim_wrapper=optimizer, model=Diverging(), param_scheduler=None,
            hooks=[dict(type='FiniteCheckHook')],
        )  # fmt: skip


class Renamed(Augmented):
    """Data of another class."""

    metainfo = dict(classes=('b',))


def test_a_resume_on_other_classes_is_refused(tmp_path):
    rates(tmp_path, 'infinite', cut=9)
    with pytest.raises(CheckpointMismatch, match="number 0 is 'a' in the checkpoint and 'b' in the data"):
        rates(tmp_path, 'infinite', resume=True, dataset=Renamed())


@pytest.mark.parametrize('dataset', [Augmented(), Renamed()])
@pytest.mark.parametrize('mode', ['val', 'test'])
def test_an_evaluation_on_other_classes_is_refused(mode, dataset, tmp_path):
    rates(tmp_path / 'out', 'infinite', cut=9)

    class Seen(Exception):
        pass

    class Stop(Hook):
        def before_val(self, runner):
            raise Seen

        before_test = before_val

    loader = dict(dataset=dataset, batch_size=1, sampler=dict(type='DefaultSampler', shuffle=False))
    parts = {f'{mode}_dataloader': loader, f'{mode}_cfg': dict(), f'{mode}_evaluator': []}
    runner = ResumableRunner(
        model=Toy(), work_dir=str(tmp_path / mode), load_from=str(tmp_path / 'out/iter_8.pth'), custom_hooks=[Stop()],
        experiment_name=f'{mode}_{type(dataset).__name__}', **parts,
    )  # fmt: skip
    with pytest.raises(Seen if type(dataset) is Augmented else CheckpointMismatch):
        getattr(runner, mode)()


def test_a_new_run_from_weights_of_other_classes_starts(tmp_path):
    rates(tmp_path / 'first', 'infinite', cut=9)
    seen, _ = rates(tmp_path / 'new', 'infinite', dataset=Renamed(), load_from=str(tmp_path / 'first/iter_8.pth'))
    assert len(seen) == 15


CLASSES = [
    (('cat', 'dog'), ['cat', 'dog'], None),
    (['cat', 'dog'], ('dog', 'cat'), "number 0 is 'cat' in the checkpoint and 'dog' in the data (2 and 2 in all)"),
    (['cat', 'dog'], ('cat',), "number 1 is 'dog' in the checkpoint and None in the data (2 and 1 in all)"),
    (['cat'], ('cat', 'dog'), "number 1 is None in the checkpoint and 'dog' in the data (1 and 2 in all)"),
    (['a\x1b[2J'], ('a\x1b[2J',), None),
    (['a\x1b[2J'], ('a',), r'number 0 is'),
    ((), ('cat',), None),
    (['cat'], (), None),
    (None, ('cat',), None),
    (['tench, Tinca tinca', 'goldfish'], ('n01440764', 'n01443537'), None),
    (['goldfish', 'tench, Tinca tinca'], ('n01440764', 'n01443537'), "number 0 is 'goldfish'"),
    (['n03126707'], ('n02012849',), "number 0 is 'n03126707'"),  # a crane and a crane
]


@pytest.mark.parametrize(('theirs', 'ours', 'words'), CLASSES)
def test_classes_are_compared_by_name_and_order(theirs, ours, words):
    class Data:
        metainfo = dict(classes=ours)

    checkpoint = dict(meta=dict(dataset_meta=dict(classes=theirs)))
    if words is None:
        check_classes(checkpoint, 'run.pth', Data())
        return
    with pytest.raises(CheckpointMismatch) as refused:
        check_classes(checkpoint, 'run.pth', Data())
    assert words in str(refused.value) and str(refused.value).isprintable()


def test_weights_and_data_without_classes_are_not_compared():
    check_classes(dict(layer=torch.ones(1)), 'weights.pth', Renamed())
    check_classes(dict(meta=dict(dataset_meta=dict(classes=('a',)))), 'run.pth', object())


@pytest.mark.parametrize('note', [b'/d\xfcrr/epoch_1.pth', b'x' * 5000, b'\0', b'', b'/', None])
def test_a_spoilt_note_of_the_last_checkpoint_is_passed_over(note, tmp_path):
    """Bytes that are no UTF-8, a name that is too long, or a folder in its place; and links to nowhere beside it."""
    for number in (1, 2):
        torch.save(dict(meta=dict(iter=number)), tmp_path / f'epoch_{number}.pth')
    if note is None:
        (tmp_path / 'last_checkpoint').mkdir()
    else:
        (tmp_path / 'last_checkpoint').write_bytes(note)
    (tmp_path / 'epoch_9.pth').symlink_to('/nowhere/epoch_9.pth')
    (tmp_path / 'iter_9.pth').mkdir()
    named = 'epoch_1.pth' if note and b'epoch' in note else 'epoch_2.pth'
    assert find_checkpoints(tmp_path)[0].name == named
    assert len(find_checkpoints(tmp_path)) == 2


def test_a_link_to_nowhere_is_no_checkpoint(tmp_path):
    (tmp_path / 'epoch_9.pth').symlink_to('/nowhere/epoch_9.pth')
    assert find_checkpoints(tmp_path) == []
