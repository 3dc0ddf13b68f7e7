"""Set-up and check of an environment, run as a user would, in environments that are made here."""

import argparse
import ast
import importlib.metadata
import json
import os
import re
import runpy
import shutil
import signal
import subprocess
import sys
import time
from collections import namedtuple
from pathlib import Path

import pytest
from conftest import REPOSITORY, refusal, run_tool

sys.path.insert(0, str(REPOSITORY / 'tools'))
import check_env
from environment import install, requirements

SITE_PACKAGES = 'lib/python{}.{}/site-packages'.format(*sys.version_info)
NO_NETWORK = dict(PIP_CONFIG_FILE=os.devnull, PIP_INDEX_URL='https://127.0.0.1:1/simple', PIP_RETRIES='1')
NO_NETWORK |= dict(PIP_NO_CACHE_DIR='1', PIP_EXTRA_INDEX_URL='', PIP_FIND_LINKS='', NO_PROXY='*')


def set_up(*arguments: object, cwd: Path, **variables: str) -> subprocess.Popen:
    """Start the set-up as make does, without a network."""
    command = [sys.executable, REPOSITORY / 'tools/setup_env.py', *arguments]
    streams = dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    streams['preexec_fn'] = lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)  # ignored in the background
    return subprocess.Popen([*map(str, command)], cwd=cwd, env=os.environ | NO_NETWORK | variables, **streams)


def finished(process: subprocess.Popen) -> subprocess.CompletedProcess:
    """The result of a set-up, once it has ended."""
    output = process.communicate(timeout=120)
    return subprocess.CompletedProcess(process.args, process.returncode, *output)


def wait_for(condition) -> None:
    deadline = time.monotonic() + 30
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert condition()


def pretend_installed(venv: Path, distribution: str, version: str = '1.0', record: str = '', **modules: str) -> Path:
    """Record a package in an environment as pip does, and write its modules."""
    folder = venv / SITE_PACKAGES / f'{distribution.replace("-", "_")}-{version}.dist-info'
    folder.mkdir(parents=True)
    (folder / 'METADATA').write_text(f'Metadata-Version: 2.1\nName: {distribution}\nVersion: {version}\n')
    (folder / 'RECORD').write_text(record or f'{folder.name}/INSTALLER,,\n')
    for name, text in modules.items():
        path = venv / SITE_PACKAGES / name.replace('__', '/') / '__init__.py'
        path.parent.mkdir()
        path.write_text(text)
    return folder


@pytest.fixture
def bare(tmp_path) -> Path:
    """An environment with nothing but Python."""
    venv = tmp_path / 'bare'
    subprocess.run([sys.executable, '-m', 'venv', '--without-pip', venv], check=True)
    return venv


def fake_pip(folder: Path, does: str) -> Path:
    """A working environment whose pip runs a shell command."""
    python = folder / 'env/bin/python'
    python.parent.mkdir(parents=True)
    python.write_text(f'#!/bin/sh\ncase "$*" in *--version*) exit 0;; esac\n{does}\n')
    python.chmod(0o755)
    return folder / 'env'


def arguments(venv: Path, stack: str = 'openmmlab', torch: str = '') -> argparse.Namespace:
    return argparse.Namespace(stack=stack, venv=venv, torch=torch)


