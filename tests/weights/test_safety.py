"""Safety against crafted files, through every tool: no code runs, nothing is written, one sentence says why."""

import contextlib
import copy
import io
import pickle
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import REPOSITORY, refusal
from families import TINY, Code, tiny
from mmengine.config import Config
from mmengine.logging import MessageHub
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS, init_default_scope
from mmengine.runner import CheckpointLoader

from convnext_backbone import CheckpointError, CheckpointMismatch, ConvNeXt, UserError, load_backbone, read_checkpoint


def in_metadata(path: Path, harm: Path) -> None:
    torch.save(dict(state_dict=tiny(), meta=dict(note=Code(harm))), path)


def in_place_of_a_tensor(path: Path, harm: Path) -> None:
    torch.save(dict(state_dict=tiny() | {'stages.0.0.gamma': Code(harm)}), path)


def in_an_optimizer(path: Path, harm: Path) -> None:
    torch.save(dict(state_dict=tiny(), optimizer=dict(state={0: dict(step=Code(harm))}, param_groups=[])), path)


def in_the_format_before_zip(path: Path, harm: Path) -> None:
    torch.save(dict(state_dict=tiny(), meta=Code(harm)), path, _use_new_zipfile_serialization=False)


def in_a_tar(path: Path, harm: Path) -> None:
    """torch's first format: torch.serialization, `legacy_load`."""
    empty = pickle.dumps(0)
    members = {'sys_info': pickle.dumps({}), 'storages': empty + pickle.dumps([]), 'tensors': empty}
    members |= {'../../escaped': b'x', 'pickle': pickle.dumps(dict(meta=Code(harm)))}
    with tarfile.open(path, 'w') as archive:
        for name, content in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))


def in_a_plain_pickle(path: Path, harm: Path) -> None:
    path.write_bytes(pickle.dumps(dict(state_dict=Code(harm))))


def repacked(path: Path, state: object, compression: int = zipfile.ZIP_STORED, **more: bytes) -> None:
    """Write torch's zip format with additional entries."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    with zipfile.ZipFile(buffer) as source, zipfile.ZipFile(path, 'w', compression) as target:
        for entry in source.infolist():
            target.writestr(entry.filename, source.read(entry))
        for name, content in more.items():
            target.writestr(name, content)


def bomb(path: Path, harm: Path, size: int = 300_000_000) -> None:
    """Decompression bomb: a few hundred kilobytes that unpack to 300 MB."""
    repacked(path, dict(state_dict=dict(weight=torch.zeros(size, dtype=torch.uint8))), zipfile.ZIP_DEFLATED)


def bomb_that_lies(path: Path, harm: Path) -> None:
    """One whose directory claims that the large entry unpacks to 64 bytes."""
    size = 30_000_000
    bomb(path, harm, size)
    before, _, after = path.read_bytes().rpartition(size.to_bytes(4, 'little'))
    path.write_bytes(before + (64).to_bytes(4, 'little') + after)


def bomb_of_one_entry_many_times(path: Path, harm: Path) -> None:
    """All names of the directory refer to the same bytes."""
    repacked(path, dict(state_dict=dict(weight=torch.zeros(1_000_000, dtype=torch.uint8))))
    with zipfile.ZipFile(path, 'a') as archive:
        largest = max(archive.infolist(), key=lambda entry: entry.file_size)
        for number in range(300):
            twin = copy.copy(largest)
            twin.filename += str(number)
            archive.filelist.append(twin)
        archive.writestr('archive/more', b'')


def path_traversal(path: Path, harm: Path) -> None:
    repacked(path, dict(state_dict=tiny()), **{'../../escaped': b'x'})


def path_traversal_inside_of_the_archive(path: Path, harm: Path) -> None:
    repacked(path, dict(state_dict=tiny()), **{'archive/../../../escaped': b'x'})


REFUSED, UNREADABLE = 'was refused: ', 'cannot be read: '
CODE = {
    'metadata.pth': (in_metadata, REFUSED),
    'tensor.pth': (in_place_of_a_tensor, REFUSED),
    'optimizer.pth': (in_an_optimizer, REFUSED),
    'legacy.pth': (in_the_format_before_zip, REFUSED),
    'tar.pth': (in_a_tar, UNREADABLE),
    'pickle.pth': (in_a_plain_pickle, REFUSED),
    'pickle.safetensors': (in_a_plain_pickle, REFUSED),
}
CRAFTED = CODE | {
    'bomb.pth': (bomb, REFUSED),
    'lying_bomb.pth': (bomb_that_lies, UNREADABLE),
    'overlapping.pth': (bomb_of_one_entry_many_times, REFUSED),
    'climbing.pth': (path_traversal, REFUSED),
    'climbing_inside.pth': (path_traversal_inside_of_the_archive, REFUSED),
    'hf://owner/repository/../../x.pth': (None, 'is not an address of a file: '),
}
COMMANDS = {
    'init_cfg': 'train CONFIG --data-root DATA --work-dir out '
    '--cfg-options model.backbone.init_cfg.type=Pretrained model.backbone.init_cfg.checkpoint=FILE',
    'load_from': 'train CONFIG --data-root DATA --work-dir out --cfg-options load_from=FILE',
    'resume': 'train CONFIG --data-root DATA --work-dir out --resume FILE',
    'test': 'test CONFIG FILE --data-root DATA --work-dir out',
    'predict': 'predict CONFIG FILE DATA/val2017 --work-dir out',
    'convert': 'convert_checkpoint FILE out.safetensors',
}
OWN = 'deep/down', 'deep/temporary'  # working directory and temporary files of a run, below tmp_path


@pytest.fixture(scope='module')
def crafted(tmp_path_factory) -> Path:
    """The folder of the crafted files, deep enough for what climbs out of it to be found above; harm is done in it."""
    folder = tmp_path_factory.mktemp('crafted') / 'deep/down'
    folder.mkdir(parents=True)
    for name, (craft, _) in CRAFTED.items():
        if craft:
            craft(folder / name, folder / 'harm')
    return folder


@pytest.fixture(scope='module')
def config(tmp_path_factory) -> Path:
    """The demo's config in one file, as resolving its bases takes most of the time of a test."""
    path = tmp_path_factory.mktemp('config') / 'demo.py'
    Config.fromfile(REPOSITORY / 'configs/demo/cascade_convnext_atto_shapes.py').dump(path)
    return path


