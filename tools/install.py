"""What setup_env.py does: an environment, torch, everything else by pip, and a check by importing all of it.

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

from check_env import ROOT, STACKS, gpu_problem, read_constraints

VENV_GB, OTHER_TORCH_GB = 9, 12  # measured: while pip installs torch, downloads included; CUDA 12 builds are larger
STATE = 'convnext-setup.json'  # what a set-up notes in the environment: made_here, torch, stamp
TORCHS_OWN = re.compile(r'(torch|torchvision|triton|sympy)=')  # constraints that another torch comes with its own of
# What is shown of pip's output, all of which is in the log, and what is said of its failures.
NEWS = re.compile(
    r'\s*(Downloading|Using cached) \S+ \([\d.]+ [MG]B\)|\s*Building wheel for \S+ .*done|Installing coll'
)
FAILURES = (
    (
        'No space left on device|Disk quota exceeded',
        'The disk filled up while {what}: free some space and run the same command again.',
    ),
    (
        r'NewConnectionError|NameResolutionError|[Nn]ame resolution|Name or service not known|nodename nor servname|'
        r'Network is unreachable|No route to host|Connection (?:refused|reset|aborted)|ConnectTimeout|ReadTimeout|'
        r'Read timed out|Max retries exceeded|ProxyError|SSLError|CERTIFICATE_VERIFY|IncompleteRead|RemoteDisconnected',
        'The package index could not be reached while {what}: check the network, proxy and certificates (pip config '
        'list), then run the same command again; {log} has the details.',
    ),
    (
        r'(?:no matching distributions available for your environment:\s+|satisfies the requirement )(\S+)',
        'pip finds no {0}, in the wanted version, for this Python and system: name another with TORCH= or PYTHON=, or '
        'check which index it looks in (pip config list); {log} has the details, the versions that there are too.',
    ),
)


class SetupError(Exception):
    """Something that the user can mend: one sentence that names it and the remedy."""


def read_state(venv: Path) -> dict:
    """What an earlier set-up noted in the environment."""
    try:
        return json.loads((venv / STATE).read_text())
    except (OSError, ValueError):
        return {}


def note(venv: Path, **changes: object) -> None:
    """Notes something in the environment, whole or not at all."""
    new = venv / f'{STATE}.new'
    new.write_text(json.dumps({**read_state(venv), **changes}))
    new.replace(venv / STATE)


def is_ready(stack: str, torch: str, venv: Path) -> bool:
    """Whether a set-up was done of which another would have the same outcome."""
    return read_state(venv).get('stamp') == stamp(stack, torch, venv) and (venv / 'bin/python').exists()


def stamp(stack: str, torch: str, venv: Path) -> str:
    """Changes whenever another set-up would have another outcome."""
    files = [ROOT / name for name in ('setup.py', f'constraints/{stack}.txt', 'tools/install.py')]
    parts = [stack.encode(), torch.encode(), bytes(ROOT), bytes(venv), *(file.read_bytes() for file in files)]
    return hashlib.sha256(b'\0'.join(parts)).hexdigest()


def distributions(venv: Path, name: str = '*') -> list[Path]:
    """The folders in which pip has noted an installed package, or all."""
    return [*venv.glob(f'lib/python3*/site-packages/{name.replace("-", "_")}-*.dist-info')]


@contextlib.contextmanager
def locked(venv: Path) -> Iterator[int]:
    """Holds a lock on the environment. pip inherits it: where only its set-up is killed, the next one waits for pip."""
    descriptor = os.open(venv, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f'Waiting for another set-up that is writing {venv} ...', flush=True)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield descriptor
    finally:
        os.close(descriptor)


def pip_install(venv: Path, lock: int, what: str, *arguments: object) -> None:
    """Runs pip install, showing what is large, or every 15 seconds how far it is."""
    temporary, start = venv / 'tmp', time.monotonic()
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()  # since /tmp may be too small for torch
    # Not compiled to bytecode: most of it is never imported, and what is, Python compiles then.
    options = ['--disable-pip-version-check', '--no-input', '--progress-bar', 'off', '--no-compile']
    command = [*map(str, (venv / 'bin/python', '-m', 'pip', 'install', *options, *arguments))]
    lines, shown = [], start
    with (venv / 'setup.log').open('a') as sink, (venv / 'setup.log').open(errors='replace') as log:
        log.seek(0, os.SEEK_END)
        streams = dict(stdin=subprocess.DEVNULL, stdout=sink, stderr=subprocess.STDOUT)
        environment = dict(os.environ, TMPDIR=str(temporary))
        with subprocess.Popen(command, **streams, env=environment, pass_fds=[lock], start_new_session=True) as process:
            try:
                while process.poll() is None:
                    with contextlib.suppress(subprocess.TimeoutExpired):
                        process.wait(0.5)
                    new, now = log.readlines(), time.monotonic()
                    lines += new
                    news = [
                        line.strip() if len(line) < 160 else f'{line[:110]} ...' for line in new if NEWS.match(line)
                    ]
                    if not news and now > shown + 15:
                        news = [f'{now - start:.0f} s: {what}, {size_gb(venv):.1f} GB so far']
                    if news:
                        print('\n'.join(f'    {line}' for line in news), flush=True)
                        shown = now
            except BaseException:
                stop(process)
                raise
    shutil.rmtree(temporary, ignore_errors=True)
    if process.returncode:
        raise failure(lines, what, venv / 'setup.log')


def size_gb(folder: Path) -> float:
    """How large a folder is that is being written."""
    total = 0
    for place, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                total += os.lstat(os.path.join(place, name)).st_size
    return total / 1e9


def stop(process: subprocess.Popen) -> None:
    """Ends a process and all that it started; pip, asked to, puts back what it was replacing."""
    for number, patience in ((signal.SIGINT, 10), (signal.SIGKILL, None)):
        with contextlib.suppress(ProcessLookupError, subprocess.TimeoutExpired):
            os.killpg(process.pid, number)
            process.wait(patience)


def failure(lines: list[str], what: str, log: Path) -> SetupError:
    """The error to raise for a pip that failed, by what it printed last."""
    for pattern, sentence in FAILURES:
        found = re.search(pattern, ''.join(lines[-30:]))
        if found:
            return SetupError(sentence.format(*found.groups(), what=what, log=log))
    print(''.join(f'    | {line}' for line in lines[-15:]), end='', file=sys.stderr)
    return SetupError(f'{what.capitalize()} failed: what pip said is above, and all of it in {log}.')


def make_venv(venv: Path, lock: int, tested: Path) -> None:
    """Makes the environment, or repairs what an interrupted set-up left of it."""
    python, made_here = venv / 'bin/python', read_state(venv).get('made_here')
    works = python.exists() and subprocess.run([python, '-m', 'pip', '--version'], capture_output=True).returncode == 0
    if not works or made_here == 'begun':
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
        # The pip that Python brings along takes twice as long to find out what to install.
        pip_install(venv, lock, 'upgrading pip', '-c', tested, '--upgrade', 'pip')
        note(venv, made_here='done')
    elif made_here:
        forget_half_written(venv)


def forget_half_written(venv: Path) -> None:
    """Has pip install again what a killed pip was writing: in a package's RECORD, its own INSTALLER comes last."""
    for folder in distributions(venv):
        record = folder / 'RECORD'
        if not record.exists() or f'{folder.name}/INSTALLER' not in record.read_text(errors='replace'):
            print(f'    {folder.stem} was written half: installing it again', flush=True)
            shutil.rmtree(folder)
    for stashed in venv.glob('lib/python3*/site-packages/~*'):  # what it was replacing
        shutil.rmtree(stashed, ignore_errors=True)