class TestRefusals:
    """What cannot work ends with one sentence and exit code 2, before anything is written."""

    @pytest.mark.parametrize('version', [(2, 7, 18), (3, 6, 15), (3, 9, 18)])
    def test_old_python(self, monkeypatch, capsys, version):
        monkeypatch.setattr(sys, 'version_info', version)
        with pytest.raises(SystemExit, match='2'):
            runpy.run_path(str(REPOSITORY / 'tools/setup_env.py'))
        expected = (
            'error: Python 3.10 or newer is needed, and this is {}.{}: name another, as in `make setup PYTHON=pyt'
        )
        assert capsys.readouterr().err.startswith(expected.format(*version))

    def test_old_python_can_read_it(self):
        """No f-strings, annotations or the like: Python 2 would end with a syntax error."""
        tree = ast.parse((REPOSITORY / 'tools/setup_env.py').read_text())
        assert not [
            node for node in ast.walk(tree) if isinstance(node, ast.JoinedStr | ast.FunctionDef | ast.AnnAssign)
        ]

    @pytest.mark.parametrize('option, value', [('--stack', 'mmlab'), ('--torch', '2.5.1')])
    def test_unknown_values(self, tmp_path, option, value):
        sentence = refusal(finished(set_up('--venv', 'new', option, value, cwd=tmp_path)))
        stack = f"error: There is no stack '{value}': STACK is openmmlab or onedl."
        torch = f'error: TORCH={value} is no version from 2.6 on: name one, such as TORCH=2.10.0.'
        assert sentence == (stack if option == '--stack' else torch) and not list(tmp_path.iterdir())

    def test_python_that_one_stack_cannot_use(self, monkeypatch):
        monkeypatch.setattr(sys, 'version_info', (3, 14, 0))
        monkeypatch.setattr(sys, 'argv', ['setup_env.py', '--stack', 'onedl'])
        with pytest.raises(install.SetupError, match=r'STACK=onedl needs Python 3.10 to 3.13: name one, as in'):
            install.parse_args()

    @pytest.mark.parametrize('there, asked', [('onedl-mmcv', 'openmmlab'), ('mmdet', 'onedl')])
    def test_other_stack_is_there(self, tmp_path, there, asked):
        pretend_installed(tmp_path / 'env', there)
        sentence = refusal(finished(set_up('--stack', asked, '--venv', 'env', cwd=tmp_path)))
        assert f'env holds {there} of the other stack, and {asked} would overwrite its files: name another' in sentence

    def test_foreign_folder(self, tmp_path):
        (tmp_path / 'photos').mkdir()
        (tmp_path / 'photos/holiday.jpg').write_text('mine')
        sentence = refusal(finished(set_up('--venv', 'photos', cwd=tmp_path)))
        assert 'photos is no working environment, and not of this set-up: remove it, or name another.' in sentence
        assert [path.name for path in (tmp_path / 'photos').iterdir()] == ['holiday.jpg']

    def test_small_disk(self, tmp_path, monkeypatch):
        usage = namedtuple('usage', 'total used free')(9, 9, 8.9e9)
        monkeypatch.setattr(shutil, 'disk_usage', lambda folder: usage)
        with pytest.raises(
            install.SetupError, match=r'env needs 9 GB and the disk of \S+ has 8.9 GB free: free some, or'
        ):
            install.check_disk(tmp_path / 'not/yet/env')
        pretend_installed(tmp_path / 'env', 'torch')
        install.check_disk(tmp_path / 'env')

    def test_python_without_ensurepip(self, tmp_path):
        (tmp_path / 'venv.py').write_text("raise ModuleNotFoundError('No module named ensurepip')")
        sentence = refusal(finished(set_up('--venv', 'new', cwd=tmp_path, PYTHONPATH=str(tmp_path))))
        assert 'cannot make environments' in sentence and 'No module named ensurepip' in sentence
        assert 'apt install python3-venv' in sentence and 'make setup PYTHON=' in sentence

    @pytest.mark.parametrize(
        'said, sentence',
        [
            ('ERROR: No matching distribution found for torch===9.9', 'pip finds no such version for this Python and'),
            ('OSError: [Errno 28] No space left on device', 'The disk filled up: free some space, then run the same'),
            ('ERROR: it rains', 'pip failed. What pip said is above, and all of it in'),
        ],
    )
    def test_failures_of_pip(self, tmp_path, said, sentence):
        result = finished(set_up('--venv', fake_pip(tmp_path, f'echo "{said}"; exit 1'), cwd=tmp_path))
        assert refusal(result).startswith(f'error: {sentence}') and said in result.stderr
        assert said in (tmp_path / 'env/setup.log').read_text()