@pytest.fixture
def enter(config, shapes, tmp_path, monkeypatch, call_tool) -> Callable[..., subprocess.CompletedProcess]:
    """Pass a file to a tool by one of the commands."""
    for folder in OWN:
        (tmp_path / folder).mkdir(parents=True)
    monkeypatch.setattr(tempfile, 'tempdir', str(tmp_path / OWN[1]))

    def run(command: str, file: object, *options: str) -> subprocess.CompletedProcess:
        tool, *words = [*COMMANDS[command].split(), *options]
        for word, value in dict(CONFIG=config, DATA=shapes, FILE=file).items():
            words = [given.replace(word, str(value)) for given in words]
        return call_tool(f'{tool}.py', *words, cwd=tmp_path / OWN[0])

    return run


def found_outside(tmp_path: Path, crafted: Path) -> set[Path]:
    """All files around a run and the crafted files, apart from those of the run."""
    own = [tmp_path / folder for folder in OWN]
    found = {*tmp_path.rglob('*'), *crafted.parents[1].rglob('*')}
    return {path for path in found if not any(folder in path.parents for folder in own)}


@pytest.mark.parametrize('name', CRAFTED)
@pytest.mark.parametrize('command', COMMANDS)
def test_every_tool_refuses_crafted_files_and_runs_no_code(command, name, crafted, enter, tmp_path):
    craft, says = CRAFTED[name]
    file = crafted / name if craft else name
    before = found_outside(tmp_path, crafted)
    sentence = refusal(enter(command, file))
    assert f'The checkpoint {file} {says}' in sentence
    assert found_outside(tmp_path, crafted) == before
    assert not [path for path in tmp_path.rglob('*') if path.suffix in ('.pth', '.safetensors')]


@pytest.mark.parametrize('name', CODE)
def test_an_unsafe_reader_runs_the_crafted_files(name, tmp_path):
    """So that the test above can fail; even the files that cannot be read run their code."""
    CODE[name][0](tmp_path / name, tmp_path / 'harm')
    with (tmp_path / name).open('rb') as file, contextlib.suppress(RuntimeError):
        torch.load(file, weights_only=False)
    assert (tmp_path / 'harm').is_dir()


