"""Set-up, and the check of an environment. Behavioural: run as a user would, in environments that are made here."""

import io
import json
import os
import re
import runpy
import shutil
import signal
import subprocess
import sys
import tarfile
import time
import zipfile
from pathlib import Path

import pytest
import setuptools
from conftest import REPOSITORY, refusal, run_tool

sys.path.insert(0, str(REPOSITORY / 'tools'))
import build_mmcv
import check_env
import commands
import setup_env

SITE_PACKAGES = 'lib/python{}.{}/site-packages'.format(*sys.version_info)


def set_up(*arguments: object, cwd: Path, **variables: object) -> subprocess.CompletedProcess:
    """Runs the set-up with some environment variables, and without those that could make it find a compiler."""
    environment = {name: value for name, value in os.environ.items() if name != 'CXX'}
    environment |= {name: str(value) for name, value in variables.items()}
    command = [sys.executable, REPOSITORY / 'tools/setup_env.py', *arguments]
    return subprocess.run([*map(str, command)], cwd=cwd, env=environment, capture_output=True, text=True, timeout=120)


def pretend_installed(venv: Path, distribution: str, version: str = '1.0', module: str = '') -> None:
    """Puts what pip goes by into an environment, and a module of that name."""
    folder = venv / SITE_PACKAGES / f'{distribution.replace("-", "_")}-{version}.dist-info'
    folder.mkdir(parents=True)
    (folder / 'METADATA').write_text(f'Metadata-Version: 2.1\nName: {distribution}\nVersion: {version}\n')
    (venv / SITE_PACKAGES / f'{distribution.replace("-", "_")}.py').write_text(module)


@pytest.fixture
def bare(tmp_path) -> Path:
    """An environment in which nothing but Python is."""
    venv = tmp_path / 'bare'
    subprocess.run([sys.executable, '-m', 'venv', '--without-pip', venv], check=True)
    return venv


@pytest.fixture
def wheel_cache(tmp_path) -> Path:
    """A wheel cache with one wheel that is good enough to pass the check of the machine."""
    cache = tmp_path / 'wheels'
    for stack in check_env.STACKS:
        mmcv = check_env.STACKS[stack]['mmcv']
        tag = 'cp{}{}'.format(*sys.version_info)
        folder = cache / f'{mmcv}-{check_env.read_constraints(stack)[mmcv]}' / f'torch-0-{tag}-cpu'
        folder.mkdir(parents=True)
        (folder / 'some.whl').touch()
    return cache


