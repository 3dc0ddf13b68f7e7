"""Provides a wheel of mmcv, operators compiled: from the wheel cache, or built from source and put there.

mmcv is published as source only, and a build fits one torch, one Python and one kind of machine. pip's own cache knows
mmcv's version alone and would hand out a build for another torch, which fails at import: hence a cache of our own.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

from check_env import PROOF, compiler_candidates
from commands import SetupError, check_disk, locked, run

BUILD_GB = 1.5  # measured: 0.1 GB sources and objects on the CPU; a CUDA build has twice the files and larger ones

CXX17_PROGRAM = """
#include <optional>
#include <string_view>
int main() { if (std::optional<int> found = 17; found) return std::string_view("17").size() - 2; }
"""

DESCRIBE = """
import json, os, sys, sysconfig
import cv2, mmengine, torch
from torch.utils.cpp_extension import CUDA_HOME
cuda = torch.cuda.is_available()
print('\\n' + json.dumps(dict(
    torch=torch.__version__, cuda=cuda, cuda_home=CUDA_HOME, cuda_version=torch.version.cuda,
    architecture='sm%d%d' % torch.cuda.get_device_capability() if cuda else '',
    python='cp%d%d' % sys.version_info[:2] + getattr(sys, 'abiflags', ''), platform=sysconfig.get_platform())))
"""

# mmcv 2.1.0's setup.py counts on `exec` in a function writing to that function's variables, which Python 3.13 ended
# (PEP 667). For its build only, this brings it back; Python imports a `sitecustomize` that it finds by itself.
EXEC_AS_BEFORE_313 = """
import builtins, sys
plain_exec = builtins.exec
def exec_as_before(code, *namespaces, **keywords):
    frame = sys._getframe(1)
    plain_exec(code, *(namespaces or (frame.f_globals, frame.f_locals)), **keywords)
builtins.exec = exec_as_before
"""


def cache_root() -> Path:
    """The wheel cache: outside the checkout, so that a second clone need not build again."""
    named = os.environ.get('CONVNEXT_WHEEL_CACHE')
    if named:
        return Path(named).absolute()
    return Path(os.environ.get('XDG_CACHE_HOME') or Path.home() / '.cache') / 'convnext-backbone' / 'wheels'


def describe(python: Path) -> dict:
    """What a build depends on, as the environment's Python sees it; fails where a wheel could not even be tried."""
    answer = subprocess.run([python, '-W', 'ignore', '-c', DESCRIBE], capture_output=True, text=True)
    if answer.returncode:
        last = (answer.stderr.strip().splitlines() or ['it crashed'])[-1]
        raise SetupError(
            f'torch, mmengine or OpenCV does not import in this environment ({last}): `make clean`, then again.'
        )
    return json.loads(answer.stdout.splitlines()[-1])


def wheel_folder(requirement: str, machine: dict) -> Path:
    """The folder of the cache for builds that fit a machine."""
    device = f'cuda-{machine["architecture"]}' if machine['cuda'] else 'cpu'
    key = f'torch-{machine["torch"]}-{machine["python"]}-{machine["platform"]}-{device}'
    return cache_root() / requirement.replace('==', '-') / key


def operators_error(python: Path, version: str, folder: str = '') -> str:
    """Runs mmcv's operators in an environment: what is wrong with them, or nothing.

    Args:
        python: The environment's interpreter.
        version: The version that mmcv must have.
        folder: Where mmcv is, if it is not installed.
    """
    code = f'import sys; sys.path.insert(0, {folder!r}) if {folder!r} else None{PROOF}'
    code += f'import mmcv; assert mmcv.__version__ == {version!r}, f"it is mmcv {{mmcv.__version__}}"'
    answer = subprocess.run([python, '-W', 'ignore', '-c', code], capture_output=True, text=True, cwd=folder or '/')
    if answer.returncode == 0:
        return ''
    return (answer.stderr.strip().splitlines() or [f'it ends Python with exit code {answer.returncode}'])[-1][:300]


def wheel_error(python: Path, wheel: Path) -> str:
    """Tries a wheel without installing it: what is wrong with it, or nothing."""
    with tempfile.TemporaryDirectory(dir=wheel.parent, prefix='.try-') as folder:
        try:
            with zipfile.ZipFile(wheel) as archive:
                archive.extractall(folder)
        except (OSError, EOFError, zipfile.BadZipFile, zlib.error) as error:
            return f'{type(error).__name__}: {error}'
        return operators_error(python, wheel.name.split('-')[1], folder)


def find_compiler() -> str:
    """The first compiler that turns a C++17 program into a file to run."""
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, 'try.cpp')
        source.write_text(CXX17_PROGRAM)
        for compiler in compiler_candidates():
            command = [compiler, '-std=c++17', source, '-o', f'{folder}/try']
            if subprocess.run(command, capture_output=True).returncode == 0 and Path(folder, 'try').exists():
                return compiler
    named = os.environ.get('CXX')
    which = f'CXX={named} is none' if named else 'there is no c++, g++ or clang++ that is one'
    raise SetupError(
        f"A C++17 compiler is needed to build mmcv's operators, and {which}: install one (Debian, Ubuntu: apt install "
        f'g++; Fedora: dnf install gcc-c++; macOS: xcode-select --install), or name one in CXX.'
    )


