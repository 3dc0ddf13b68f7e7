"""Fuzzing: two thousand corrupted files each load or are refused in one sentence.

They are read in a separate process, which may crash or hang. To repeat that for a KIND of ``VALID`` and the seeds from
FIRST up to LAST: ``PYTHONPATH=tests python tests/weights/test_damage.py KIND FIRST LAST FOLDER``; the files that fail
stay in FOLDER.
"""

import faulthandler
import io
import os
import random
import resource
import subprocess
import sys
import traceback
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import REPOSITORY
from families import TINY, tiny
from mmengine.logging import MessageHub
from safetensors.torch import save_file

from convnext_backbone import CheckpointError, ConvNeXt, UserError, load_backbone


def training_state(path: Path) -> None:
    """The kinds of content that mmengine saves in a run."""
    hub = MessageHub('training_state')
    for number in range(3):
        hub.update_scalar('train/loss', 1.5 + number)
    hub.update_info('best_score', np.float64(0.5))
    optimizer = dict(state={0: dict(step=torch.tensor(1.0))}, param_groups=[dict(lr=1e-3, params=[0])])
    schedulers = [dict(last_step=np.int64(3))]
    meta = dict(epoch=1, iter=7, dataset_meta=dict(classes=('a', 'b'), palette=[(1, 2, 3)]))
    state = {f'backbone.{name}': tensor for name, tensor in tiny().items()}
    parts = dict(message_hub=hub.state_dict(), optimizer=optimizer, param_schedulers=schedulers)
    torch.save(dict(meta=meta, state_dict=state, **parts), path)


VALID = {
    'zip.pth': lambda path: torch.save(dict(model=tiny()), path),
    'legacy.pth': lambda path: torch.save(dict(model=tiny()), path, _use_new_zipfile_serialization=False),
    'model.safetensors': lambda path: save_file(tiny(), path),
    'state.pth': training_state,
}
SEEDS = 500  # of each kind
SECONDS = 10  # limit for loading one file
# Of the file formats: magic bytes, opcodes of pickles, characters of json, numbers that are too large.
WORDS = [b'PK\3\4', b'PK\5\6', b'cposix\nsystem\n', b'X\2\0\0\0ls\x85R', b'h\0', b'q\0', b'F32', b'-1', b'9' * 20]
WORDS += [b'\xff' * 4, b'\0' * 8, b'\xff' * 7 + b'\x7f', *(bytes([byte]) for byte in b'.()]}0RbQuats\x85\x86\x81[{"')]


def mutated(content: bytes, chance: random.Random) -> bytes:
    """One to three mutations, most of them near the ends, where file formats have their structure."""
    data = bytearray(content)
    for _ in range(chance.choice((1, 1, 1, 2, 3))):
        near, anywhere, other = chance.randrange(min(len(data), 4096)), *chance.choices(range(len(data)), k=2)
        start = chance.choice((near, near, len(data) - 1 - near, anywhere))
        length = chance.choice((1, 1, 2, 4, 8, chance.randint(1, 500)))
        word = chance.choice(WORDS)
        match chance.choice(('flip', 'flip', 'flip', 'noise', 'word', 'insert', 'delete', 'repeat', 'swap', 'cut')):
            case 'flip':
                data[start] ^= 1 << chance.randrange(8)
            case 'noise':
                data[start : start + length] = chance.randbytes(length)
            case 'word':
                data[start : start + len(word)] = word
            case 'insert':
                data[start:start] = word
            case 'delete':
                del data[start : start + length]
            case 'repeat':
                data[other:other] = data[start : start + length]
            case 'swap':
                one, two = data[start : start + length], data[other : other + length]
                data[start : start + length], data[other : other + length] = two, one
            case 'cut':
                del data[start:]
        data = data or bytearray(1)
    return bytes(data)