class TestRefusals:
    """What cannot work ends with one sentence and exit code 2, before anything is written."""

    @pytest.mark.parametrize('version', [(2, 7), (3, 6, 15), (3, 9, 18)])
    def test_old_python(self, version):
        assert setup_env.python_error(version).startswith('Python 3.10 or newer is needed, and this is ')
        assert '{}.{}'.format(*version) in setup_env.python_error(version)

    def test_python_that_one_stack_cannot_use(self):
        assert setup_env.python_error((3, 14, 0), 'onedl').startswith('Python 3.10 to 3.13 (for STACK=onedl) is needed')
        assert not setup_env.python_error((3, 14, 0), 'openmmlab')
        assert not setup_env.python_error((3, 10, 0), 'onedl')

    def test_unknown_stack(self, tmp_path):
        sentence = refusal(set_up('--stack', 'mmlab', '--venv', 'new', cwd=tmp_path))
        assert sentence == "error: There is no stack 'mmlab': STACK is openmmlab or onedl."
        assert not list(tmp_path.iterdir())

    @pytest.mark.parametrize('variables', [{}, {'CXX': '/usr/bin/true'}], ids=['none', 'CXX is none'])
    def test_no_compiler(self, tmp_path, variables):
        nothing = tmp_path / 'empty'
        nothing.mkdir()
        cache = tmp_path / 'wheels'
        result = set_up('--venv', 'new', cwd=tmp_path, PATH=nothing, CONVNEXT_WHEEL_CACHE=cache, **variables)
        assert 'C++17 compiler' in refusal(result) and 'apt install g++' in result.stderr
        assert not cache.exists() and not (tmp_path / 'new').exists()

    def test_other_stack_is_there(self, tmp_path):
        pretend_installed(tmp_path / 'env', 'onedl-mmcv', '2.3.6')
        sentence = refusal(set_up('--stack', 'openmmlab', '--venv', 'env', cwd=tmp_path))
        assert 'holds the onedl stack (onedl-mmcv)' in sentence
        pretend_installed(tmp_path / 'env2', 'mmdet', '3.3.0')
        assert 'holds the openmmlab stack (mmdet)' in refusal(
            set_up('--stack', 'onedl', '--venv', 'env2', cwd=tmp_path)
        )

    def test_folder_of_somebody_else(self, tmp_path, wheel_cache):
        (tmp_path / 'photos').mkdir()
        (tmp_path / 'photos/holiday.jpg').write_text('mine')
        result = set_up('--venv', 'photos', cwd=tmp_path, CONVNEXT_WHEEL_CACHE=wheel_cache)
        assert 'was not made by this set-up' in refusal(result)
        assert [path.name for path in (tmp_path / 'photos').iterdir()] == ['holiday.jpg']

    def test_small_disk(self, tmp_path):
        commands.check_disk(tmp_path / 'not/yet/there', 0.001, 'It', 'put it elsewhere')
        with pytest.raises(commands.SetupError, match=r'^It needs 1e\+09 GB and the disk of .* has .* GB free: free'):
            commands.check_disk(tmp_path / 'not/yet/there', 1e9, 'It', 'put it elsewhere')

    def test_full_disk_and_unknown_failures(self, tmp_path, capsys):
        full = commands.failure('x\nOSError: [Errno 28] No space left on device\n', 'installing torch', tmp_path)
        assert isinstance(full, commands.DiskFullError)
        absent = 'ERROR: No matching distribution found for torch===2.13.0'
        assert 'finds no torch===2.13.0' in str(commands.failure(absent, 'installing torch', tmp_path))
        killed = commands.failure('c++: fatal error: Killed signal terminated program cc1plus', 'building', tmp_path)
        assert 'MAX_JOBS=1' in str(killed)
        output = '\n'.join(
            ['nms.cpp:7: error: no such type', *'x' * 40, 'error: subprocess-exited-with-error', 'note:']
        )
        other = commands.failure(output, 'building mmcv', tmp_path / 'build.log')
        assert str(other).startswith('Building mmcv failed') and str(other).endswith('build.log.')
        shown = capsys.readouterr().err
        assert 'nms.cpp:7: error: no such type' in shown and 'note' not in shown


def test_interrupted_set_up_begins_anew_and_no_network_is_said(tmp_path, wheel_cache):
    """What a killed pip left is thrown away; then pip finds no network: one sentence, and a usable environment."""
    venv = tmp_path / 'env'
    setup_env.note(venv, made_here=True, unfinished='installing torch', stamp='old')
    (venv / 'half').mkdir()
    (venv / 'half/written').touch()
    no_network = dict(PIP_CONFIG_FILE=os.devnull, PIP_INDEX_URL='https://127.0.0.1:1/simple', PIP_RETRIES=1)
    no_network |= dict(PIP_NO_CACHE_DIR=1, PIP_EXTRA_INDEX_URL='', PIP_FIND_LINKS='', NO_PROXY='*')
    result = set_up('--venv', venv, cwd=tmp_path, CONVNEXT_WHEEL_CACHE=wheel_cache, **no_network)
    assert 'The package index could not be reached while installing torch' in refusal(result)
    assert 'stopped while installing torch: making it anew' in result.stdout
    assert not (venv / 'half').exists() and not list(venv.glob('tmp-*'))
    assert setup_env.read_state(venv) == dict(made_here=True, unfinished='', stamp='')
    subprocess.run([venv / 'bin/python', '-m', 'pip', '--version'], check=True, capture_output=True)


