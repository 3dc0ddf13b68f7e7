"""Checkpoints: safe reading also through mmengine, strict loading, atomic writing."""

import os
import pickle

import numpy as np
import pytest
import torch
from families import Code
from mmengine.fileio import get_file_backend
from mmengine.logging import HistoryBuffer, MessageHub
from mmengine.runner import CheckpointLoader, load_checkpoint, save_checkpoint
from small_runs import find_checkpoint

from convnext_backbone import CheckpointError, CheckpointMismatch, ConvNeXt, UserError, load_backbone, read_checkpoint
from convnext_backbone.utils.files import write_atomically


@pytest.fixture
def crafted(tmp_path):
    """A checkpoint that creates a folder when unpickled, and the path of that folder."""
    harm = tmp_path / 'harm'
    state = dict(state_dict=ConvNeXt('atto').state_dict(), meta=dict(note=Code(harm)))
    torch.save(state, tmp_path / 'crafted.pth')
    return tmp_path / 'crafted.pth', harm


def training_state() -> dict:
    """The types of a checkpoint of mmengine."""
    hub = MessageHub.get_instance('test_checkpoint')
    hub.update_scalar('train/loss', 1.5)
    hub.update_info('best_score', np.float64(0.5))
    return dict(
        meta=dict(epoch=1, iter=7, dataset_meta=dict(classes=('a', 'b'), palette=[(1, 2, 3)])),
        message_hub=hub.state_dict(),
        optimizer=dict(state={0: dict(step=torch.tensor(1.0))}, param_groups=[dict(lr=1e-3, params=[0])]),
        param_schedulers=[dict(last_step=np.int64(3))],
        state_dict=dict(weight=torch.ones(2)),
    )


def test_mmengines_loader_reads_a_training_state(tmp_path):
    save_checkpoint(training_state(), str(tmp_path / 'state.pth'))
    state = CheckpointLoader.load_checkpoint(str(tmp_path / 'state.pth'), map_location='cpu')
    assert isinstance(state['message_hub']['log_scalars']['train/loss'], HistoryBuffer)
    assert state['message_hub']['log_scalars']['train/loss'].current() == 1.5
    assert state['meta']['dataset_meta']['classes'] == ('a', 'b')


def test_numpy_arrays_and_scalars_survive_loading_and_saving_again(tmp_path):
    """All kinds of numbers and text, memory layouts and byte orders; objects, records and dates are refused."""
    given = dict(
        floats=np.arange(6.0).reshape(2, 3),
        by_column=np.asfortranarray(np.arange(6).reshape(2, 3)),
        big_endian=np.arange(3, dtype='>i4'),
        empty=np.zeros((0, 3)),
        text=np.array(['ab', 'c']),
        truth=np.array([True, False]),
        scalar=np.float32(2),
        no=np.bool_(False),
        word=np.str_('x'),
    )
    state = given
    for _ in range(2):
        torch.save(state, tmp_path / 'x.pth')
        state = read_checkpoint(tmp_path / 'x.pth')
        for name, value in given.items():
            assert (
                np.array_equal(state[name], value)
                and np.asarray(state[name]).dtype.kind == np.asarray(value).dtype.kind
            )
    for refused in (np.array([None]), np.zeros(2, dtype=[('a', 'O')]), np.array(['2020-01-01'], dtype='M8[D]')):
        torch.save(dict(a=refused), tmp_path / 'x.pth')
        with pytest.raises(CheckpointError, match='numpy.dtype'):
            read_checkpoint(tmp_path / 'x.pth')


@pytest.mark.parametrize('read', [read_checkpoint, CheckpointLoader.load_checkpoint])
def test_a_crafted_file_is_refused_and_runs_no_code(read, crafted):
    path, harm = crafted
    with pytest.raises(CheckpointError) as raised:
        read(str(path))
    assert not harm.exists()
    assert str(path) in str(raised.value) and 'mkdir' in str(raised.value) and '\n' not in str(raised.value)
    with open(path, 'rb'):  # an unsafe reader does run it
        torch.load(path, weights_only=False)
    assert harm.is_dir()


