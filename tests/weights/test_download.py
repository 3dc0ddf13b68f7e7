"""Downloads against a local server: cached, resumed, verified."""

import hashlib
import io
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import safetensors.torch
import torch
from mmengine.runner import CheckpointLoader

from convnext_backbone import CheckpointError, ConvNeXt, load_backbone, read_checkpoint
from convnext_backbone.weights.download import cached_path, fetch_url

ONES = torch.ones(300_000)


def checkpoint_bytes(value: float = 1.0) -> bytes:
    file = io.BytesIO()
    torch.save({'weight': torch.full((300_000,), value)}, file)
    return file.getvalue()


class Server(ThreadingHTTPServer):
    """Serves ``files``, also by the Hugging Face Hub's protocol; cuts answers after ``limit`` bytes; records ranges."""

    def __init__(self) -> None:
        super().__init__(('127.0.0.1', 0), Handler)
        self.files: dict[str, bytes] = {}
        self.limit: int | None = None
        self.sends_etag = True
        self.knows_if_range = True
        self.sends_length = True
        self.shift = 0  # bytes by which a rest begins elsewhere than asked
        self.names: dict[str, dict[str, str]] = {}  # by path: ETag and commit in the place of the right ones
        self.asked: list[str | None] = []
        self.url = f'http://127.0.0.1:{self.server_address[1]}'


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_HEAD(self) -> None:
        self.answer(body=False)

    def do_GET(self) -> None:
        self.server.asked.append(self.headers['Range'])
        self.answer(body=True)

    def answer(self, body: bool) -> None:
        path = self.path.partition('?')[0]
        data, names = self.server.files.get(path), self.server.names.get(path, {})
        if data is None:
            self.send_response(404)
            self.send_header('X-Repo-Commit', names.get('commit', 'a' * 40))
            self.send_header('X-Error-Code', 'EntryNotFound')
            return self.end_headers()
        etag = names.get('etag', f'"{hashlib.md5(data).hexdigest()}"')
        start = 0
        if self.headers['Range'] and (self.headers.get('If-Range') == etag or not self.server.knows_if_range):
            start = int(re.match(r'bytes=(\d+)-', self.headers['Range'])[1]) + self.server.shift
        if start and start >= len(data):
            return self.send_error(416)
        self.send_response(206 if start else 200)
        if start:
            self.send_header('Content-Range', f'bytes {start}-{len(data) - 1}/{len(data)}')
        if self.server.sends_length:
            self.send_header('Content-Length', str(len(data) - start))
        if self.server.sends_etag:
            self.send_header('ETag', etag)
        self.send_header('X-Repo-Commit', names.get('commit', 'a' * 40))
        self.end_headers()
        if body:
            stop = len(data) if self.server.limit is None else start + self.server.limit
            self.wfile.write(data[start:stop])
        return None

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def server(tmp_path, monkeypatch) -> Iterator[Server]:
    monkeypatch.setattr(torch.hub, '_hub_dir', str(tmp_path / 'hub'))
    monkeypatch.setenv('no_proxy', '127.0.0.1')
    server = Server()
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize('read', [read_checkpoint, CheckpointLoader.load_checkpoint])
def test_a_file_is_downloaded_once_with_a_progress_bar(read, server, capsys):
    server.files['/a/x.pth'] = checkpoint_bytes()
    for _ in range(2):
        assert torch.equal(read(f'{server.url}/a/x.pth')['weight'], torch.ones(300_000))
    assert server.asked == [None]
    assert f'Downloading {server.url}/a/x.pth: 100%' in capsys.readouterr().err


def test_files_with_the_same_name_are_kept_apart(server):
    for number in (1, 2):
        server.files[f'/{number}/model.pth'] = checkpoint_bytes(number)
    for address in ('/1/model.pth', '/2/model.pth', '/2/model.pth?revision=x'):
        assert read_checkpoint(server.url + address)['weight'][0] == int(address[1])
    assert len({cached_path(server.url + path) for path in ('/model.pth', '/model.pth?a', '/model.pth?b')}) == 3


def test_paths_stay_inside_the_cache():
    for url in ('http://h/..%2f..%2fx.pth', 'http://h/..', 'http://h', 'http://h/a\\..\\b', 'http://h/%00.pth'):
        path = cached_path(url)
        assert path.parent == cached_path('http://h/x.pth').parent and re.fullmatch(r'[\w.-]+', path.name)


def test_an_interrupted_download_is_retried(server):
    data = server.files['/x.pth'] = checkpoint_bytes()
    server.limit = len(data) // 3 + 1
    assert fetch_url(f'{server.url}/x.pth').read_bytes() == data
    assert server.asked == [None, f'bytes={server.limit}-', f'bytes={2 * server.limit}-']