def corrupted(content: bytes, chance: random.Random) -> bytes:
    """A corrupted file; every second archive is intact but for one mutated entry with a correct checksum."""
    if content[:2] != b'PK' or chance.random() < 0.5:
        return mutated(content, chance)
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as source, zipfile.ZipFile(buffer, 'w') as target:
        names = source.namelist()
        chosen = chance.choice((*names, *[name for name in names if name.endswith('data.pkl')] * 3 * len(names)))
        for name in names:
            part = source.read(name)
            target.writestr(name, mutated(part, chance) if name == chosen else part)
    return buffer.getvalue()


def watch() -> list[str]:
    """The list to which an audit hook adds what no reading of weights does."""
    seen = []
    forbidden = {'os.system', 'os.exec', 'os.posix_spawn', 'os.fork', 'os.mkdir', 'os.remove', 'os.rename', 'os.rmdir'}
    forbidden |= {'subprocess.Popen', 'socket.connect', 'shutil.rmtree', 'pickle.find_class', 'ctypes.dlopen'}

    def hear(event: str, arguments: tuple) -> None:
        if event in forbidden or (event == 'open' and arguments[2] & (os.O_WRONLY | os.O_RDWR)):
            seen.append(f'{event}{arguments}')

    sys.addaudithook(hear)
    return seen


def complaint(model: ConvNeXt, path: Path) -> str:
    """What is wrong with how loading a file ended, or an empty text."""
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    try:
        load_backbone(model, path)
        model.load_state_dict(before)
        return ''
    except UserError as error:
        text = str(error)
        if isinstance(error, CheckpointError) and '\n' in text:
            return f'more than one line: {text}'
        if str(path) not in text or len(text) > 3000 or not text.replace('\n', '').isprintable():
            return f'unfit text: {text!r}'
        changed = [name for name, tensor in model.state_dict().items() if not torch.equal(before[name], tensor)]
        return f'refused, but the model changed: {changed}' if changed else ''
    except BaseException:
        return traceback.format_exc()


def read_corrupted_files(kind: str, first: int, last: int, folder: Path) -> int:
    """Create and load corrupted files; those that fail stay in the folder. Returns their number."""
    if hasattr(resource, 'RLIMIT_AS') and Path('/proc/self/statm').is_file():
        in_use = int(Path('/proc/self/statm').read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (in_use + 8 * 2**30,) * 2)
    VALID[kind](folder / kind)
    content = (folder / kind).read_bytes()
    model = ConvNeXt(TINY)
    assert not complaint(model, folder / kind)
    seen = watch()
    (folder / kind).unlink()
    assert seen.pop().startswith('os.remove')
    for seed in range(first, last):
        path = folder / f'{seed}-{kind}'  # a new name: tensors may be memory-mapped from the old file
        path.write_bytes(corrupted(content, random.Random(f'{seed} {kind}')))
        seen.clear()
        faulthandler.dump_traceback_later(SECONDS, exit=True)
        wrong = complaint(model, path)
        faulthandler.cancel_dump_traceback_later()
        if wrong or seen:
            print(f'{path.name}: {wrong} {seen}', file=sys.stderr)
        else:
            path.unlink()
    return len([*folder.iterdir()])


@pytest.mark.parametrize('kind', VALID)
def test_a_corrupted_file_loads_or_is_refused_in_one_sentence(kind, tmp_path):
    """No crash, no hang, no code run, nothing written, no partial loading."""
    command = [sys.executable, '-X', 'faulthandler', __file__, kind, '0', str(SEEDS), str(tmp_path)]
    result = subprocess.run(
        command, env={**os.environ, 'PYTHONPATH': str(REPOSITORY / 'tests')}, capture_output=True, text=True
    )
    left = sorted(path.name for path in tmp_path.iterdir())
    assert (result.returncode, left) == (0, []), result.stderr[-4000:]


if __name__ == '__main__':
    sys.exit(min(read_corrupted_files(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4])), 1))