class TestInterruptions:
    """The same command continues from wherever it was stopped, and pip does not outlive it."""

    @pytest.fixture
    def sleeper(self, tmp_path) -> tuple[Path, Path]:
        """An environment whose pip never ends, and the file with the id of its process."""
        pid = tmp_path / 'pid'
        return fake_pip(tmp_path, f'echo $$ > {pid}.new; mv {pid}.new {pid}; exec sleep 60'), pid

    @pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM])
    def test_a_signal_ends_pip(self, tmp_path, sleeper, number):
        venv, pid = sleeper
        process = set_up('--venv', venv, cwd=tmp_path)
        wait_for(pid.exists)
        process.send_signal(number)
        result = finished(process)
        assert (result.returncode, result.stderr) == (130, 'Stopped. The same command goes on from here.\n')
        with pytest.raises(ProcessLookupError):
            os.kill(int(pid.read_text()), 0)

    def test_the_next_waits_for_the_pip_of_one_that_was_killed(self, tmp_path, sleeper):
        venv, pid = sleeper
        first = set_up('--venv', venv, cwd=tmp_path)
        wait_for(pid.exists)
        first.kill()
        first.communicate()
        orphan = int(pid.read_text())
        pid.unlink()
        second = set_up('--venv', venv, cwd=tmp_path)
        assert second.stdout.readline() == f'Waiting for another set-up that is writing {venv} ...\n'
        assert not pid.exists()
        os.kill(orphan, signal.SIGKILL)
        wait_for(pid.exists)
        second.terminate()
        assert finished(second).returncode == 130

    def test_half_made_environment_is_made_again_and_a_missing_network_is_named(self, tmp_path):
        venv = tmp_path / 'env'
        (venv / 'bin').mkdir(parents=True)
        (venv / 'bin/python').symlink_to('gone')
        install.note(venv, made_here='begun', stamp='old')
        result = finished(set_up('--venv', venv, cwd=tmp_path))
        assert 'The package index could not be reached: check the network' in refusal(result)
        assert install.read_state(venv)['made_here'] == 'begun' and not (venv / 'tmp').exists()
        subprocess.run([venv / 'bin/python', '-m', 'pip', '--version'], check=True, capture_output=True)

    def test_half_written_packages_are_forgotten(self, tmp_path):
        venv = fake_pip(tmp_path, 'exit 1')
        install.note(venv, made_here='done')
        whole = pretend_installed(venv, 'timm')
        half = pretend_installed(venv, 'torch', '2.14.1', record='torch/__init__.py,,\n')
        begun = pretend_installed(venv, 'numpy', numpy='')
        (begun / 'RECORD').unlink()
        install.make_venv(venv, Path())
        assert whole.exists() and not half.exists() and not begun.exists()
        assert (venv / SITE_PACKAGES / 'numpy').exists()


class TestRunningAgain:
    """With nothing to do it says so in one line, at once; any change leads to another set-up."""

    @pytest.fixture
    def ready(self, bare):
        pretend_installed(bare, 'torch', '2.14.1')
        install.note(bare, made_here='done', torch='', stamp=install.stamp(arguments(bare)))
        return bare

    def test_costs_nothing(self, ready, tmp_path):
        before = {path: path.stat().st_mtime_ns for path in ready.rglob('*')}
        start = time.monotonic()
        result = finished(
            set_up('--venv', 'bare', '--torch', requirements.read_constraints('openmmlab')['torch'], cwd=tmp_path)
        )
        assert time.monotonic() - start < 3
        assert (result.returncode, result.stderr) == (0, '')
        assert result.stdout.splitlines()[0] == f'{ready} is ready (openmmlab, torch-2.14.1): nothing to do.'
        assert {path: path.stat().st_mtime_ns for path in ready.rglob('*')} == before

    @pytest.mark.parametrize('name', ['pyproject.toml', 'constraints/openmmlab.txt', 'tools/environment/install.py'])
    def test_notices_a_change(self, ready, tmp_path, monkeypatch, name):
        clone = tmp_path / 'clone'
        for folder in ('constraints', 'tools'):
            shutil.copytree(REPOSITORY / folder, clone / folder)
        shutil.copy(REPOSITORY / 'pyproject.toml', clone)
        monkeypatch.setattr(install, 'ROOT', clone)
        before = install.stamp(arguments(ready))
        others = [install.stamp(arguments(tmp_path)), install.stamp(arguments(ready, torch='2.10.0'))]
        with (clone / name).open('a') as stream:
            stream.write('# changed\n')
        assert len({before, *others, install.stamp(arguments(ready))}) == 4

    def test_keeps_the_torch_that_was_chosen(self, ready, capsys, monkeypatch):
        install.note(ready, torch='2.10.0', stamp=install.stamp(arguments(ready, torch='2.10.0')))
        monkeypatch.setattr(sys, 'argv', ['setup_env.py', '--venv', str(ready)])
        install.run(install.parse_args())
        assert 'nothing to do' in capsys.readouterr().out

    def test_holds_another_torch(self, bare):
        installed = [pretend_installed(bare, 'torch', '2.10.0+cu128'), pretend_installed(bare, 'torchvision', '0.25.0')]
        assert install.constraints(arguments(bare, 'onedl'), installed) == REPOSITORY / 'constraints/onedl.txt'
        lines = install.constraints(arguments(bare, 'onedl', '2.10.0'), installed).read_text().splitlines()
        assert lines[-2:] == ['torch===2.10.0+cu128', 'torchvision===0.25.0'] and 'onedl-mmengine==0.10.12' in lines
        assert not [line for line in lines[:-2] if re.match('torch|triton|sympy', line)]