def test_a_failed_download_is_resumed_by_the_next_call(server):
    data = server.files['/x.pth'] = checkpoint_bytes()
    server.limit = 0
    with pytest.raises(CheckpointError, match=r'cannot be downloaded \(the connection broke after 0 of') as raised:
        fetch_url(f'{server.url}/x.pth')
    target = cached_path(f'{server.url}/x.pth')
    assert f'put the file at {target}' in str(raised.value) and not target.exists()
    part, note = (target.with_name(target.name + suffix) for suffix in ('.part', '.part.etag'))
    part.write_bytes(data[:1000])  # as a kill leaves it
    server.limit = None
    assert fetch_url(f'{server.url}/x.pth').read_bytes() == data
    assert server.asked[-1] == 'bytes=1000-'
    assert not part.exists() and not note.exists()


@pytest.mark.parametrize('sends_etag', [True, False])
def test_parts_of_two_versions_are_not_joined(sends_etag, server):
    server.sends_etag = sends_etag
    server.files['/x.pth'] = checkpoint_bytes(1)
    url, target = f'{server.url}/x.pth', cached_path(f'{server.url}/x.pth')
    server.limit = 0
    with pytest.raises(CheckpointError):
        fetch_url(url)
    target.with_name(f'{target.name}.part').write_bytes(server.files['/x.pth'][:1000])
    server.files['/x.pth'], server.limit = checkpoint_bytes(2), None
    assert read_checkpoint(url)['weight'].unique() == 2


@pytest.mark.parametrize(
    'fault', [dict(knows_if_range=False), dict(knows_if_range=False, sends_etag=False), dict(shift=-500)], ids=str
)
def test_a_rest_of_another_file_is_not_joined(fault, server):
    """Of a server that ignores If-Range, or that begins elsewhere than asked: the whole file is downloaded."""
    server.files['/x.pth'] = checkpoint_bytes(1)
    url = f'{server.url}/x.pth'
    server.limit = 1000
    part = cached_path(url).with_name(f'{cached_path(url).name}.part')
    part.parent.mkdir(parents=True)
    part.write_bytes(server.files['/x.pth'][:1000])  # as a kill leaves it
    part.with_name(f'{part.name}.etag').write_text(f'"{hashlib.md5(server.files["/x.pth"]).hexdigest()}"')
    if 'shift' not in fault:
        server.files['/x.pth'] = checkpoint_bytes(2)
    vars(server).update(fault, limit=None)
    assert fetch_url(url).read_bytes() == server.files['/x.pth']
    assert server.asked == ['bytes=1000-', None]


def test_a_server_that_never_sends_the_right_rest_is_given_up(server):
    server.files['/x.pth'] = checkpoint_bytes()
    server.limit, server.shift = 1000, 7
    with pytest.raises(CheckpointError, match='answered 206 with another part than was asked for'):
        fetch_url(f'{server.url}/x.pth')
    assert len(server.asked) == 4


TEXTS = {
    'a login page': b'<!DOCTYPE html>\n<html lang="en"><head><title>Please log in</title></head></html>' * 9,
    'a page in Chinese': '<html>\u8bf7\u767b\u5f55\u4ee5\u7ee7\u7eed\u8bbf\u95ee\u7f51\u7edc'.encode() * 9,
    'an error in json': b'{"error": "rate limit exceeded"}',
    'a pointer of git-lfs': b'version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 114374272\n',
    'words like a pickle': b'cannot be found\nsorry\n',
}


@pytest.mark.parametrize('read', [read_checkpoint, CheckpointLoader.load_checkpoint])
@pytest.mark.parametrize('suffix', ['pth', 'safetensors'])
@pytest.mark.parametrize('text', TEXTS)
def test_text_in_the_place_of_a_checkpoint_is_named_and_not_kept(text, suffix, read, server, tmp_path):
    (tmp_path / f'x.{suffix}').write_bytes(TEXTS[text])
    server.files[f'/x.{suffix}'] = TEXTS[text]
    begin = re.escape(' '.join(TEXTS[text].decode().split())[:12])
    for source in (str(tmp_path / f'x.{suffix}'), f'{server.url}/x.{suffix}'):
        with pytest.raises(CheckpointError, match=f'cannot be read: it is text that begins with .{begin}.*; copy or'):
            read(source)
    assert (tmp_path / f'x.{suffix}').is_file()
    server.files[f'/x.{suffix}'] = checkpoint_bytes() if suffix == 'pth' else safetensors.torch.save({'weight': ONES})
    assert torch.equal(read(f'{server.url}/x.{suffix}')['weight'], ONES)


