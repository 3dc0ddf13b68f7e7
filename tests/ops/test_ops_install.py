"""How the operators get into mmcv, in throw-away environments. Behavioural."""

import importlib.metadata
import json
import os
import shutil
import subprocess
import sys
import zipfile
from importlib.machinery import EXTENSION_SUFFIXES
from importlib.util import find_spec
from pathlib import Path

import mmcv
import mmengine
import pytest
from conftest import REPOSITORY, refusal

from convnext_backbone.ops import OperatorsError, __main__, install, uninstall
from convnext_backbone.ops.status import status

MMCV = Path(mmcv.__file__).parent
# What pip calls mmcv without operators in this stack; OneDL's asks for its version by this name when it is imported.
LITE = 'onedl-mmcv' if importlib.metadata.packages_distributions()['mmcv'] == ['onedl-mmcv'] else 'mmcv-lite'


class Environment:
    """An environment without mmcv; all else is that of the tests."""

    def __init__(self, folder: Path) -> None:
        subprocess.run([sys.executable, '-m', 'venv', '--without-pip', folder], check=True)
        self.python = folder / 'bin/python'
        (self.site,) = folder.glob('lib/python*/site-packages')
        self.file = self.site / 'mmcv/_ext.py'
        shared = folder / 'shared'
        shared.mkdir()
        for path in Path(mmengine.__file__).parents[1].iterdir():
            if not path.name.startswith(('mmcv', 'onedl_mmcv')):
                (shared / path.name).symlink_to(path)
        (self.site / 'shared.pth').write_text(f'{shared}\n{REPOSITORY}\n')

    def run(self, *arguments: object) -> subprocess.CompletedProcess:
        environment = {name: value for name, value in os.environ.items() if name != 'PYTHONPATH'}
        command = [str(self.python), '-W', 'ignore', *map(str, arguments)]
        return subprocess.run(command, cwd=self.site.parent, env=environment, capture_output=True, text=True)

    def ops(self, *arguments: str) -> str:
        result = self.run('-m', 'convnext_backbone.ops', *arguments)
        assert result.returncode == 0, result.stderr
        return result.stdout.strip()

    def file_of_operators(self, first: str) -> str:
        """Where a script finds them that imports something before mmcv."""
        result = self.run('-c', f'import {first}; import mmcv._ext, mmcv.ops; print(mmcv._ext.__file__)')
        return result.stdout.splitlines()[-1] if result.returncode == 0 else result.stderr.splitlines()[-1]

    def pip(self, *arguments: object) -> None:
        command = [sys.executable, '-m', 'pip', '--python', self.python, *arguments]
        subprocess.run([*map(str, command)], check=True, capture_output=True)


def copy_mmcv(folder: Path) -> None:
    shutil.copytree(MMCV, folder, ignore=shutil.ignore_patterns('_ext*', '__pycache__'))


def mmcv_wheel(folder: Path, post: int) -> Path:
    """The installed mmcv, as a later release of the same version that pip can install."""
    copy_mmcv(folder / 'mmcv')
    version, files = f'{mmcv.__version__}.post{post}', [path for path in folder.rglob('*') if path.is_file()]
    name = f'{LITE.replace("-", "_")}-{version}'
    info, wheel = f'{name}.dist-info', folder / f'{name}-py3-none-any.whl'
    with zipfile.ZipFile(wheel, 'w') as archive:
        for path in files:
            archive.write(path, path.relative_to(folder))
        archive.writestr(f'{info}/METADATA', f'Metadata-Version: 2.1\nName: {LITE}\nVersion: {version}\n')
        archive.writestr(f'{info}/WHEEL', 'Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n')
        archive.writestr(f'{info}/RECORD', ''.join(f'{name},,\n' for name in archive.namelist()))
    return wheel