class TestGpu:
    """A GPU that torch cannot use is named, with the remedy, each time that set-up runs."""

    def torch(self, folder: Path, version: str, cuda: str) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / 'version.py').write_text(f"__version__ = '{version}'\ndebug = False\ncuda: Optional[str] = {cuda}\n")
        return folder

    def test_sentences(self, tmp_path, monkeypatch):
        older = r'needs driver 580 or newer; install that, or torch 2\.10\.0, .*`make setup TORCH=2\.10\.0`\)\.$'
        for version, cuda, driver, words in (
            ('2.14.1+cu130', "'13.0'", '535.104.05', older),
            ('2.10.0+cu128', "'12.8'", '470.82', r'CUDA 12\.8, .* needs driver 525 or newer; install that\.$'),
            ('2.14.1+cpu', 'None', '580.65.06', r'without CUDA; `pip install torch===2\.14\.1 torchvision` has one\.$'),
            ('2.14.1+cu130', "'13.0'", '580.65.06', '^$'),
            ('2.10.0+cu128', "'12.8'", '535.104', '^$'),
            ('2.14.1+cu130', "'13.0'", '', '^$'),
        ):
            monkeypatch.setattr(requirements, 'driver_version', lambda driver=driver: driver)
            sentence = requirements.gpu_problem(self.torch(tmp_path, version, cuda))
            begin = f'There is an NVIDIA GPU (driver {driver}) that torch {version} cannot use: '
            assert re.search(words, sentence) and sentence.startswith(begin if sentence else '')
        monkeypatch.setattr(requirements, 'driver_version', lambda: '999.1')
        assert requirements.gpu_problem(tmp_path, 'it says why').endswith('cannot use: it says why.')

    def test_said_again_with_nothing_to_do(self, bare, monkeypatch, capsys):
        self.torch(bare / SITE_PACKAGES / 'torch', '2.14.1', "'13.0'")
        pretend_installed(bare, 'torch', '2.14.1')
        install.note(bare, stamp=install.stamp(arguments(bare)))
        monkeypatch.setattr(requirements, 'driver_version', lambda: '535.0')
        install.run(arguments(bare))
        assert 'note: There is an NVIDIA GPU (driver 535.0)' in capsys.readouterr().out

    @pytest.mark.parametrize('hidden', ['', '-1'])
    def test_hidden_on_purpose(self, monkeypatch, hidden):
        monkeypatch.setenv('CUDA_VISIBLE_DEVICES', hidden)
        assert requirements.driver_version() == ''