def test_every_scheme_of_mmengine_has_a_safe_loader():
    loaders = CheckpointLoader._schemes
    assert {'', 'file://', 'http://', 'https://'} <= loaders.keys() and len(loaders) > 8
    assert {load.__module__ for load in loaders.values()} == {'convnext_backbone.weights.safe_load'}


@pytest.mark.parametrize('key', ['trust', 'weights_only'])
@pytest.mark.parametrize('name', ['metadata.pth', 'legacy.pth'])
def test_no_setting_disables_safe_reading(name, key, crafted, monkeypatch):
    """Neither torch's environment variable nor keys of a config."""
    monkeypatch.setenv('TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD', '1')
    init_cfg = dict(type='Pretrained', checkpoint=str(crafted / name))
    with pytest.raises(CheckpointError, match='was refused'):
        ConvNeXt(TINY, init_cfg=init_cfg).init_weights()
    with pytest.raises(UserError):
        ConvNeXt(TINY, init_cfg={**init_cfg, key: key == 'trust'}).init_weights()
    with pytest.raises(CheckpointError, match='was refused'):
        CheckpointLoader.load_checkpoint(init_cfg['checkpoint'], map_location='cpu')
    assert not (crafted / 'harm').exists()


@pytest.fixture
def saved_run(config) -> dict:
    """Checkpoint of a run of the demo after its last epoch but one."""
    cfg = Config.fromfile(config)
    init_default_scope('mmdet')
    model = MODELS.build(cfg.model)
    hub = MessageHub('saved_run')
    hub.update_info('best_score', -1.0)
    optimizer = build_optim_wrapper(model, cfg.optim_wrapper)
    parts = dict(state_dict=model.state_dict(), optimizer=optimizer.state_dict(), message_hub=hub.state_dict())
    return dict(meta=dict(epoch=3, iter=9), **parts)


def test_a_config_in_the_metadata_is_never_run(enter, saved_run, tmp_path):
    """mmengine's Runner.resume parses meta['config'] as a config file, which is Python."""
    saved_run['meta'] |= dict(epoch=4, iter=12, config=f"x = __import__('os').mkdir({str(tmp_path / 'harm')!r})")
    torch.save(saved_run, tmp_path / 'x.pth')
    result = enter('resume', tmp_path / 'x.pth')
    assert result.returncode in (0, 2), result.stderr[-2000:]
    assert not (tmp_path / 'harm').exists()


def test_a_checkpoint_cannot_name_what_to_delete(enter, saved_run, tmp_path):
    """mmengine's CheckpointHook deletes the previous best checkpoint, whose path is in the checkpoint."""
    (tmp_path / 'photos').mkdir()
    hub = saved_run['message_hub']
    hub['runtime_info']['best_ckpt'] = str(tmp_path / 'photos')
    hub['resumed_keys']['best_ckpt'] = True
    torch.save(saved_run, tmp_path / 'x.pth')
    best = 'default_hooks.checkpoint.save_best=coco/bbox_mAP'
    result = enter('resume', tmp_path / 'x.pth', '--cfg-options', best, 'train_dataloader.batch_size=6')
    assert result.returncode in (0, 2), result.stderr[-2000:]
    assert (tmp_path / 'photos').is_dir()


class Made:
    """Unpickles to the result of a call, with a state."""

    def __init__(self, *reduced):
        self.reduced = reduced

    def __reduce__(self):
        return self.reduced


def test_forged_numpy_dtypes_cannot_dereference_bytes(tmp_path):
    """With a dtype of objects that claims to have none, numpy takes bytes of the file for addresses of objects."""
    dtype = Made(np.dtype, ('O8', False, True), (3, '|', None, None, None, -1, -1, 0))
    array = Made(np.ndarray, ((1,),), (1, (1,), dtype, False, b'ADDRESS!'))
    torch.save(dict(state_dict=tiny(), meta=dict(note=Made(set, (array,)))), tmp_path / 'x.pth')
    code = 'import sys; from convnext_backbone import read_checkpoint; read_checkpoint(sys.argv[1])'
    result = subprocess.run([sys.executable, '-c', code, tmp_path / 'x.pth'], capture_output=True, text=True)
    assert result.returncode == 1 and 'CheckpointError' in result.stderr.splitlines()[-1], result.stderr[-2000:]


