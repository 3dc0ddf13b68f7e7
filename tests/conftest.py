"""What several test modules share: running a tool as a user would, small drawn data, and the real data's place."""

import functools
import importlib.util
import os
import shutil
import subprocess
import sys
from collections import OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path

import mmengine.config.utils
import pytest
from filelock import FileLock
from mmengine.config import Config
from mmengine.logging import MMLogger
from mmengine.utils import ManagerMixin

if 'PYTEST_XDIST_WORKER' in os.environ:  # tests in parallel: threads of their own would only wait for each other
    os.environ.setdefault('OMP_NUM_THREADS', '1')

# The engine parses all index files of mmdet, half a second of them, for every config file with a base of mmdet's.
mmengine.config.utils.load = functools.cache(mmengine.config.utils.load)

REPOSITORY = Path(__file__).parents[1]


def run_tool(
    tool: str, *arguments: object, cwd: Path, timeout: float = 600, **options: object
) -> subprocess.CompletedProcess:
    """Runs a tool of this repository from another working directory."""
    command = [sys.executable, str(REPOSITORY / 'tools' / tool), *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=timeout, **options)


def managers(kind: type = ManagerMixin) -> Iterator[type]:
    """The engine's classes that keep their instances by name."""
    for derived in kind.__subclasses__():
        yield derived
        yield from managers(derived)


@pytest.fixture(autouse=True)
def small_maps_are_fused(request, monkeypatch):
    """Tests of the fused block have small maps, which would be computed layer by layer on a CPU."""
    if request.path.parent.name in ('analysis', 'models') and 'small_maps' not in request.keywords:
        for name in ('SMALL', 'LIGHT'):
            monkeypatch.setattr(f'convnext_backbone.models.block_choice.{name}', 0)


@pytest.fixture
def call_tool(monkeypatch, capsys) -> Iterator[Callable[..., subprocess.CompletedProcess]]:
    """Runs a tool's `main` in this process, for what ends before much is done: a process takes seconds to start."""
    monkeypatch.setenv('LOCAL_RANK', '0')
    monkeypatch.syspath_prepend(REPOSITORY / 'tools')  # the folder of a script that runs
    monkeypatch.setattr(Config, 'pretty_text', '')  # which takes seconds to lay out
    hook = sys.unraisablehook  # pytest's warns; a tool's would print what is no word of the tool
    for kind in managers():  # a name is good for one run a second
        monkeypatch.setattr(kind, '_instance_dict', OrderedDict())

    def call(tool: str, *arguments: object, cwd: Path) -> subprocess.CompletedProcess:
        path = REPOSITORY / 'tools' / tool
        monkeypatch.chdir(cwd)
        monkeypatch.setattr(sys, 'argv', [str(path), *map(str, arguments)])
        spec = importlib.util.spec_from_file_location(path.stem, path)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        sys.unraisablehook = hook
        return subprocess.CompletedProcess(sys.argv, module.main(), *capsys.readouterr())

    yield call
    for logger in MMLogger._instance_dict.values():
        for handler in logger.handlers:
            handler.close()


def refusal(result: subprocess.CompletedProcess) -> str:
    """The one sentence of a tool that refused; fails unless it did so properly: exit code 2 and no traceback."""
    assert result.returncode == 2, result.stderr[-2000:]
    assert 'Traceback' not in result.stderr
    lines = [line for line in result.stderr.splitlines() if line.startswith('error: ')]
    assert len(lines) == 1 and result.stderr.rstrip().endswith(lines[0]), result.stderr[-2000:]
    return lines[0]


@pytest.fixture(scope='session')
def make_once(tmp_path_factory) -> Callable[[str, Callable[[Path], None]], Path]:
    """Fills a folder that is expensive to fill once for all processes that share the tests."""
    base = tmp_path_factory.getbasetemp()
    base = base.parent if 'PYTEST_XDIST_WORKER' in os.environ else base

    def make(name: str, fill: Callable[[Path], None]) -> Path:
        folder = base / name
        with FileLock(f'{folder}.lock'):
            if not (folder / 'filled').exists():
                shutil.rmtree(folder, ignore_errors=True)  # of a try that failed
                folder.mkdir()
                fill(folder)
                (folder / 'filled').touch()
        return folder

    return make


@pytest.fixture(scope='session')
def run_once(make_once) -> Callable[[str, Callable[..., subprocess.CompletedProcess]], tuple[Path, str]]:
    """A training that many tests look at: its work_dir, and what it printed."""

    def run(name: str, train: Callable[..., subprocess.CompletedProcess]) -> tuple[Path, str]:
        def fill(folder: Path) -> None:
            result = train(cwd=folder)
            assert result.returncode == 0, result.stderr[-3000:]
            (folder / 'stdout').write_text(result.stdout)

        folder = make_once(name, fill)
        return folder / 'out', (folder / 'stdout').read_text()

    return run


@pytest.fixture(scope='session')
def shapes(make_once) -> Path:
    """A small drawn data set in COCO's layout."""

    def draw(folder: Path) -> None:
        command = [sys.executable, REPOSITORY / 'tools/make_shapes.py', folder / 'data', '--train', '6', '--val', '4']
        command += ['--size', '128', '96', '--max-objects', '3']
        subprocess.run([*map(str, command)], check=True, capture_output=True)

    return make_once('shapes', draw) / 'data'


@pytest.fixture(scope='session')
def real_data() -> Path:
    """The folder of real photographs; skips where it is not named, fails where it is and is not there."""
    if 'CONVNEXT_REAL_DATA' not in os.environ:
        pytest.skip('CONVNEXT_REAL_DATA is not set: it names the folder of real photographs')
    root = Path(os.environ['CONVNEXT_REAL_DATA'])
    assert (root / 'coco/annotations/instances_train2017.json').is_file(), f'{root} lacks coco/'
    return root