@pytest.mark.parametrize('read', [read_checkpoint, CheckpointLoader.load_checkpoint])
@pytest.mark.parametrize('kept', [0, 1000, -1000])
def test_an_answer_that_was_cut_off_unnoticed_is_downloaded_again(kept, read, server):
    server.files['/x.pth'] = checkpoint_bytes()[:kept]
    server.sends_length = False
    with pytest.raises(CheckpointError, match='cut off or not a checkpoint'):
        read(f'{server.url}/x.pth')
    server.files['/x.pth'] = checkpoint_bytes()
    assert torch.equal(read(f'{server.url}/x.pth')['weight'], ONES)


def test_a_file_with_a_wrong_checksum_is_downloaded_again(server):
    """Of the length that was announced: only where it is read to the end is that noticed."""
    data = bytearray(checkpoint_bytes())
    data[len(data) // 2] ^= 1
    server.files['/x.pth'] = bytes(data)
    with pytest.raises(CheckpointError, match='the checksum of .* in it is wrong'):
        CheckpointLoader.load_checkpoint(f'{server.url}/x.pth')
    server.files['/x.pth'] = checkpoint_bytes()
    assert torch.equal(CheckpointLoader.load_checkpoint(f'{server.url}/x.pth')['weight'], ONES)


def test_a_cache_that_is_only_readable_serves(server, monkeypatch):
    for name, content in (('good', checkpoint_bytes()), ('bad', b'<html>')):
        path = cached_path(f'{server.url}/{name}.pth')
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)

    def forbidden(*_: object) -> None:
        raise PermissionError(13, 'Permission denied')

    monkeypatch.setattr('convnext_backbone.weights.download.FileLock', forbidden)
    monkeypatch.setattr(type(path), 'unlink', forbidden)
    assert torch.equal(read_checkpoint(f'{server.url}/good.pth')['weight'], ONES)
    with pytest.raises(CheckpointError, match=f'begins with .<html>.*It lies at {path}: remove it there first'):
        read_checkpoint(f'{server.url}/bad.pth')


def test_a_part_that_is_too_long_is_downloaded_again(server):
    data = server.files['/x.pth'] = checkpoint_bytes()
    target = cached_path(f'{server.url}/x.pth')
    target.parent.mkdir(parents=True)
    target.with_name(f'{target.name}.part').write_bytes(data + b'more')
    target.with_name(f'{target.name}.part.etag').write_text(f'"{hashlib.md5(data).hexdigest()}"')
    assert fetch_url(f'{server.url}/x.pth').read_bytes() == data