class TestCheckEnv:
    """The table has every package with its status, and no broken package can stop it."""

    def check(self, venv: Path) -> tuple[int, dict]:
        command = [venv / 'bin/python', REPOSITORY / 'tools/check_env.py', '--json']
        result = subprocess.run(command, capture_output=True, text=True, timeout=120)
        return result.returncode, {row['package']: row for row in json.loads(result.stdout)['rows']}

    def test_this_environment(self, tmp_path, capsys):
        result = run_tool('check_env.py', '--json', cwd=tmp_path)
        found = json.loads(result.stdout)
        assert result.returncode == 0 and found['ok'], [row for row in found['rows'] if row['remedy']]
        assert found['stack'] in requirements.STACKS
        check_env.print_table(found)
        table = capsys.readouterr().out
        packages = {*requirements.COMMON.values(), *requirements.STACKS[found['stack']].values()}
        for package in packages | {'python', 'convnext-backbone'}:
            assert re.search(rf'^{re.escape(package)} .* (ok|other)\b', table, re.M), package
        assert re.search(r'^mmcv.ops +(torchvision|compiled) ', table, re.M)

    def test_nothing_but_python(self, bare):
        code, rows = self.check(bare)
        assert code == 1 and rows['python']['status'] in ('ok', 'other')
        for package in ('torch', 'torchvision', 'numpy', 'mmengine', 'mmcv-lite', 'mmdet'):
            assert rows[package]['status'] == 'missing' and 'pip install' in rows[package]['remedy'], rows[package]
        assert 'torch===2.14.1 torchvision==0.29.1' in rows['torchvision']['remedy']
        assert rows['mmcv.ops']['remedy'].endswith(' mmcv-lite')
        assert rows['timm']['status'] == 'other' and rows['timm']['remedy'].endswith(
            ' timm'
        )  # needed for classification alone

    def test_broken_packages_and_both_stacks(self, bare):
        pretend_installed(bare, 'numpy', '0.1', numpy='raise SystemExit(3)')
        pretend_installed(bare, 'timm', '9.9', timm="raise RuntimeError('operator torchvision::nms does not exist')")
        pretend_installed(bare, 'regex', '9.9', regex='')
        pretend_installed(bare, 'ftfy', '9.9', ftfy='import numpy.linalg, torch')
        pretend_installed(bare, 'pycocotools', '9.9', pycocotools='import torch')
        pretend_installed(bare, 'mmengine', mmengine='import pkg_resources')
        pretend_installed(bare, 'onedl-mmengine')
        code, rows = self.check(bare)
        assert code == 1
        assert rows['numpy']['status'] == 'broken' and 'SystemExit: 3 -> ' in rows['numpy']['remedy']
        assert rows['timm']['status'] == 'broken' and 'torchvision::nms' in rows['timm']['remedy']
        assert rows['regex']['status'] == 'other' and rows['regex']['remedy'] == ''
        assert rows['ftfy']['status'] == 'broken' and 'SystemExit' in rows['ftfy']['remedy']
        assert 'there is no module torch -> ' in rows['pycocotools']['remedy']
        assert rows['mmengine']['remedy'].endswith("pip install 'setuptools<81'")
        assert rows['stack']['status'] == 'broken' and 'new environment' in rows['stack']['remedy']

    @pytest.mark.parametrize(
        'operators, remedy',
        [
            ('import mmcv._ext', r' -m convnext_backbone.ops install$'),
            (
                "raise ImportError('undefined symbol')",
                r'symbol -> .*uninstall -y mmcv; .*--no-deps mmcv-lite; .*ops install$',
            ),
        ],
    )
    def test_mmcv_without_operators_that_work(self, bare, operators, remedy):
        pretend_installed(bare, 'mmcv-lite', '2.1.0', mmcv='', mmcv__ops=operators)
        row = self.check(bare)[1]['mmcv.ops']
        assert row['status'] == 'broken' and re.search(remedy, row['remedy'])

    def test_other_versions_are_no_errors(self):
        assert check_env.row('torch', '2.14.1+cu130', '2.14.1')['status'] == 'ok'
        assert check_env.row('torch', '2.10.0', '2.14.1')['status'] == 'other'
        assert check_env.row('python', '3.11.7', '3.11')['status'] == 'ok'
        assert check_env.row('python', '3.1', '3.11')['status'] == 'other'