def constraints(venv: Path, stack: str, torch: str, held: list[Path]) -> Path:
    """The tested versions; beside another torch, without what depends on it, holding some of what is installed."""
    tested = ROOT / 'constraints' / f'{stack}.txt'
    if not torch:
        return tested
    lines = [line for line in tested.read_text().splitlines() if not TORCHS_OWN.match(line)]
    lines += ['{}==={}'.format(*folder.stem.split('-')) for folder in held]
    (venv / 'constraints.txt').write_text('\n'.join([*lines, '']))
    return venv / 'constraints.txt'


def set_up(stack: str, torch: str, venv: Path, lock: int) -> str:
    """Does every step that has not been done; returns what is installed, in words."""
    print(f'[1/4] The environment {venv}', flush=True)
    wanted, there = torch or read_constraints(stack)['torch'], distributions(venv, 'torch')
    if there and there[0].stem != f'torch-{wanted}' and read_state(venv).get('made_here'):
        # Its CUDA libraries have files of the same names as the other's, which pip would mix up.
        pip_install(venv, lock, 'looking for torch', '--dry-run', '--no-deps', f'torch==={wanted}')
        print(f'    torch {wanted} in the place of {there[0].stem[6:]}: making the environment anew', flush=True)
        note(venv, made_here='begun', stamp='')
    make_venv(venv, lock, ROOT / 'constraints' / f'{stack}.txt')
    note(venv, stamp='')
    print('[2/4] torch and torchvision (a download of 2 to 3 GB the first time)', flush=True)
    # First and alone, so that nothing else decides which torch comes. Three equals signs: see constraints/.
    tested = constraints(venv, stack, torch, [])
    pip_install(venv, lock, 'installing torch', '-c', tested, f'torch==={wanted}', 'torchvision')
    note(venv, torch=torch)
    print('[3/4] Everything else, and this package', flush=True)
    held = constraints(venv, stack, torch, distributions(venv, 'torch') + distributions(venv, 'torchvision'))
    pip_install(venv, lock, 'installing packages', '-c', held, '-e', f'{ROOT}[{stack},dev]')
    operators = [venv / 'bin/python', '-m', 'convnext_backbone.ops', 'install']
    answer = subprocess.run(operators, capture_output=True, text=True, cwd=venv)
    if answer.returncode:
        raise SetupError(f'mmcv got no operators: {"".join(answer.stderr.splitlines()[-1:])}')
    print('[4/4] Importing all of it', flush=True)
    check = [venv / 'bin/python', ROOT / 'tools/check_env.py']
    answer = subprocess.run([*check, '--json'], stdout=subprocess.PIPE, text=True)
    if answer.returncode:
        subprocess.run(check, stdout=sys.stderr)
        raise SetupError('The set-up is done but something does not import: the table above says what, and what to do.')
    note(venv, stamp=stamp(stack, torch, venv))
    rows = {row['package']: row['installed'] for row in json.loads(answer.stdout)['rows']}
    return ', '.join(f'{name} {rows[name]}' for name in ('torch', 'torchvision', *STACKS[stack].values()))