def test_concurrent_downloads_fetch_a_file_once(server):
    data = server.files['/x.pth'] = checkpoint_bytes()
    threads = [threading.Thread(target=fetch_url, args=(f'{server.url}/x.pth',)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert server.asked == [None] and fetch_url(f'{server.url}/x.pth').read_bytes() == data


@pytest.mark.parametrize('where', ['address', 'path'])
def test_the_sha256_is_verified(where, server, tmp_path):
    data = server.files['/x.pth'] = checkpoint_bytes()
    (tmp_path / 'x.pth').write_bytes(data)
    source = f'{server.url}/x.pth' if where == 'address' else str(tmp_path / 'x.pth')
    digest = hashlib.sha256(data).hexdigest()
    assert read_checkpoint(f'{source}#sha256={digest.upper()}')['weight'].sum() == 300_000
    for wrong in ('0' * 64, digest[:10], ''):
        with pytest.raises(CheckpointError, match=f'sha256 of the file is {digest}') as raised:
            read_checkpoint(f'{source}#sha256={wrong}')
        assert '\n' not in str(raised.value)
    assert (tmp_path / 'x.pth').exists() and not cached_path(f'{server.url}/x.pth').exists()


@pytest.mark.parametrize('path', ['/nowhere.pth', None])
def test_an_unavailable_address_is_named(path, server):
    url = f'{server.url}{path}' if path else 'http://127.0.0.1:9/x.pth'
    with pytest.raises(
        CheckpointError, match=rf'{re.escape(url)} cannot be downloaded \((Not Found|.*refused)'
    ) as raised:
        read_checkpoint(url)
    assert '\n' not in str(raised.value)


@pytest.mark.parametrize('scheme', ['torchvision', 'open-mmlab'])
def test_mmengines_short_names_are_read_safely(scheme, server):
    from mmengine.runner.checkpoint import get_external_models, get_torchvision_models

    urls = get_torchvision_models() if scheme == 'torchvision' else get_external_models()
    name = sorted(urls)[0]
    path = cached_path(urls[name])
    path.parent.mkdir(parents=True)
    path.write_bytes(checkpoint_bytes(5))  # as if downloaded
    assert CheckpointLoader.load_checkpoint(f'{scheme}://{name}')['weight'][0] == 5
    with pytest.raises(CheckpointError, match=f'{scheme}://nothing is unknown'):
        CheckpointLoader.load_checkpoint(f'{scheme}://nothing')


@pytest.mark.parametrize(
    'source', ['hf://owner/x.pth', 'hf://owner/repository/../../x.pth', 'hf://owner/repository/', 'hf:///a/b/c']
)
def test_an_invalid_address_on_the_hub_is_refused(source):
    with pytest.raises(CheckpointError, match='write hf://owner/repository/file'):
        read_checkpoint(source)


def test_a_file_on_the_hub_loads(server, tmp_path):
    """In a new process: huggingface_hub reads the address of the hub on import."""
    from safetensors.torch import save

    source = ConvNeXt('atto', out_norm=False)
    data = save({name: tensor.contiguous() for name, tensor in source.state_dict().items()})
    for revision in ('main', 'v2'):
        server.files[f'/owner/repository/resolve/{revision}/folder/model.safetensors'] = data
    code = """if True:
        import sys
        from convnext_backbone import CheckpointError, ConvNeXt, load_backbone
        for source in sys.argv[1:]:
            try:
                report = load_backbone(ConvNeXt('atto', out_norm=False), source)
                print(len(report.loaded), report.dialect)
            except CheckpointError as error:
                print(error)
    """
    files = ('/folder/model.safetensors', '@v2/folder/model.safetensors', '/nowhere.pth')
    result = subprocess.run(
        [sys.executable, '-c', code, *(f'hf://owner/repository{file}' for file in files)],
        env={**os.environ, 'HF_ENDPOINT': server.url, 'HF_HOME': str(tmp_path), 'HF_HUB_DISABLE_XET': '1'},
        capture_output=True,
        text=True,
    )
    tensors = len(source.state_dict())
    assert result.returncode == 0, result.stderr
    loaded = [line for line in result.stdout.splitlines() if line.startswith(str(tensors))]
    assert loaded == [f'{tensors} official'] * 2
    assert 'hf://owner/repository/nowhere.pth cannot be downloaded' in result.stdout.splitlines()[-1]


def test_names_from_a_server_lead_nowhere(server, tmp_path):
    """huggingface_hub names files by ETag and commit, also where it notes that a file is missing."""
    up = '../' * 6
    names = [dict(etag=f'"{up}out"'), dict(etag=f'"{tmp_path}/out"'), dict(etag='".."'), dict(commit=f'{up}out'), {}]
    paths = [f'/owner/{kind}{number}/resolve/main/x.pth' for kind in ('there', 'gone') for number in range(len(names))]
    server.names = dict(zip(paths, names + names, strict=True))
    server.files = dict.fromkeys(paths[: len(names)], checkpoint_bytes())
    code = """if True:
        import sys
        from convnext_backbone import CheckpointError, read_checkpoint
        for source in sys.argv[1:]:
            try:
                print(len(read_checkpoint(source)))
            except CheckpointError as error:
                print(error)
    """
    home = tmp_path / 'home/hub/of/many/folders'
    result = subprocess.run(
        [sys.executable, '-c', code, *(f'hf:/{path.replace("resolve/main/", "")}' for path in paths)],
        env={**os.environ, 'HF_ENDPOINT': server.url, 'HF_HOME': str(home), 'HF_HUB_DISABLE_XET': '1'},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    assert [path for path in tmp_path.rglob('*') if path.is_file() and home not in path.parents] == []
    assert {path.parts[-4] for path in home.rglob('x.pth')} == {'models--owner--there4'}
    said = result.stdout.splitlines()
    assert all('which is a path: check HF_ENDPOINT' in line for line in said[:4]) and said[4] == '1'
    assert all('cannot be downloaded (404 Not Found)' in line for line in said[5:])


def test_training_does_not_change_the_memory_mapped_file(server, tmp_path):
    torch.save(ConvNeXt('atto').state_dict(), tmp_path / 'x.pth')
    before = (tmp_path / 'x.pth').read_bytes()
    backbone = ConvNeXt('atto')
    load_backbone(backbone, tmp_path / 'x.pth')
    with torch.no_grad():
        for parameter in backbone.parameters():
            parameter.zero_()
    read_checkpoint(tmp_path / 'x.pth')['stages.0.0.gamma'].zero_()
    assert (tmp_path / 'x.pth').read_bytes() == before