class TestVersions:
    """The versions that are written in several places agree."""

    @pytest.fixture
    def required(self) -> dict[str, set[str]]:
        """What pip is told to install, by extra; '' for what every installation needs."""
        package = importlib.metadata.distribution('convnext-backbone')
        extras: dict[str, set[str]] = {
            '': set(),
            **{extra: set() for extra in package.metadata.get_all('Provides-Extra')},
        }
        for line in package.requires:
            requirement, _, extra = line.partition('; extra == ')
            extras[extra.strip('"')].add(requirement)
        assert package.metadata['Requires-Python'] == '>=3.10'
        return extras

    def test_extras_are_the_constraints(self, required):
        assert set(required) == {'', 'openmmlab', 'onedl', 'imagenet', 'export', 'dev'}
        for stack, packages in requirements.STACKS.items():
            tested = requirements.read_constraints(stack)
            assert '\ntorch===' in (REPOSITORY / f'constraints/{stack}.txt').read_text()  # not a CPU-only build
            assert {f'{name}=={tested[name]}' for name in packages.values()} <= required[stack]
            for requirement in (
                required[stack]
                | required['imagenet']
                | required['export']
                | required['dev'] - {'convnext-backbone[export,imagenet]', 'convnext-backbone[imagenet,export]'}
            ):
                name, version = re.match(r'([\w-]+)(?:==(.+)|<81)?$', requirement).groups()
                assert tested[name] == (version or tested[name])

    def test_what_is_required(self, required):
        names = {re.match(r'[\w-]+', requirement)[0] for requirement in required['']}
        assert names == {'torch', 'safetensors', 'huggingface_hub', 'filelock', 'tqdm', 'msgspec'}  # neither stack

    @pytest.mark.parametrize('minor, numpy', [(10, '2.2.6'), (11, '2.4.6'), (13, '2.4.6')])
    def test_constraints_by_python(self, monkeypatch, minor, numpy):
        monkeypatch.setattr(sys, 'version_info', (3, minor, 0))
        tested = requirements.read_constraints('openmmlab')
        assert tested['numpy'] == numpy and tested['python'] == '3.11'


def test_importing_without_an_engine_says_what_to_install(bare):
    code = f'import sys; sys.path.insert(0, {str(REPOSITORY)!r}); import convnext_backbone'
    result = subprocess.run([bare / 'bin/python', '-I', '-c', code], capture_output=True, text=True)
    last = result.stderr.splitlines()[-1]
    assert last.startswith('ImportError: convnext_backbone needs mmengine')
    assert "pip install 'convnext-backbone[openmmlab]'" in last and "pip install 'convnext-backbone[onedl]'" in last


class TestMake:
    """The Makefile passes its arguments on."""

    def make(self, *arguments: str) -> str:
        command = ['make', '--no-print-directory', '-C', str(REPOSITORY), *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout

    def test_help_is_the_default(self):
        for target in ('setup', 'demo', 'test', 'test-all', 'lint', 'clean', 'help'):
            assert re.search(rf'^  {target} +\w', self.make(), re.M)

    @pytest.mark.parametrize('stack, venv', [('openmmlab', '.venv'), ('onedl', '.venv-onedl')])
    def test_each_stack_has_its_environment(self, stack, venv):
        planned = self.make('--dry-run', 'test', f'STACK={stack}', 'PYTHON=some-python', 'TORCH=2.10.0')
        assert f"some-python tools/setup_env.py --stack '{stack}' --venv '{venv}' --torch '2.10.0'" in planned
        assert f'{venv}/bin/python -m pytest' in planned

    def test_clean_spares_files_of_the_user(self):
        planned = self.make('--dry-run', 'clean')
        removed = {word for line in planned.splitlines() if line.startswith('rm ') for word in line.split()[2:]}
        assert {'.venv', '.venv-onedl', 'work_dirs/demo', 'data/shapes'} <= removed
        assert not removed & {'data', 'work_dirs', 'data/', 'work_dirs/'}
