"""Accuracies, the confusion matrix and the averaged weights, against timm's. Exact."""

import copy
import json
from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist
from mmengine.evaluator import BaseMetric
from mmengine.model import BaseModel
from mmengine.optim import OptimWrapper
from timm.utils import ModelEmaV2
from timm.utils import accuracy as timm_accuracy
from torch import nn

from convnext_backbone import AccuracyMetric, ArgumentError, AveragedWeightsHook, ResumableRunner, UserError
from convnext_backbone.evaluation.class_report import write_class_report

SCORES = torch.rand(40, 7, generator=torch.Generator().manual_seed(0))
LABELS = torch.randint(0, 7, (40,), generator=torch.Generator().manual_seed(1))


def evaluated(labels=LABELS, size=40) -> tuple[AccuracyMetric, dict]:
    metric = AccuracyMetric()
    metric.process(None, [dict(scores=s, label=label) for s, label in zip(SCORES, labels, strict=True)])
    return metric, metric.evaluate(size)


def test_accuracies_equal_timms():
    top1, top5 = (float(score) / 100 for score in timm_accuracy(SCORES, LABELS, topk=(1, 5)))
    assert evaluated()[1] == pytest.approx({'accuracy/top1': top1, 'accuracy/top5': top5})


def test_unreadable_images_do_not_count():
    labels = LABELS.clone()
    labels[:10] = -1
    top1, top5 = (float(score) / 100 for score in timm_accuracy(SCORES[10:], LABELS[10:], topk=(1, 5)))
    assert evaluated(labels)[1] == pytest.approx({'accuracy/top1': top1, 'accuracy/top5': top5})
    with pytest.raises(UserError, match='No image'):
        evaluated(torch.full((40,), -1))


def test_samples_that_a_sampler_repeats_are_cut_off():
    top1, _ = (float(score) / 100 for score in timm_accuracy(SCORES[:30], LABELS[:30], topk=(1, 5)))
    assert evaluated(size=30)[1]['accuracy/top1'] == pytest.approx(top1)


def test_all_shares_of_a_stream_count(monkeypatch):
    """Its size is that of this rank's share; that of the second rank may differ by one."""
    other = [(0, 7, [0, 1, 2, 3, 4])] * 3
    monkeypatch.setattr(
        'convnext_backbone.evaluation.accuracy.all_gather_object',
        lambda mine: [mine, True if isinstance(mine, bool) else other],
    )
    hits = int((SCORES.argmax(1) == LABELS).sum())
    assert evaluated()[1]['accuracy/top1'] == pytest.approx((hits + 3) / 43)


def evaluate_as_process(rank: int, folder: str, samples: list[list[int]], sizes: list[int]) -> None:
    """One of two processes: evaluates the samples that its rank was given."""
    dist.init_process_group('gloo', init_method=f'file://{folder}/meeting', rank=rank, world_size=2)
    metric = AccuracyMetric()
    metric.process(None, [dict(scores=SCORES[i], label=LABELS[i]) for i in samples[rank]])
    torch.save((metric.evaluate(sizes[rank]), metric.results), f'{folder}/{rank}.pth')
    dist.destroy_process_group()


@pytest.mark.parametrize('kind', ['sampler', pytest.param('stream', marks=pytest.mark.slow)])
def test_two_processes_count_every_sample_once(kind, tmp_path):
    if kind == 'sampler':  # dealt out in turn, the first sample repeated
        samples, sizes = [[*range(0, 39, 2)], [*range(1, 39, 2), 0]], [39, 39]
    else:
        samples, sizes = [[*range(19)], [*range(19, 39)]], [19, 20]
    torch.multiprocessing.spawn(evaluate_as_process, (str(tmp_path), samples, sizes), nprocs=2)
    top1, top5 = (float(score) / 100 for score in timm_accuracy(SCORES[:39], LABELS[:39], topk=(1, 5)))
    for rank in range(2):
        scores, left = torch.load(tmp_path / f'{rank}.pth')
        assert scores == pytest.approx({'accuracy/top1': top1, 'accuracy/top5': top5}) and left == []