@pytest.mark.slow
def test_the_file_lets_mmdet_be_imported_first_and_survives_an_upgrade(tmp_path):
    environment = Environment(tmp_path / 'env')
    environment.pip('install', '--no-index', '--no-deps', mmcv_wheel(tmp_path / 'old', 1))
    assert environment.file_of_operators('mmcv.ops') == "ModuleNotFoundError: No module named 'mmcv._ext'"
    ours = environment.file_of_operators('convnext_backbone')
    assert ours == str(REPOSITORY / 'convnext_backbone/ops/stand_in.py') and not environment.file.exists()
    said = environment.ops('install')
    assert said == f'{environment.file} written: mmcv takes its operators from torchvision and convnext_backbone.'
    environment.pip('install', '--no-index', '--no-deps', '--upgrade', mmcv_wheel(tmp_path / 'new', 2))
    assert [path.name for path in environment.site.glob('*mmcv*.post*')] == [
        f'{LITE.replace("-", "_")}-{mmcv.__version__}.post2.dist-info'
    ]
    assert environment.file_of_operators('mmdet.apis, mmseg.apis') == str(environment.file)
    found = json.loads(environment.ops('status', '--json'))
    assert (found['kind'], found['file']) == ('torchvision', str(environment.file))
    assert len(found['milliseconds']['cpu']) == 3 and min(found['milliseconds']['cpu'].values()) > 0
    environment.pip('uninstall', '--yes', LITE)
    assert environment.ops('uninstall') == f'{environment.file} removed.'


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """The folder of an mmcv that comes before all others."""
    (tmp_path / 'mmcv').mkdir()
    (tmp_path / 'mmcv/__init__.py').touch()
    for name in [name for name in sys.modules if name == 'mmcv' or name.startswith('mmcv.')]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path / 'mmcv'


@pytest.mark.parametrize('first', ['ours', 'compiled'])
def test_compiled_operators_are_never_shadowed(folder, first):
    compiled = folder / f'_ext{EXTENSION_SUFFIXES[0]}'
    if first == 'ours':
        install()
        assert find_spec('mmcv._ext').origin == str(folder / '_ext.py')
    compiled.write_bytes(b'built for another torch')
    assert find_spec('mmcv._ext').origin == str(compiled)
    assert install() == f'mmcv has compiled operators, {compiled}, which are used: nothing to do.'
    assert (folder / '_ext.py').exists() == (first == 'ours')
    with pytest.raises(OperatorsError, match=f"^mmcv's compiled operators in {folder} do not load .*build them again"):
        status()


def test_without_a_file_python_finds_those_that_the_package_provides(folder):
    assert find_spec('mmcv._ext').origin == str(REPOSITORY / 'convnext_backbone/ops/stand_in.py')
    assert find_spec('mmcv.ops') is None  # the finder answers for nothing else


def test_installing_again_and_uninstalling(folder):
    path = folder / '_ext.py'
    assert install().startswith(f'{path} written: ')
    assert install() == f'{path} is there: nothing to do.'
    path.write_text('from convnext_backbone.ops.older import *')
    assert install().startswith(f'{path} written: ')
    assert uninstall() == f'{path} removed.'
    assert uninstall() == 'mmcv has no file of this package: nothing to do.'
    assert [path.name for path in folder.iterdir()] == ['__init__.py']


def test_what_is_somebody_elses_is_left_alone(folder):
    path = folder / '_ext.py'
    path.write_text('my = "own"')
    with pytest.raises(OperatorsError, match=f'^{path} is not of this package: remove it first'):
        install()
    assert uninstall() == 'mmcv has no file of this package: nothing to do.'
    assert path.read_text() == 'my = "own"'


def test_without_torchvision_status_says_what_is_missing(folder):
    (folder / '_ext.py').write_text('import no_torchvision')
    with pytest.raises(
        OperatorsError, match=r"^mmcv has no operators \(No module named 'no_torchvision'\): install the"
    ):
        status()


def test_refusals_are_one_sentence(folder, monkeypatch, capsys):
    def refused(command: str) -> str:
        monkeypatch.setattr(sys, 'argv', ['ops', command])
        return refusal(subprocess.CompletedProcess(command, __main__.main(), *capsys.readouterr()))

    (folder / '_ext.new').mkdir()
    assert refused('install').startswith(f'error: {folder / "_ext.py"} cannot be written (Is a directory): run this as')
    (folder / '__init__.py').unlink()  # what an uninstallation may leave
    monkeypatch.setattr(sys, 'path', [str(folder.parent)])
    for command in ('install', 'status'):
        assert refused(command).startswith('error: mmcv is not installed: run `pip install mmcv-lite==2.1.0`, or ')