class TestRunningAgain:
    """With nothing to do it says so in one line, at once; with anything changed it does not."""

    @pytest.fixture
    def ready(self, bare, monkeypatch):
        monkeypatch.setattr(setup_env, 'sees_gpu', lambda: False)
        setup_env.note(bare, made_here=True, unfinished='', stamp=setup_env.stamp('openmmlab', bare), gpu=True)
        return bare

    def test_costs_nothing(self, ready, tmp_path):
        before = {path: path.stat().st_mtime_ns for path in ready.rglob('*')}
        start = time.monotonic()
        result = set_up('--venv', 'bare', cwd=tmp_path)
        assert time.monotonic() - start < 2
        assert (result.returncode, result.stderr) == (0, '')
        assert result.stdout == 'bare is ready (openmmlab, Python {}.{}): nothing to do.\n'.format(*sys.version_info)
        assert {path: path.stat().st_mtime_ns for path in ready.rglob('*')} == before

    @pytest.mark.parametrize('name', ['setup.py', 'constraints/openmmlab.txt', 'tools/build_mmcv.py'])
    def test_notices_a_change(self, ready, tmp_path, monkeypatch, name):
        clone = tmp_path / 'clone'
        for folder in ('constraints', 'tools'):
            shutil.copytree(REPOSITORY / folder, clone / folder)
        shutil.copy(REPOSITORY / 'setup.py', clone)
        monkeypatch.setattr(setup_env, 'ROOT', clone)
        before = setup_env.stamp('openmmlab', ready)
        assert setup_env.stamp('openmmlab', ready) == before != setup_env.stamp('openmmlab', tmp_path / 'other')
        with (clone / name).open('a') as stream:
            stream.write('# changed\n')
        assert setup_env.stamp('openmmlab', ready) != before

    def test_notices_a_new_gpu(self, ready, monkeypatch):
        state = setup_env.read_state(ready)
        without = dict(state, gpu=False)
        assert setup_env.is_current(state, 'openmmlab', ready) and setup_env.is_current(without, 'openmmlab', ready)
        monkeypatch.setattr(setup_env, 'sees_gpu', lambda: True)
        assert setup_env.is_current(state, 'openmmlab', ready) and not setup_env.is_current(without, 'openmmlab', ready)


def test_being_stopped_takes_all_processes_along(tmp_path):
    """Ctrl-C during a build ends the compilers that it started, too."""
    script = f"""
import signal, sys
sys.path.insert(0, {str(REPOSITORY / 'tools')!r})
from pathlib import Path
from commands import run
signal.signal(signal.SIGTERM, signal.default_int_handler)
run(['sh', '-c', 'sleep 600 & echo $! > pid; mv pid child; wait'], Path('log'), 'building')
"""
    process = subprocess.Popen([sys.executable, '-c', script], cwd=tmp_path, stderr=subprocess.PIPE)
    deadline = time.monotonic() + 30
    while not (tmp_path / 'child').exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    child = int((tmp_path / 'child').read_text())
    os.kill(child, 0)
    process.send_signal(signal.SIGTERM)
    assert b'KeyboardInterrupt' in process.communicate(timeout=30)[1]
    status = Path(f'/proc/{child}/status')  # an orphan that ended may stay as a zombie where nothing reaps it
    if status.exists():
        assert re.search(r'^State:\s+Z', status.read_text(), re.M)
    elif not Path('/proc').exists():
        with pytest.raises(ProcessLookupError):
            os.kill(child, 0)


