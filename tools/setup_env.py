"""Sets up an environment with everything in it. `make setup` runs this; it needs nothing but Python.

    python3 tools/setup_env.py --stack openmmlab --venv .venv

Run again it repairs what an interruption left, or says in one line that there is nothing to do.
"""

import sys

OLDEST_PYTHON = (3, 10)
NEWEST_PYTHON = {'onedl': (3, 13)}  # numpy 2.2, which its image augmentation library asks for, has no build for 3.14


def python_error(version, stack=''):  # noqa: ANN001, ANN201 (an old Python must get as far as calling this)
    """What is wrong with a version of Python, or nothing."""
    newest = NEWEST_PYTHON.get(stack, tuple(version[:2]))
    if OLDEST_PYTHON <= tuple(version[:2]) <= newest:
        return ''
    wanted = '3.10 or newer' if version[:2] < OLDEST_PYTHON else '3.10 to {}.{} (for STACK={})'.format(*newest, stack)  # noqa: UP032
    return 'Python {} is needed, and this is {}.{}: name another, as in `make setup PYTHON=python3.11`.'.format(
        wanted, *version[:2]
    )


if python_error(sys.version_info):
    sys.stderr.write('error: ' + python_error(sys.version_info) + '\n')
    sys.exit(2)

import argparse  # noqa: E402
import contextlib  # noqa: E402
import hashlib  # noqa: E402
import json  # noqa: E402
import os  # noqa: E402
import re  # noqa: E402
import shutil  # noqa: E402
import signal  # noqa: E402
import subprocess  # noqa: E402
import tempfile  # noqa: E402
import time  # noqa: E402
from pathlib import Path  # noqa: E402

try:
    from build_mmcv import check_can_provide, operators_error, provide_wheel
    from check_env import ROOT, STACKS, read_constraints
    from commands import DiskFullError, SetupError, check_disk, locked, run, step
except ModuleNotFoundError as missing:  # fcntl
    sys.stderr.write(f'error: This set-up runs on Linux and macOS (there is no module {missing.name}): use WSL.\n')
    sys.exit(2)

VENV_GB = 7  # measured: 6.2 GB while pip installs torch, its downloads included; 5.7 GB in the end
STATE = 'convnext-setup.json'


def read_state(venv: Path) -> dict:
    """What an earlier set-up noted in the environment: made_here, unfinished, stamp, gpu."""
    try:
        return json.loads((venv / STATE).read_text())
    except (OSError, ValueError):
        return {}


def note(venv: Path, **changes: object) -> None:
    """Notes something in the environment, whole or not at all."""
    venv.mkdir(parents=True, exist_ok=True)
    new = venv / f'{STATE}.new'
    new.write_text(json.dumps({**read_state(venv), **changes}))
    new.replace(venv / STATE)


def python_version(venv: Path) -> str:
    """The Python that an environment was made with, such as 3.11, or nothing."""
    config = venv / 'pyvenv.cfg'
    match = config.exists() and re.search(r'^version(?:_info)? *= *(\d+\.\d+)', config.read_text(), re.M)
    return match[1] if match else ''


def stamp(stack: str, venv: Path) -> str:
    """Changes whenever another set-up would be the outcome."""
    files = ['setup.py', f'constraints/{stack}.txt', 'tools/setup_env.py', 'tools/build_mmcv.py']
    parts = [stack.encode(), bytes(ROOT), bytes(venv), *((ROOT / name).read_bytes() for name in files)]
    return hashlib.sha256(b'\0'.join(parts)).hexdigest()


def sees_gpu() -> bool:
    """Whether there seems to be an NVIDIA GPU, without importing torch."""
    hidden = os.environ.get('CUDA_VISIBLE_DEVICES', 'all') in ('', '-1')
    return not hidden and any(Path('/dev').glob('nvidia[0-9]*'))


def is_current(state: dict, stack: str, venv: Path) -> bool:
    """Whether there is nothing to do. Where a GPU has appeared there is: mmcv's operators were built without it."""
    current = state.get('stamp') == stamp(stack, venv) and (state.get('gpu') or not sees_gpu())
    return bool(current and (venv / 'bin/python').exists())