def check_headers() -> None:
    """Refuses to begin a build that would fail for want of Python's headers."""
    headers = Path(sysconfig.get_paths()['include'], 'Python.h')
    if not headers.exists():
        raise SetupError(
            f"Python's headers are needed to build mmcv's operators, and {headers} is not there: "
            f'install them (Debian, Ubuntu: apt install python3-dev; Fedora: dnf install python3-devel).'
        )


def check_cuda(machine: dict) -> None:
    """Refuses to begin a build that would fail for want of a CUDA compiler."""
    if machine['cuda'] and not machine['cuda_home']:
        raise SetupError(
            f"There is a GPU but no CUDA compiler (nvcc), which mmcv's GPU operators need: install the CUDA toolkit "
            f'{machine["cuda_version"]} and set CUDA_HOME to its folder, or set CUDA_VISIBLE_DEVICES= to do without.'
        )


def job_count() -> int:
    """How many files to compile at once: by the processors, and by memory, of which the largest file takes 2 GB."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count() or 1
    memory_gb = os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 1e9
    return max(1, min(cores, int(memory_gb // 2)))


def object_counter(folder: Path) -> Callable[[], str]:
    """A function that says how many of the build's files are compiled."""

    def progress() -> str:
        plan = next(folder.rglob('build.ninja'), None)
        if plan is None:
            return ''
        total = len(re.findall(r'^build .*\.o: ', plan.read_text(errors='replace'), re.M))
        return f': {sum(1 for _ in plan.parent.rglob("*.o"))} of {total} files compiled'

    return progress


def build_environment(folder: Path, requirement: str, compiler: str, machine: dict) -> dict[str, str]:
    """The environment variables of a build, all its temporary files going into a folder."""
    environment = dict(os.environ, MMCV_WITH_OPS='1', CXX=compiler, TMPDIR=str(folder))
    environment.setdefault('MAX_JOBS', str(job_count()))
    if requirement.startswith('mmcv==') and machine['python'] >= 'cp313':
        shim = folder / 'shim'
        shim.mkdir()
        (shim / 'sitecustomize.py').write_text(EXEC_AS_BEFORE_313)
        environment['PYTHONPATH'] = os.pathsep.join(filter(None, [str(shim), os.environ.get('PYTHONPATH')]))
    return environment


def build(python: Path, requirement: str, folder: Path, machine: dict) -> Path:
    """Builds a wheel, tries it, and only then gives it its name in the cache."""
    compiler = find_compiler()
    check_headers()
    check_cuda(machine)
    print(f"    Building {requirement}'s operators once, for {folder.name}: 9 to 13 minutes on 2 cores", flush=True)
    log = folder / 'build.log'
    log.unlink(missing_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix='.build-', ignore_cleanup_errors=True) as name:
        temporary = Path(name)
        command = [python, '-m', 'pip', 'wheel', '-v', '--no-cache-dir', '--no-deps', '--no-build-isolation']
        command += ['--no-binary', requirement.split('==')[0], '--wheel-dir', temporary / 'wheel', requirement]
        environment = build_environment(temporary, requirement, compiler, machine)
        run(command, log, f'building {requirement}', environment, object_counter(temporary))
        wheel = next((temporary / 'wheel').glob('*.whl'))
        error = wheel_error(python, wheel)
        if error:
            raise SetupError(f'{requirement} was built, but does not work ({error}): the log of the build is {log}.')
        return wheel.replace(folder / wheel.name)


def check_can_provide(requirement: str) -> None:
    """Refuses before torch is downloaded where a wheel has to be built and there is nothing to build it with."""
    tag = 'cp{}{}'.format(*sys.version_info)
    if not any(cache_root().glob(f'{requirement.replace("==", "-")}/*-{tag}*/*.whl')):
        find_compiler()
        check_headers()
        check_disk(cache_root(), BUILD_GB, 'Building mmcv', 'put the cache elsewhere with CONVNEXT_WHEEL_CACHE=/folder')


def provide_wheel(python: Path, requirement: str) -> Path:
    """The wheel of a requirement such as mmcv==2.1.0 that works with an environment's torch.

    Args:
        python: The environment's interpreter; torch, the engine, OpenCV and the build tools are installed there.
        requirement: Distribution and version.
    """
    machine = describe(python)
    folder = wheel_folder(requirement, machine)
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder, f'building {requirement}'):
        for stale in folder.glob('.*-*'):  # of a build that was killed: whoever holds the lock is the only one here
            shutil.rmtree(stale, ignore_errors=True)
        for wheel in folder.glob('*.whl'):
            error = wheel_error(python, wheel)
            if not error:
                print(f'    from the cache: {wheel}', flush=True)
                return wheel
            print(f'    the cached {wheel} does not work ({error}): building it again', file=sys.stderr, flush=True)
            wheel.unlink()
        return build(python, requirement, folder, machine)