def parse_args() -> argparse.Namespace:
    """Parses the command line."""
    parser = argparse.ArgumentParser(prog='setup_env.py', description='Set up an environment with everything in it.')
    parser.add_argument('--stack', default='openmmlab', help=' or '.join(STACKS))
    parser.add_argument('--venv', default='.venv', metavar='DIR', help='where')
    parser.add_argument('--torch', default='', metavar='VERSION', help='another than the tested one, from 2.6 on')
    args = parser.parse_args()
    if args.stack not in STACKS:
        raise SetupError(f'There is no stack {args.stack!r}: STACK is {" or ".join(STACKS)}.')
    if args.torch and not re.match(r'(2\.([6-9]|\d\d)|[3-9])\.', args.torch):
        raise SetupError(f'TORCH={args.torch} is no version from 2.6 on: name one, such as TORCH=2.10.0.')
    if args.stack == 'onedl' and sys.version_info >= (3, 14):  # numpy 2.2, which it asks for, has no build for it
        raise SetupError('STACK=onedl needs Python 3.10 to 3.13: name one, as in `make setup PYTHON=python3.13`.')
    return args


def check_beforehand(stack: str, torch: str, venv: Path) -> None:
    """Refuses, before anything is written, what would fail after a long wait."""
    others = [name for other, packages in STACKS.items() for name in packages.values() if other != stack]
    there = [name for name in others if distributions(venv, name)]
    if there:
        raise SetupError(
            f'{venv} holds {there[0]} of the other stack, and {stack} would overwrite its files: name another folder '
            f'(make uses .venv for openmmlab and .venv-onedl for onedl), or remove this one first.'
        )
    disk = next(folder for folder in (venv, *venv.parents) if folder.exists())
    need_gb = 1 if distributions(venv, 'torch') else OTHER_TORCH_GB if torch else VENV_GB
    free_gb = shutil.disk_usage(disk).free / 1e9
    if free_gb < need_gb:
        raise SetupError(
            f'The environment {venv} needs {need_gb} GB and the disk of {disk} has {free_gb:.1f} GB free: free some, '
            f'or put it elsewhere with VENV=/folder.'
        )


def run(args: argparse.Namespace) -> None:
    """Sets up, or says that there is nothing to do."""
    start, venv = time.monotonic(), Path(args.venv).absolute()
    torch = args.torch or read_state(venv).get('torch', '')  # `make test` keeps what `make setup TORCH=...` chose
    if torch == read_constraints(args.stack)['torch']:
        torch = ''
    if is_ready(args.stack, torch, venv):
        has = ', '.join(folder.stem.replace('-', ' ') for folder in distributions(venv, 'torch'))
        print(f'{args.venv} is ready ({args.stack}, {has}): nothing to do.')
    else:
        check_beforehand(args.stack, torch, venv)
        venv.mkdir(parents=True, exist_ok=True)
        with locked(venv) as lock:
            if not is_ready(args.stack, torch, venv):  # else the one that was waited for did it
                words = set_up(args.stack, torch, venv, lock)
                print(f'Ready in {time.monotonic() - start:.0f} s: {words}.')
        print(f'Activate it with: source {args.venv}/bin/activate')
    for problem in filter(None, map(gpu_problem, venv.glob('lib/python3*/site-packages/torch'))):
        print(f'note: {problem}')


def main() -> int:
    """Sets up; returns the exit code."""
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
        print(f'error: {named}: mend that, or name another folder with VENV=/folder.', file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print('Stopped. The same command goes on from here.', file=sys.stderr)
        return 130