@pytest.mark.parametrize(
    'tensor',
    [
        torch.full((4,), float('nan')),
        torch.tensor([1.0, 2.0, 3.0, float('inf')]),
        torch.ones(4, dtype=torch.int64),
        torch.ones(4, dtype=torch.complex64),
        torch.ones(4).to(torch.float8_e4m3fn),
        torch.ones(4).to_sparse(),
        torch.ones(4, device='meta'),
        torch.ones(1).expand(4),
        torch.ones(1).expand(1_000_000, 1_000_000),
        torch.nested.nested_tensor([torch.ones(2), torch.ones(2)]),
        torch.quantize_per_tensor(torch.ones(4), 1.0, 0, torch.qint8),
    ],
    ids=lambda tensor: f'{tensor.dtype} {tensor.layout}',
)
def test_tensors_without_plain_finite_numbers_are_refused(tensor, tmp_path):
    torch.save(tiny() | {'stages.2.0.gamma': tensor}, tmp_path / 'x.pth')
    model = ConvNeXt(TINY)
    with pytest.raises(UserError) as raised:
        load_backbone(model, tmp_path / 'x.pth')
    assert '\n' not in str(raised.value) and len(str(raised.value)) < 1000


def test_attributes_of_a_stored_tensor_do_not_shadow_its_methods(tmp_path):
    state = tiny()
    for name in ('sum', 'flatten', 'isfinite'):
        setattr(state['stages.2.0.gamma'], name, 'x')
    torch.save(state, tmp_path / 'x.pth')
    model = ConvNeXt(TINY)
    load_backbone(model, tmp_path / 'x.pth')
    assert torch.equal(model.stages[2][0].gamma, tiny()['stages.2.0.gamma'])


@pytest.mark.parametrize(
    'names',
    [
        [f'{number}.stages.0.0.norm.weight' for number in range(20_000)],
        [f'{"x." * number}stages.0.0.norm.weight' for number in range(2000)],
        [f'stages.0.{"9" * length}.norm.weight' for length in range(3000)],
        ['x.' * 1_000_000, 'x' * 1_000_000, '\x1b[2J\nerror: all is well', 'stages.0.0.norm.weight'],
    ],
    ids=['many backbones', 'deep', 'many digits', 'long'],
)
def test_pathological_names_are_refused_fast_and_in_short(names, tmp_path):
    torch.save(dict.fromkeys(names, torch.ones(1)), tmp_path / 'x.pth')
    with pytest.raises(CheckpointMismatch) as raised:
        load_backbone(ConvNeXt(TINY), tmp_path / 'x.pth')
    text = str(raised.value)
    assert len(text) < 5000 and text.replace('\n', '').isprintable() and '\nerror' not in text


def test_recursive_dicts_are_read_once(tmp_path):
    state = dict(model=tiny())
    state['model']['again'] = state
    torch.save(dict(a=state, b=[state]) | {f'c{number}': state for number in range(1000)}, tmp_path / 'x.pth')
    assert load_backbone(ConvNeXt(TINY), tmp_path / 'x.pth').loaded


@pytest.mark.parametrize(
    'source',
    ['hf://owner/repository@../x.pth', 'http://[::1', 'x' * 5000, 'a\nb.pth', 'a\x1b[2J.pth', 'a\0.pth', '.', ''],
    ids=lambda source: ascii(source[:20]),
)
def test_invalid_sources_are_refused_in_one_line(source):
    with pytest.raises(CheckpointError) as raised:
        read_checkpoint(source)
    assert str(raised.value).isprintable() and len(str(raised.value)) < 1000


@pytest.mark.parametrize('part', ['constants.pkl', 'archive_format'])
def test_programs_are_refused_with_the_remedy(part, tmp_path):
    """Of torch.jit, whose code is compressed, and of torch.export."""
    repacked(tmp_path / 'x.pth', dict(a=' ' * 9999), zipfile.ZIP_DEFLATED, **{f'archive/{part}': b''})
    with pytest.raises(CheckpointError, match='is a program .* and not weights; save the state_dict'):
        read_checkpoint(tmp_path / 'x.pth')