class TestWheelCache:
    """A cached wheel is used only if its operators work with the environment's torch."""

    GOOD = 'def nms(boxes, scores, threshold):\n    return boxes, (scores > .85).nonzero()[:, 0].new_tensor([0, 2])\n'
    BROKEN = "raise ImportError('mmcv/_ext.so: undefined symbol: _ZN3c10')"

    def wheel(self, folder: Path, operators: str, version: str = '2.1.0') -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f'mmcv-{version}-cp311-cp311-linux_x86_64.whl'
        with zipfile.ZipFile(path, 'w') as archive:
            archive.writestr('mmcv/__init__.py', f"__version__ = '{version}'")
            archive.writestr('mmcv/ops/__init__.py', operators)
        return path

    def test_tries_the_operators(self, tmp_path):
        path = self.wheel(tmp_path, self.BROKEN)
        assert 'undefined symbol' in build_mmcv.wheel_error(Path(sys.executable), path)
        path.write_bytes(path.read_bytes()[:100])
        assert 'BadZipFile' in build_mmcv.wheel_error(Path(sys.executable), path)
        assert list(tmp_path.iterdir()) == [path]

    @pytest.mark.parametrize('state', ['none', 'broken', 'good'])
    def test_builds_only_what_is_needed(self, tmp_path, monkeypatch, capsys, state):
        machine = dict(torch='2.13.0+cu130', python='cp311', platform='linux-x86_64', cuda=False)
        built = tmp_path / 'built.whl'
        monkeypatch.setenv('CONVNEXT_WHEEL_CACHE', str(tmp_path / 'wheels'))
        monkeypatch.setattr(build_mmcv, 'describe', lambda python: machine)
        monkeypatch.setattr(build_mmcv, 'build', lambda *arguments: built)
        monkeypatch.setattr(build_mmcv, 'wheel_error', lambda python, wheel: wheel.read_text())
        folder = tmp_path / 'wheels/mmcv-2.1.0/torch-2.13.0+cu130-cp311-linux-x86_64-cpu'
        assert build_mmcv.wheel_folder('mmcv==2.1.0', machine) == folder
        (folder / '.build-killed').mkdir(parents=True)
        cached = folder / 'mmcv.whl'
        if state != 'none':
            cached.write_text('undefined symbol' if state == 'broken' else '')
        assert build_mmcv.provide_wheel(Path(sys.executable), 'mmcv==2.1.0') == (cached if state == 'good' else built)
        assert ('does not work (undefined symbol)' in capsys.readouterr().err) == (state == 'broken')
        assert list(folder.iterdir()) == ([cached] if state == 'good' else [])

    @pytest.fixture
    def small_source(self, tmp_path, monkeypatch):
        """A source distribution called mmcv whose setup.py reads its version in mmcv's way; pip sees nothing else."""
        files = {
            'PKG-INFO': 'Metadata-Version: 2.1\nName: mmcv\nVersion: 2.1.0\n',
            'mmcv/__init__.py': "__version__ = '2.1.0'\n",
            'mmcv/ops/__init__.py': self.GOOD,
            'setup.py': (
                'from setuptools import setup\n'
                'def get_version():\n'
                "    exec(compile(open('mmcv/__init__.py').read(), 'x', 'exec'))\n"
                "    return locals()['__version__']\n"
                "setup(name='mmcv', version=get_version(), packages=['mmcv', 'mmcv.ops'])\n"
            ),
        }

        def pack() -> None:
            with tarfile.open(tmp_path / 'mmcv-2.1.0.tar.gz', 'w:gz') as archive:
                for name, text in files.items():
                    member = tarfile.TarInfo(f'mmcv-2.1.0/{name}')
                    member.size = len(text)
                    archive.addfile(member, io.BytesIO(text.encode()))

        pack()
        monkeypatch.setenv('PIP_NO_INDEX', '1')
        monkeypatch.setenv('PIP_FIND_LINKS', str(tmp_path))
        (tmp_path / 'key').mkdir()
        return files, pack

    def test_builds_tries_and_then_names(self, small_source, tmp_path, capsys):
        machine = dict(python='cp{}{}'.format(*sys.version_info), cuda=False)
        files, pack = small_source
        wheel = build_mmcv.build(Path(sys.executable), 'mmcv==2.1.0', tmp_path / 'key', machine)
        assert wheel.parent == tmp_path / 'key' and zipfile.is_zipfile(wheel)
        assert {path.name for path in wheel.parent.iterdir()} == {wheel.name, 'build.log'}
        wheel.unlink()
        files['mmcv/ops/__init__.py'] = self.BROKEN
        pack()
        with pytest.raises(commands.SetupError, match='was built, but does not work .*undefined symbol'):
            build_mmcv.build(Path(sys.executable), 'mmcv==2.1.0', tmp_path / 'key', machine)
        files['setup.py'] = "raise SystemExit('no such flag')"
        pack()
        with pytest.raises(commands.SetupError, match=r'^Building mmcv==2.1.0 failed: .* in .*build.log\.$'):
            build_mmcv.build(Path(sys.executable), 'mmcv==2.1.0', tmp_path / 'key', machine)
        assert 'no such flag' in capsys.readouterr().err
        assert [path.name for path in (tmp_path / 'key').iterdir()] == ['build.log']

    def test_key_tells_builds_apart(self):
        machine = dict(torch='2.13.0', python='cp311', platform='linux-x86_64', cuda=False, architecture='')
        others = [dict(machine, torch='2.13.0+cpu'), dict(machine, python='cp312'), dict(machine, platform='linux-arm')]
        others += [dict(machine, cuda=True, architecture=name) for name in ('sm80', 'sm90')]
        folders = {build_mmcv.wheel_folder('mmcv==2.1.0', each) for each in [machine, *others]}
        assert len(folders | {build_mmcv.wheel_folder('onedl-mmcv==2.3.6', machine)}) == 7


