"""Sets up an environment: venv, torch, everything else by pip, and a check by importing all of it.

Run again it goes on from where an interruption left it, or says in one line that there is nothing to do.
"""

import argparse
import contextlib
import fcntl
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from .requirements import ROOT, STACKS, gpu_problem, read_constraints

VENV_GB = 9  # measured: while pip installs torch, its downloads included
STATE = 'convnext-setup.json'  # what a set-up notes in the environment: made_here, torch, stamp
TORCHS_OWN = re.compile(r'(torch|torchvision|triton|sympy)=')  # constraints that depend on the version of torch
SHOWN = re.compile(r'\s*(Downloading|Using cached) \S+ \([\d.]+ [MG]B\)|Installing collected')  # of pip's output
FAILURES = {
    'No space left on device|Disk quota exceeded': 'The disk filled up: free some space, then run the same command.',
    r'NewConnectionError|[Nn]ame resolution|Name or service not known|Network is unreachable|No route to host|'
    r'Connection (?:refused|reset|aborted)|[Tt]imed out|Max retries exceeded|ProxyError|SSLError|IncompleteRead': (
        'The package index could not be reached: check the network, proxy and certificates (pip config list), then run '
        'the same command again.'
    ),
    'No matching distribution|no matching distributions|ResolutionImpossible': (
        'pip finds no such version for this Python and system: name another with TORCH= or PYTHON=, or check which '
        'index it looks in (pip config list).'
    ),
    '': 'pip failed.',
}


class SetupError(Exception):
    """A problem that the user can fix: one sentence that names it and the remedy."""


def read_state(venv: Path) -> dict:
    """What an earlier set-up noted in the environment."""
    try:
        return json.loads((venv / STATE).read_text())
    except (OSError, ValueError):
        return {}


def note(venv: Path, **changes: object) -> None:
    """Note something in the environment, atomically."""
    new = venv / f'{STATE}.new'
    new.write_text(json.dumps({**read_state(venv), **changes}))
    new.replace(venv / STATE)


def stamp(args: argparse.Namespace) -> str:
    """A hash that changes whenever another set-up would have another outcome."""
    names = ('pyproject.toml', f'constraints/{args.stack}.txt', 'tools/environment/install.py')
    parts = [args.stack, args.torch, str(ROOT), str(args.venv), *((ROOT / name).read_text() for name in names)]
    return hashlib.sha256('\0'.join(parts).encode()).hexdigest()


def distributions(venv: Path, name: str = '*') -> list[Path]:
    """The folders in which pip has recorded an installed package, or all."""
    return [*venv.glob(f'lib/python3*/site-packages/{name.replace("-", "_")}-*.dist-info')]