def test_the_report_lists_the_accuracy_of_each_class(tmp_path):
    metric, scores = evaluated()
    expected = torch.zeros(7, 7, dtype=torch.long)
    for label, best in zip(LABELS, SCORES.argmax(1), strict=True):
        expected[label, best] += 1
    assert torch.equal(metric.confusion, expected)
    write_class_report(metric.confusion, [*'abcdefg'], tmp_path)
    rows = json.loads((tmp_path / 'per_class.json').read_text())
    assert [row['class'] for row in rows] == [*'abcdefg'] and sum(row['images'] for row in rows) == 40
    assert sum(row['top1'] * row['images'] for row in rows) / 40 == pytest.approx(scores['accuracy/top1'])
    worst = expected[2].clone()
    worst[2] = -1
    assert expected[2]['abcdefg'.index(rows[2]['taken_for'])] == worst.max()
    assert (tmp_path / 'confusion.png').read_bytes()[:4] == b'\x89PNG'


def test_the_confusion_matrix_of_a_thousand_classes_is_drawn(tmp_path):
    write_class_report(torch.eye(1000, dtype=torch.long), [str(i) for i in range(1000)], tmp_path)
    assert 5_000 < (tmp_path / 'confusion.png').stat().st_size < 500_000


class Toy(BaseModel):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 2)

    def forward(self, inputs, mode='tensor'):
        return dict(loss=self.layer(inputs).square().mean())


@pytest.mark.parametrize('accumulated', [1, 3])
def test_the_average_equals_timms_after_each_optimizer_step(accumulated):
    torch.manual_seed(0)
    model = Toy()
    theirs = ModelEmaV2(copy.deepcopy(model), decay=0.9)
    wrapper = OptimWrapper(torch.optim.SGD(model.parameters(), lr=0.1), accumulative_counts=accumulated)
    runner = SimpleNamespace(model=model, optim_wrapper=wrapper, _resume=False, logger=SimpleNamespace(info=print))
    hook = AveragedWeightsHook(decay=0.9)
    hook.before_train(runner)
    for i in range(6 * accumulated):
        with wrapper.optim_context(model):
            wrapper.update_params(model(torch.randn(4, 3))['loss'])
        hook.after_train_iter(runner, i)
        if (i + 1) % accumulated == 0:
            theirs.update(model)
    checkpoint = dict(meta={})
    hook.before_save_checkpoint(runner, checkpoint)
    for name, tensor in theirs.module.state_dict().items():
        torch.testing.assert_close(checkpoint['ema_state_dict'][name], tensor)
        assert not torch.allclose(tensor, model.state_dict()[name])


class Scored(Toy):
    """Its score is the first of its weights."""

    def forward(self, inputs, mode='tensor'):
        return [dict(score=self.layer.weight.detach()[0, 0])] * len(inputs)


class Score(BaseMetric):
    def process(self, data_batch, data_samples):
        self.results += [float(sample['score']) for sample in data_samples]

    def compute_metrics(self, results):
        return dict(score=sum(results) / len(results))


@pytest.mark.parametrize('mode', ['val', 'test'])
@pytest.mark.parametrize('averaged', [True, False])
def test_an_evaluation_alone_scores_the_average_of_a_checkpoint_that_holds_one(averaged, mode, tmp_path):
    model = Scored()
    checkpoint = dict(meta={}, state_dict=model.state_dict())
    if averaged:
        checkpoint['ema_state_dict'] = {name: torch.full_like(value, 7) for name, value in model.state_dict().items()}
    torch.save(checkpoint, tmp_path / 'run.pth')
    samples = [dict(inputs=torch.ones(3))] * 4
    loader = dict(dataset=samples, batch_size=2, sampler=dict(type='DefaultSampler', shuffle=False))
    loader['collate_fn'] = dict(type='default_collate')
    parts = {f'{mode}_dataloader': loader, f'{mode}_cfg': dict(), f'{mode}_evaluator': [Score()]}
    runner = ResumableRunner(
        model=model, work_dir=str(tmp_path), load_from=str(tmp_path / 'run.pth'), custom_hooks=[AveragedWeightsHook()],
        experiment_name=f'{mode}_{averaged}', **parts,
    )  # fmt: skip
    scores = getattr(runner, mode)()
    plain = dict(score=pytest.approx(float(model.layer.weight[0, 0].detach())))
    assert scores == (plain | dict(ema_score=7.0) if averaged else plain)


@pytest.mark.parametrize('decay', [0, 1, -0.5])
def test_an_invalid_decay_is_named(decay):
    with pytest.raises(ArgumentError, match=f'decay={decay}'):
        AveragedWeightsHook(decay)