def refuse_other_stack(stack: str, venv: Path) -> None:
    """Never both stacks in one environment: they overwrite each other's files."""
    for other, packages in STACKS.items():
        for name in packages.values() if other != stack else ():
            if any(venv.glob(f'lib/python3*/site-packages/{name.replace("-", "_")}-*.dist-info')):
                raise SetupError(
                    f'{venv} holds the {other} stack ({name}), and {stack} would overwrite its files: name another '
                    f'folder (make uses .venv for openmmlab and .venv-onedl for onedl), or remove this one first.'
                )


def make_venv(venv: Path, log: Path) -> None:
    """Makes the environment, or repairs what an interrupted set-up left of it."""
    state, python = read_state(venv), venv / 'bin/python'
    works = python.exists() and subprocess.run([python, '-m', 'pip', '--version'], capture_output=True).returncode == 0
    if works and not state.get('unfinished'):
        return
    if venv.exists() and any(venv.iterdir()):
        trouble = f'stopped while {state["unfinished"]}' if state.get('unfinished') else 'does not work'
        if not state.get('made_here'):
            raise SetupError(f'{venv} {trouble} and was not made by this set-up: remove it, or name another folder.')
        print(f'    {venv} {trouble}: making it anew', flush=True)
        for child in venv.iterdir():  # not the folder itself, which is locked
            shutil.rmtree(child) if child.is_dir() and not child.is_symlink() else child.unlink()
    note(venv, made_here=True, unfinished='making the environment')
    answer = subprocess.run([sys.executable, '-c', 'import ensurepip, venv'], capture_output=True)
    if answer.returncode:
        raise SetupError(
            f'{sys.executable} cannot make environments (it has no venv or ensurepip): install them (Debian, Ubuntu: '
            f'apt install python3-venv), or name another, as in `make setup PYTHON=python3.11`.'
        )
    run([sys.executable, '-m', 'venv', venv], log, 'making the environment')
    note(venv, unfinished='')


def pip_install(venv: Path, stack: str, log: Path, what: str, *arguments: object) -> None:
    """Runs pip install in the environment, held to the tested versions."""
    command = [venv / 'bin/python', '-m', 'pip', 'install', '--disable-pip-version-check', '--progress-bar', 'off']
    note(venv, unfinished=f'installing {what}')
    with tempfile.TemporaryDirectory(dir=venv, prefix='tmp-') as temporary:  # /tmp may be too small for torch
        try:
            constraints = ROOT / 'constraints' / f'{stack}.txt'
            environment = dict(os.environ, TMPDIR=temporary)
            run([*command, '-c', constraints, *arguments], log, f'installing {what}', environment)
        except DiskFullError:
            raise
        except SetupError:  # pip failed before it wrote: the environment is as it was
            note(venv, unfinished='')
            raise
    note(venv, unfinished='')


def verify(venv: Path) -> str:
    """Imports everything in the environment; returns what there is, in words."""
    check = [venv / 'bin/python', ROOT / 'tools/check_env.py']
    answer = subprocess.run([*check, '--json'], capture_output=True, text=True)
    if answer.returncode:
        subprocess.run(check, stdout=sys.stderr)
        raise SetupError('The set-up is done but something does not import: the table above says what, and what to do.')
    result = json.loads(answer.stdout)
    names = ('torch', *STACKS[result['stack']].values())
    return ', '.join(f'{row["package"]} {row["installed"]}' for row in result['rows'] if row['package'] in names)


def check_beforehand(stack: str, venv: Path) -> None:
    """Refuses, before anything is written, what would fail after a long wait."""
    has_torch = any(venv.glob('lib/python3*/site-packages/torch/version.py'))
    check_disk(venv, 1 if has_torch else VENV_GB, f'The environment {venv}', 'put it elsewhere with VENV=/folder')
    mmcv = STACKS[stack]['mmcv']
    if not any(venv.glob(f'lib/python3*/site-packages/{mmcv.replace("-", "_")}-*.dist-info')):
        check_can_provide(f'{mmcv}=={read_constraints(stack)[mmcv]}')