class TestCheckEnv:
    """The table names every package, says what is wrong, and no broken package can stop it."""

    def check(self, python: Path) -> tuple[int, dict]:
        command = [python, REPOSITORY / 'tools/check_env.py', '--json']
        result = subprocess.run(command, capture_output=True, text=True, timeout=120)
        assert result.stderr == ''
        return result.returncode, json.loads(result.stdout)

    def test_this_environment(self, tmp_path, capsys):
        result = run_tool('check_env.py', '--json', cwd=tmp_path)
        found = json.loads(result.stdout)
        assert result.returncode == 0 and found['ok'], [row for row in found['rows'] if row['remedy']]
        assert found['stack'] in check_env.STACKS
        check_env.print_table(found)
        table = capsys.readouterr().out
        packages = {*check_env.COMMON.values(), *check_env.STACKS[found['stack']].values()}
        for package in packages | {'python', 'c++ compiler', 'mmcv.ops', 'convnext-backbone'}:
            assert re.search(rf'^{re.escape(package)} .* (ok|other)\b', table, re.M), package

    def test_nothing_but_python(self, bare):
        code, found = self.check(bare / 'bin/python')
        assert code == 1 and not found['ok'] and found['stack'] == 'none'
        rows = {row['package']: row for row in found['rows']}
        assert rows['python']['status'] in ('ok', 'other')
        for package in ('torch', 'torchvision', 'timm', 'numpy', 'mmengine', 'mmcv', 'mmcv.ops', 'mmdet'):
            assert rows[package]['status'] == 'missing' and 'pip install' in rows[package]['remedy'], rows[package]
        assert 'torch===2.13.0' in rows['torch']['remedy']

    def test_broken_packages_and_both_stacks(self, bare):
        pretend_installed(bare, 'numpy', '0.1', 'import os; os.abort()')
        pretend_installed(bare, 'timm', '9.9', "raise RuntimeError('operator torchvision::nms does not exist')")
        pretend_installed(bare, 'regex', '9.9')
        pretend_installed(bare, 'ftfy', '9.9', 'import numpy.linalg, torch')
        pretend_installed(bare, 'pycocotools', '9.9', 'import torch')
        for distribution in ('mmengine', 'onedl-mmengine'):
            pretend_installed(bare, distribution)
        code, found = self.check(bare / 'bin/python')
        rows = {row['package']: row for row in found['rows']}
        assert code == 1
        assert rows['numpy']['status'] == 'broken' and 'ends Python with exit code -6' in rows['numpy']['detail']
        assert rows['timm']['status'] == 'broken' and 'torchvision::nms' in rows['timm']['detail']
        assert rows['regex']['status'] == 'other' and rows['regex']['remedy'] == ''
        assert rows['ftfy']['status'] == 'broken' and 'ends Python' in rows['ftfy']['detail']
        assert rows['pycocotools']['remedy'] == 'mend torch first'
        assert rows['stack']['status'] == 'broken' and 'new environment' in rows['stack']['remedy']

    def test_other_versions_are_no_errors(self):
        assert check_env.row('torch', '2.13.0+cu130', '2.13.0')['status'] == 'ok'
        assert check_env.row('python', '3.11.7', '3.11')['status'] == 'ok'
        assert check_env.row('python', '3.1', '3.11')['status'] == 'other'
        assert check_env.row('numpy', '2.4.60', '2.4.6')['status'] == 'other'