@pytest.mark.parametrize('config', ['init_cfg', 'load_checkpoint'])
def test_models_refuse_crafted_files(config, crafted):
    path, harm = crafted
    with pytest.raises(CheckpointError):
        if config == 'init_cfg':
            ConvNeXt('atto', init_cfg=dict(type='Pretrained', checkpoint=str(path))).init_weights()
        else:
            load_checkpoint(ConvNeXt('atto'), str(path))
    assert not harm.exists()


class Reach:
    """Unpickles to an attribute of an allowed type, from which others could be reached."""

    def __reduce__(self):
        return getattr, (HistoryBuffer, '__init__')


def test_attributes_of_allowed_types_are_refused(tmp_path):
    torch.save(dict(meta=Reach()), tmp_path / 'x.pth')
    with pytest.raises(CheckpointError, match=r'getattr\(HistoryBuffer.__init__\)'):
        read_checkpoint(tmp_path / 'x.pth')


def test_a_plain_pickle_is_refused(tmp_path):
    (tmp_path / 'x.pth').write_bytes(pickle.dumps(Code(tmp_path / 'harm')))
    with pytest.raises(CheckpointError):
        read_checkpoint(tmp_path / 'x.pth')
    assert not (tmp_path / 'harm').exists()


@pytest.mark.parametrize('share', [0, 0.01, 0.5, 0.99])
def test_a_truncated_file_is_refused(tmp_path, share):
    torch.save(dict(state_dict=ConvNeXt('atto').state_dict()), tmp_path / 'whole.pth')
    data = (tmp_path / 'whole.pth').read_bytes()
    (tmp_path / 'cut.pth').write_bytes(data[: int(share * len(data))])
    with pytest.raises(CheckpointError) as raised:
        read_checkpoint(tmp_path / 'cut.pth')
    assert 'cut.pth' in str(raised.value) and '\n' not in str(raised.value)


def test_a_missing_file_and_an_unsafe_scheme_are_refused():
    with pytest.raises(CheckpointError, match='nowhere.pth does not exist'):
        read_checkpoint('nowhere.pth')
    with pytest.raises(CheckpointError, match='s3://bucket/x.pth was refused'):
        CheckpointLoader.load_checkpoint('s3://bucket/x.pth')


@pytest.mark.parametrize('suffix', ['.pth', '.safetensors'])
@pytest.mark.parametrize('version', ['V1', 'V2'])
def test_an_official_classifier_loads_completely(tmp_path, suffix, version):
    """Official layout: key 'model', with head and final norm, GRN as (1, 1, 1, 4C); the output norms are new."""
    torch.manual_seed(0)
    source = ConvNeXt('atto', use_grn=version == 'V2', out_norm=False)
    torch.nn.init.normal_(source.stages[0][0].pwconv1.bias)
    stored = {k: v.reshape(1, 1, 1, -1) if '.grn.' in k else v for k, v in source.state_dict().items()}
    stored |= {'norm.weight': torch.ones(320), 'head.weight': torch.ones(1000, 320)}
    if suffix == '.pth':
        torch.save(dict(model=stored), tmp_path / 'official.pth')
    else:
        from safetensors.torch import save_file

        save_file({k: v.contiguous() for k, v in stored.items()}, tmp_path / 'official.safetensors')
    model = ConvNeXt(
        'atto',
        use_grn=version == 'V2',
        init_cfg=dict(type='Pretrained', checkpoint=str(tmp_path / f'official{suffix}')),
    )
    model.init_weights()
    for name, tensor in source.state_dict().items():
        assert torch.equal(model.state_dict()[name], tensor), name
    report = load_backbone(model, tmp_path / f'official{suffix}')
    assert sorted(report.new) == sorted(f'norm{i}.{kind}' for i in range(4) for kind in ('weight', 'bias'))
    assert sorted(report.dropped) == ['head.weight', 'norm.weight']
    assert report.arch == f'atto, {version}'


@pytest.mark.parametrize('name', ['x.pth', 'pytorch_model.bin', 'x.safetensors'])
def test_safetensors_are_known_by_their_content(name, tmp_path):
    from safetensors.torch import save_file

    save_file(dict(weight=torch.ones(2)), tmp_path / name, metadata=dict(format='pt'))
    assert torch.equal(read_checkpoint(tmp_path / name)['weight'], torch.ones(2))