def set_up(stack: str, venv: Path) -> str:
    """Does every step that has not been done; returns what is installed, in words."""
    tested = read_constraints(stack)
    engine, mmcv = STACKS[stack]['mmengine'], STACKS[stack]['mmcv']
    python = venv / 'bin/python'
    with contextlib.ExitStack() as cleanup:
        scratch = Path(cleanup.enter_context(tempfile.TemporaryDirectory(prefix='convnext-setup-')))
        with step(f'[1/6] The environment {venv}'):
            make_venv(venv, scratch / 'venv.log')
        log = venv / 'setup.log'
        note(venv, stamp='')
        for stale in venv.glob('tmp-*'):
            shutil.rmtree(stale, ignore_errors=True)
        with step('[2/6] torch and torchvision (a download of 2 to 3 GB the first time)'):
            # Three equals signs: see constraints/. First and alone, so that nothing else decides which torch comes.
            versions = (f'torch==={tested["torch"]}', f'torchvision=={tested["torchvision"]}')
            pip_install(venv, stack, log, 'torch', *versions)
        with step('[3/6] Build tools and the engine'):
            pip_install(venv, stack, log, 'build tools', 'setuptools', 'wheel', 'packaging', 'ninja', 'psutil')
            pip_install(venv, stack, log, engine, '--no-build-isolation', engine, 'opencv-python')
        with step(f'[4/6] {mmcv} {tested[mmcv]} with its operators'):
            if operators_error(python, tested[mmcv]):
                wheel = provide_wheel(python, f'{mmcv}=={tested[mmcv]}')
                pip_install(venv, stack, log, mmcv, '--no-index', '--no-deps', '--force-reinstall', wheel)
        with step('[5/6] Everything else, and this package'):
            # Without isolation: source distributions then build with the tools that are pinned here.
            pip_install(venv, stack, log, 'packages', '--no-build-isolation', '-e', f'{ROOT}[{stack},dev]')
        with step('[6/6] Importing all of it'):
            words = verify(venv)
    note(venv, stamp=stamp(stack, venv), gpu=sees_gpu())
    return words


def parse_args() -> argparse.Namespace:
    """Parses the command line."""
    parser = argparse.ArgumentParser(description='Set up an environment with everything in it.')
    parser.add_argument('--stack', default='openmmlab', help=' or '.join(STACKS))
    parser.add_argument('--venv', default='.venv', metavar='DIR', help='where')
    args = parser.parse_args()
    if args.stack not in STACKS:
        raise SetupError(f'There is no stack {args.stack!r}: STACK is {" or ".join(STACKS)}.')
    wrong = python_error(sys.version_info, args.stack)
    if wrong:
        raise SetupError(wrong)
    return args


def main() -> int:
    """Sets up; returns the exit code."""
    start = time.monotonic()
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) != signal.SIG_IGN:  # nohup
            signal.signal(number, signal.default_int_handler)  # like Ctrl-C: what was begun is ended and cleared away
    try:
        args = parse_args()
        venv = Path(args.venv).absolute()
        refuse_other_stack(args.stack, venv)
        has, wanted = python_version(venv), '{}.{}'.format(*sys.version_info)
        if has and has != wanted:
            print(f'{args.venv} has Python {has}; to have {wanted} instead, remove it first (make clean).')
        if is_current(read_state(venv), args.stack, venv):
            print(f'{args.venv} is ready ({args.stack}, Python {has}): nothing to do.')
            return 0
        check_beforehand(args.stack, venv)
        venv.mkdir(parents=True, exist_ok=True)
        with locked(venv, f'writing {venv}'):
            if is_current(read_state(venv), args.stack, venv):  # the one that was waited for did it
                return 0
            words = set_up(args.stack, venv)
        print(f'Ready in {time.monotonic() - start:.0f} s: {words}. Activate it with: source {args.venv}/bin/activate')
        return 0
    except SetupError as error:
        print(f'error: {error}', file=sys.stderr)
        return 2
    except OSError as error:
        print(
            f'error: {error.filename or "A file"} cannot be written or run ({error.strerror}): mend that, or name '
            f'other folders with VENV=/folder and CONVNEXT_WHEEL_CACHE=/folder.',
            file=sys.stderr,
        )
        return 2
    except KeyboardInterrupt:
        print('Stopped. The same command goes on from here.', file=sys.stderr)
        return 130


if __name__ == '__main__':
    sys.exit(main())