@contextlib.contextmanager
def locked(venv: Path) -> Iterator[None]:
    """Hold a lock on the environment. pip inherits it: where only its set-up is killed, the next one waits for pip."""
    descriptor = os.open(venv, os.O_RDONLY)
    os.set_inheritable(descriptor, True)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f'Waiting for another set-up that is writing {venv} ...', flush=True)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def pip_install(venv: Path, *arguments: object) -> None:
    """Run pip install: large downloads are shown, all output goes to a log, and a failure becomes one sentence."""
    options = ['--no-input', '--progress-bar', 'off']
    command = [*map(str, (venv / 'bin/python', '-m', 'pip', 'install', *options, *arguments))]
    temporary, lines = venv / 'tmp', []  # /tmp may be too small for torch
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    streams = dict(stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    environment = dict(os.environ, TMPDIR=str(temporary), PIP_DISABLE_PIP_VERSION_CHECK='1', PYTHONUNBUFFERED='1')
    with (venv / 'setup.log').open('a') as log:
        with subprocess.Popen(command, **streams, env=environment, close_fds=False) as pip:
            try:
                for line in pip.stdout:
                    log.write(line)
                    lines.append(line)
                    if SHOWN.match(line):
                        print(f'    {line.strip()[:110]}', flush=True)
            except BaseException:
                pip.send_signal(signal.SIGINT)  # it restores what it was replacing
                with contextlib.suppress(subprocess.TimeoutExpired):
                    pip.wait(10)
                pip.kill()  # a process in the background may ignore SIGINT
                raise
    shutil.rmtree(temporary, ignore_errors=True)
    if pip.returncode:
        said = ''.join(lines[-15:])
        sentence = next(text for pattern, text in FAILURES.items() if re.search(pattern, said))
        print(said, end='', file=sys.stderr)
        raise SetupError(f'{sentence} What pip said is above, and all of it in {venv / "setup.log"}.')


def forget_half_installed(venv: Path) -> None:
    """Remove the records of packages that pip was killed in the middle of, so that it installs them again."""
    for folder in distributions(venv):
        record = folder / 'RECORD'  # pip writes it last, its own INSTALLER at the end
        if not record.exists() or f'{folder.name}/INSTALLER' not in record.read_text(errors='replace'):
            shutil.rmtree(folder)


def make_venv(venv: Path, tested: Path) -> None:
    """Make the environment, or repair what an interrupted set-up left of it."""
    python, made_here = venv / 'bin/python', read_state(venv).get('made_here')
    works = python.exists() and subprocess.run([python, '-m', 'pip', '--version'], capture_output=True).returncode == 0
    if works and made_here != 'begun':
        if made_here:
            forget_half_installed(venv)
        return
    rest = [child for child in venv.iterdir() if not child.name.startswith(STATE)]
    if rest and not made_here:
        raise SetupError(f'{venv} is no working environment, and not of this set-up: remove it, or name another.')
    note(venv, made_here='begun', stamp='')
    for child in rest:  # not the folder itself, which is locked, nor the note that it is ours
        shutil.rmtree(child) if child.is_dir() and not child.is_symlink() else child.unlink()
    answer = subprocess.run([sys.executable, '-m', 'venv', venv], capture_output=True, text=True)
    if answer.returncode:
        said = ' '.join((answer.stdout + answer.stderr).split())[-200:]
        raise SetupError(
            f'{sys.executable} cannot make environments ({said}): install what it lacks (Debian, Ubuntu: '
            f'apt install python3-venv), or name another, as in `make setup PYTHON=python3.11`.'
        )
    pip_install(venv, '-c', tested, '--upgrade', 'pip')  # Python's own takes twice as long to resolve
    note(venv, made_here='done')


def constraints(args: argparse.Namespace, held: list[Path]) -> Path:
    """The tested versions; with another torch, without what depends on it, and with some installed packages held."""
    tested = ROOT / 'constraints' / f'{args.stack}.txt'
    if not args.torch:
        return tested
    lines = [line for line in tested.read_text().splitlines() if not TORCHS_OWN.match(line)]
    lines += ['{}==={}'.format(*folder.stem.split('-')) for folder in held]
    (args.venv / 'constraints.txt').write_text('\n'.join([*lines, '']))
    return args.venv / 'constraints.txt'


def set_up(args: argparse.Namespace) -> None:
    """Do every step that has not been done."""
    venv, python = args.venv, args.venv / 'bin/python'
    wanted, there = args.torch or read_constraints(args.stack)['torch'], distributions(venv, 'torch')
    if there and there[0].stem.split('+')[0] != f'torch-{wanted}' and read_state(venv).get('made_here'):
        # CUDA 12's and 13's libraries have files of the same names, which pip would mix up.
        pip_install(venv, '--dry-run', '--no-deps', f'torch==={wanted}')
        print(f'torch {wanted} in the place of {there[0].stem[6:]}: the environment is made again', flush=True)
        note(venv, made_here='begun')
    print(f'[1/4] The environment {venv}', flush=True)
    make_venv(venv, ROOT / 'constraints' / f'{args.stack}.txt')
    note(venv, stamp='')
    print('[2/4] torch and torchvision (a download of 2 to 3 GB the first time)', flush=True)
    # First and alone, so that nothing else decides which torch comes. Three equals signs: see constraints/.
    pip_install(venv, '-c', constraints(args, []), f'torch==={wanted}', 'torchvision')
    note(venv, torch=args.torch)
    print('[3/4] Everything else, and this package', flush=True)
    held = constraints(args, distributions(venv, 'torch') + distributions(venv, 'torchvision'))
    pip_install(venv, '-c', held, '-e', f'{ROOT}[{args.stack},dev]')
    if subprocess.run([python, '-W', 'ignore', '-m', 'convnext_backbone.ops', 'install'], cwd=venv).returncode:
        raise SetupError('mmcv got no operators: the line above says why.')
    print('[4/4] Importing all of it', flush=True)
    answer = subprocess.run([python, ROOT / 'tools/check_env.py'], capture_output=True, text=True)
    if answer.returncode:
        print(answer.stdout + answer.stderr, file=sys.stderr)
        raise SetupError('The set-up is done but something does not import: the table above says what, and what to do.')
    note(venv, stamp=stamp(args))


def parse_args() -> argparse.Namespace:
    """Parse the command line, and refuse now what would fail after a long wait."""
    parser = argparse.ArgumentParser(prog='setup_env.py', description='Set up an environment with everything in it.')
    parser.add_argument('--stack', default='openmmlab', help=' or '.join(STACKS))
    parser.add_argument('--venv', default='.venv', metavar='DIR', type=lambda text: Path(text).absolute(), help='where')
    parser.add_argument('--torch', default='', metavar='VERSION', help='another than the tested one, from 2.6 on')
    args = parser.parse_args()
    if args.stack not in STACKS:
        raise SetupError(f'There is no stack {args.stack!r}: STACK is {" or ".join(STACKS)}.')
    if args.torch and not re.match(r'(2\.([6-9]|\d\d)|[3-9])\.', args.torch):
        raise SetupError(f'TORCH={args.torch} is no version from 2.6 on: name one, such as TORCH=2.10.0.')
    if args.stack == 'onedl' and sys.version_info >= (3, 14):  # numpy 2.2, which it asks for, has no build for it
        raise SetupError('STACK=onedl needs Python 3.10 to 3.13: name one, as in `make setup PYTHON=python3.13`.')
    for other in (name for stack, names in STACKS.items() if stack != args.stack for name in names.values()):
        if distributions(args.venv, other):
            raise SetupError(
                f'{args.venv} holds {other} of the other stack, and {args.stack} would overwrite its files: name '
                f'another folder (make uses .venv for openmmlab and .venv-onedl for onedl), or remove this one first.'
            )
    # `make test` keeps what `make setup TORCH=` chose
    args.torch = args.torch or read_state(args.venv).get('torch', '')
    args.torch = '' if args.torch == read_constraints(args.stack)['torch'] else args.torch
    return args


def check_disk(venv: Path) -> None:
    """Refuse to begin where torch would fill the disk."""
    disk = next(folder for folder in (venv, *venv.parents) if folder.exists())
    free_gb = shutil.disk_usage(disk).free / 1e9
    if not distributions(venv, 'torch') and free_gb < VENV_GB:
        raise SetupError(
            f'The environment {venv} needs {VENV_GB} GB and the disk of {disk} has {free_gb:.1f} GB free: free some, '
            f'or put it elsewhere with VENV=/folder.'
        )


def run(args: argparse.Namespace) -> None:
    """Set up, or say that there is nothing to do."""
    start, venv = time.monotonic(), args.venv
    if read_state(venv).get('stamp') == stamp(args) and (venv / 'bin/python').exists():
        print(f'{venv} is ready ({args.stack}, {distributions(venv, "torch")[0].stem}): nothing to do.')
    else:
        check_disk(venv)
        venv.mkdir(parents=True, exist_ok=True)
        with locked(venv):
            if read_state(venv).get('stamp') != stamp(args):  # else the one that was waited for did it
                set_up(args)
        print(f'Ready in {time.monotonic() - start:.0f} s. Activate it with: source {venv}/bin/activate')
    for problem in filter(None, map(gpu_problem, venv.glob('lib/python3*/site-packages/torch'))):
        print(f'note: {problem}')


def main() -> int:
    """Set up; returns the exit code."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) != signal.SIG_IGN:  # nohup
            signal.signal(number, signal.default_int_handler)  # like Ctrl-C
    try:
        run(parse_args())
        return 0
    except SetupError as error:
        print(f'error: {error}', file=sys.stderr)
        return 2
    except OSError as error:
        named = f'{error.filename or "A file"} cannot be written or run ({error.strerror})'
        print(f'error: {named}: fix that, or name another folder with VENV=/folder.', file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print('Stopped. The same command goes on from here.', file=sys.stderr)
        return 130