def test_the_backbone_of_a_detector_loads(tmp_path):
    source = ConvNeXt('atto')
    stored = {f'backbone.{k}': v for k, v in source.state_dict().items()} | {'neck.conv.weight': torch.ones(3)}
    torch.save(dict(state_dict=stored), tmp_path / 'detector.pth')
    report = load_backbone(ConvNeXt('atto'), tmp_path / 'detector.pth')
    assert report.dropped == ['neck.conv.weight'] and not report.new
    assert len(load_backbone(ConvNeXt('atto', out_indices=(1,)), tmp_path / 'detector.pth').dropped) == 87


@pytest.mark.parametrize(
    ('change', 'named'),
    [
        (lambda s: s.pop('stages.2.3.dwconv.weight'), 'missing: stages.2.3.dwconv.weight'),
        (lambda s: s.update({'stages.2.6.gamma': torch.ones(160)}), 'unexpected: stages.2.6.gamma'),
        (lambda s: s.update({'stages.0.0.gamma': torch.ones(41)}), 'mismatched: stages.0.0.gamma (41,) for (40,)'),
        (lambda s: s.clear(), 'not a ConvNeXt'),
    ],
)
def test_a_checkpoint_that_does_not_fit_is_refused_and_leaves_the_model_unchanged(tmp_path, change, named):
    stored = ConvNeXt('atto').state_dict()
    change(stored)
    torch.save(stored, tmp_path / 'x.pth')
    model = ConvNeXt('atto')
    before = {k: v.clone() for k, v in model.state_dict().items()}
    with pytest.raises(CheckpointMismatch) as raised:
        load_backbone(model, tmp_path / 'x.pth')
    assert named in str(raised.value)
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())


def test_a_checkpoint_of_another_arch_is_refused_with_both_names(tmp_path):
    torch.save(dict(model=ConvNeXt('femto').state_dict()), tmp_path / 'x.pth')
    with pytest.raises(
        CheckpointMismatch, match=r'backbone, which is atto, V1(.|\n)*x.pth \(femto, V1, 3 input channels\)'
    ):
        load_backbone(ConvNeXt('atto'), tmp_path / 'x.pth')


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / 'x.pth'
    backend = get_file_backend(str(path))
    backend.put(b'old', path)

    def full(descriptor):
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr(os, 'fsync', full)
    with pytest.raises(UserError, match='No space left on device'):
        backend.put(b'new', path)
    assert path.read_bytes() == b'old' and [p.name for p in tmp_path.iterdir()] == ['x.pth']


def test_mmengine_writes_checkpoints_atomically(tmp_path, monkeypatch):
    """When the file is replaced, the old one is intact and the new one complete under a temporary name."""
    path = tmp_path / 'x.pth'
    save_checkpoint(dict(a=1), str(path))
    seen = []
    replace = os.replace

    def watch(source, target):
        seen.append((torch.load(target, weights_only=True), torch.load(source, weights_only=True)))
        replace(source, target)

    monkeypatch.setattr(os, 'replace', watch)
    save_checkpoint(dict(a=2), str(path))
    assert seen == [(dict(a=1), dict(a=2))] and read_checkpoint(path) == dict(a=2)


def test_find_checkpoint_in_a_moved_folder_and_with_an_empty_note(tmp_path):
    assert find_checkpoint(tmp_path) is None
    for i, name in enumerate(('iter_9.pth', 'iter_10.pth')):
        (tmp_path / name).write_bytes(b'x')
        os.utime(tmp_path / name, (i, i))
    assert find_checkpoint(tmp_path).name == 'iter_10.pth'
    write_atomically(b'/moved/away/iter_9.pth', tmp_path / 'last_checkpoint')
    assert find_checkpoint(tmp_path).name == 'iter_9.pth'
    (tmp_path / 'last_checkpoint').write_text('')  # a kill between open and write
    assert find_checkpoint(tmp_path).name == 'iter_10.pth'