class TestVersions:
    """The versions that are written down in several places agree."""

    @pytest.fixture
    def arguments(self, monkeypatch):
        given = {}
        monkeypatch.setattr(setuptools, 'setup', given.update)
        runpy.run_path(str(REPOSITORY / 'setup.py'))
        return given

    def test_extras_are_the_constraints(self, arguments):
        assert set(arguments['extras_require']) == {'openmmlab', 'onedl', 'imagenet', 'dev'}
        for stack, packages in check_env.STACKS.items():
            tested = check_env.read_constraints(stack)
            extras = arguments['extras_require'][stack]
            assert {f'{name}=={tested[name]}' for name in packages.values()} <= set(extras)
            for requirement in [*extras, *arguments['extras_require']['imagenet'], *arguments['extras_require']['dev']]:
                name, _, version = requirement.partition('==')
                assert tested[name] == (version or tested[name])

    def test_neither_stack_is_required(self, arguments):
        required = {re.match(r'[\w-]+', requirement)[0] for requirement in arguments['install_requires']}
        assert required == {'torch', 'safetensors', 'huggingface_hub', 'filelock', 'tqdm'}

    def test_oldest_python(self, arguments):
        assert arguments['python_requires'] == '>={}.{}'.format(*setup_env.OLDEST_PYTHON)
        assert check_env.OLDEST_PYTHON == setup_env.OLDEST_PYTHON

    @pytest.mark.parametrize('minor, numpy', [(10, '2.2.6'), (11, '2.4.6'), (13, '2.4.6')])
    def test_constraints_by_python(self, monkeypatch, minor, numpy):
        monkeypatch.setattr(check_env.sys, 'version_info', (3, minor, 0))
        tested = check_env.read_constraints('openmmlab')
        assert tested['numpy'] == numpy and tested['torch'] == '2.13.0' and {'python', 'c++'} < set(tested)

    def test_torch_cannot_be_a_cpu_only_build(self):
        for stack in check_env.STACKS:
            assert '\ntorch===2.13.0\n' in (REPOSITORY / f'constraints/{stack}.txt').read_text()


def test_importing_without_an_engine_says_what_to_install(bare):
    code = f'import sys; sys.path.insert(0, {str(REPOSITORY)!r}); import convnext_backbone'
    result = subprocess.run([bare / 'bin/python', '-I', '-c', code], capture_output=True, text=True)
    last = result.stderr.splitlines()[-1]
    assert last.startswith('ImportError: convnext_backbone needs mmengine')
    assert "pip install 'convnext-backbone[openmmlab]'" in last and "pip install 'convnext-backbone[onedl]'" in last


class TestMake:
    """The Makefile passes on what it is given."""

    def make(self, *arguments: str) -> str:
        command = ['make', '--no-print-directory', '-C', str(REPOSITORY), *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout

    def test_help_is_the_default(self):
        for target in ('setup', 'demo', 'test', 'test-all', 'lint', 'clean', 'help'):
            assert re.search(rf'^  {target} +\w', self.make(), re.M)

    @pytest.mark.parametrize('stack, venv', [('openmmlab', '.venv'), ('onedl', '.venv-onedl')])
    def test_each_stack_has_its_environment(self, stack, venv):
        planned = self.make('--dry-run', 'test', f'STACK={stack}', 'PYTHON=some-python')
        assert f"some-python tools/setup_env.py --stack '{stack}' --venv '{venv}'" in planned
        assert f'{venv}/bin/python -m pytest' in planned

    def test_clean_spares_what_is_the_users(self):
        planned = self.make('--dry-run', 'clean')
        removed = {word for line in planned.splitlines() if line.startswith('rm ') for word in line.split()[2:]}
        assert {'.venv', '.venv-onedl', 'work_dirs/demo', 'data/shapes'} <= removed
        assert not removed & {'data', 'work_dirs', 'data/', 'work_dirs/'}
