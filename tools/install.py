"""What tools/setup_env.py does: an environment, torch, everything else by pip, and a check by importing all of it.

Run again it goes on from where an interruption left it, or says in one line that there is nothing to do.
"""

import argparse
import contextlib
import hashlib
import json
import os
import re
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from check_env import ROOT, STACKS, gpu_problem, read_constraints

try:
    import fcntl
except ModuleNotFoundError:
    sys.exit('error: This set-up runs on Linux and macOS: use WSL.')

VENV_GB = 7  # measured: what pip takes while it installs torch, its downloads included
HEARTBEAT_S = 15
STATE = 'convnext-setup.json'  # what a set-up notes in the environment: made_here, stamp, torch
# The lines of pip that are worth a user's while; all of them are in the log.
NEWS = re.compile(r'\s*(Downloading|Using cached) \S+ \(([\d.]+ [MG]B)\)|\s*Building wheel for|Installing collected')
DISK_FULL = re.compile(r'No space left on device|Disk quota exceeded')
NOT_FOUND = re.compile(r'No matching distribution found for (\S+)')
NO_NETWORK = re.compile(
    r'NewConnectionError|NameResolutionError|[Nn]ame resolution|Name or service not known|nodename nor servname|'
    r'Network is unreachable|No route to host|Connection (refused|reset|aborted)|ConnectTimeout|ReadTimeout|'
    r'Read timed out|Max retries exceeded|ProxyError|SSLError|CERTIFICATE_VERIFY|IncompleteRead|RemoteDisconnected'
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


def stamp(stack: str, torch: str, venv: Path) -> str:
    """Changes whenever another set-up would be the outcome."""
    files = ['setup.py', f'constraints/{stack}.txt', 'tools/setup_env.py', 'tools/install.py']
    parts = [stack.encode(), torch.encode(), bytes(ROOT), bytes(venv), *((ROOT / name).read_bytes() for name in files)]
    return hashlib.sha256(b'\0'.join(parts)).hexdigest()


def distributions(venv: Path, name: str = '*') -> list[Path]:
    """What pip has noted of an installed package, or of all."""
    return [*venv.glob(f'lib/python3*/site-packages/{name.replace("-", "_")}-*.dist-info')]


@contextlib.contextmanager
def locked(venv: Path) -> Iterator[int]:
    """Holds a lock on the environment's folder, so that two set-ups do not write the same one.

    pip inherits it: where a set-up is killed so hard that it cannot stop its pip, the next one waits for that pip.
    """
    descriptor = os.open(venv, os.O_RDONLY)
    try:
        for waited in range(10**9):
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if waited % HEARTBEAT_S == 0:
                    print(f'    waiting for another set-up that is writing {venv} ...', flush=True)
                time.sleep(1)
        yield descriptor
    finally:
        os.close(descriptor)


def size_gb(folder: Path) -> float:
    """How large a folder is that is being written."""
    total = 0
    for place, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):  # gone meanwhile
                total += os.lstat(os.path.join(place, name)).st_size
    return total / 1e9


def pip_install(venv: Path, lock: int, what: str, *arguments: object) -> None:
    """Runs pip install in the environment, showing the large downloads, or every 15 seconds how far it is."""
    options = ['--disable-pip-version-check', '--no-input', '--progress-bar', 'off', '--no-compile']
    command = [str(word) for word in (venv / 'bin/python', '-m', 'pip', 'install', *options, *arguments)]
    temporary, start = venv / 'tmp', time.monotonic()  # /tmp may be too small for torch
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    streams = dict(stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, bufsize=0)
    streams |= dict(pass_fds=[lock], start_new_session=True, env=dict(os.environ, TMPDIR=str(temporary)))
    lines = ['']
    with (venv / 'setup.log').open('ab') as log, subprocess.Popen(command, **streams) as process:
        log.write(f'$ {" ".join(command)}\n'.encode())
        try:
            while True:
                if not select.select([process.stdout], [], [], HEARTBEAT_S)[0]:
                    print(f'    {time.monotonic() - start:4.0f} s  {what}: {size_gb(venv):.1f} GB so far', flush=True)
                    continue
                chunk = os.read(process.stdout.fileno(), 65536)
                log.write(chunk)
                *whole, last = (lines.pop() + chunk.decode(errors='replace')).split('\n')
                for line in whole:
                    if NEWS.match(line):
                        print(f'    {line.strip() if len(line) < 200 else line[:100].strip() + " ..."}', flush=True)
                lines += [*whole, last]
                if not chunk:
                    break
        except BaseException:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # what was written half is found and repaired the next time
            raise
    shutil.rmtree(temporary, ignore_errors=True)
    if process.returncode:
        raise failure(lines, what, venv / 'setup.log')


def failure(lines: list[str], what: str, log: Path) -> SetupError:
    """The error to raise for a pip that failed, by what it printed last."""
    text = '\n'.join(lines[-30:])
    absent = NOT_FOUND.search(text)
    if DISK_FULL.search(text):
        return SetupError(f'The disk filled up while {what}: free some space and run the same command again.')
    if NO_NETWORK.search(text):
        return SetupError(
            f'The package index could not be reached while {what}: check the network, proxy and certificates '
            f'(pip config list), then run the same command again; {log} has the details.'
        )
    if absent:
        known = re.search(r'\(from versions: .*?((?:[^ ,]+, ){0,4}[^ ,]+)\)', text)
        return SetupError(
            f'pip finds no {absent[1]} for this Python and system (the newest that it finds: {known[1] if known else "none"}): '
            f'name another with TORCH= or PYTHON=, or check which index pip looks in (pip config list); {log} has the details.'
        )
    print('\n'.join(f'    | {line}' for line in lines[-15:] if line), file=sys.stderr)
    return SetupError(f'{what[0].upper()}{what[1:]} failed: what pip said is above, and all of it in {log}.')


def make_venv(venv: Path) -> None:
    """Makes the environment, or repairs what an interrupted set-up left of it."""
    python, state = venv / 'bin/python', read_state(venv)
    works = python.exists() and subprocess.run([python, '-m', 'pip', '--version'], capture_output=True).returncode == 0
    if works and state.get('made_here') != 'begun':
        return
    rest = [child for child in venv.iterdir() if child.name != STATE]
    if rest and not state.get('made_here'):
        raise SetupError(f'{venv} is no environment that works and was not made by this set-up: remove it, or name another.')
    note(venv, made_here='begun')
    for child in rest:  # not the folder itself, which is locked, nor the note that it is ours
        shutil.rmtree(child) if child.is_dir() and not child.is_symlink() else child.unlink()
    if subprocess.run([sys.executable, '-c', 'import ensurepip, venv'], capture_output=True).returncode:
        raise SetupError(
            f'{sys.executable} cannot make environments (it has no venv or ensurepip): install them (Debian, Ubuntu: '
            f'apt install python3-venv), or name another, as in `make setup PYTHON=python3.11`.'
        )
    subprocess.run([sys.executable, '-m', 'venv', venv], check=True)
    note(venv, made_here='done')


def forget_half_written(venv: Path) -> None:
    """Has pip install again what a killed pip had begun: it lists itself in a package's RECORD as the last thing."""
    for folder in distributions(venv):
        record = folder / 'RECORD'
        if not record.exists() or '.dist-info/INSTALLER' not in record.read_text(errors='replace'):
            print(f'    {folder.stem} was written half: installing it again', flush=True)
            shutil.rmtree(folder)
    for stashed in venv.glob('lib/python3*/site-packages/~*'):  # what pip was replacing
        shutil.rmtree(stashed, ignore_errors=True)


def constraints(venv: Path, stack: str, torch: str) -> Path:
    """The tested versions; beside another torch than the tested one, without those that torch decides on."""
    tested = ROOT / 'constraints' / f'{stack}.txt'
    if not torch:
        return tested
    lines = [line for line in tested.read_text().splitlines() if not re.match(r'(torch|torchvision|triton|sympy)=', line)]
    for folder in distributions(venv, 'torch') + distributions(venv, 'torchvision'):
        name, version = folder.stem.split('-')
        lines.append(f'{name}==={version}')
    held = venv / 'constraints.txt'
    held.write_text('\n'.join([*lines, '']))
    return held


def set_up(stack: str, torch: str, venv: Path, lock: int) -> str:
    """Does every step that has not been done; returns what is installed, in words."""
    tested = read_constraints(stack)
    print(f'[1/4] The environment {venv}', flush=True)
    make_venv(venv)
    note(venv, stamp='')
    if read_state(venv).get('made_here'):
        forget_half_written(venv)
    # First and alone, so that nothing else decides which torch comes. Three equals signs: see constraints/.
    print('[2/4] torch and torchvision (a download of 2 to 3 GB the first time)', flush=True)
    (venv / 'constraints.txt').unlink(missing_ok=True)
    versions = [f'torch==={torch or tested["torch"]}', 'torchvision' if torch else f'torchvision=={tested["torchvision"]}']
    pip_install(venv, lock, 'installing torch', '-c', constraints(venv, stack, torch), *versions)
    print('[3/4] Everything else, and this package', flush=True)
    held = constraints(venv, stack, torch)
    pip_install(venv, lock, 'installing packages', '-c', held, '-e', f'{ROOT}[{stack},dev]')
    if (ROOT / 'convnext_backbone/ops').exists():
        operators = [venv / 'bin/python', '-m', 'convnext_backbone.ops', 'install']
        answer = subprocess.run(operators, capture_output=True, text=True, cwd=venv)
        if answer.returncode:
            raise SetupError((answer.stderr.strip().splitlines() or ['mmcv cannot have its operators.'])[-1])
    print('[4/4] Importing all of it', flush=True)
    check = [venv / 'bin/python', ROOT / 'tools/check_env.py']
    answer = subprocess.run([*check, '--json'], capture_output=True, text=True)
    if answer.returncode:
        subprocess.run(check, stdout=sys.stderr)
        raise SetupError('The set-up is done but something does not import: the table above says what, and what to do.')
    note(venv, stamp=stamp(stack, torch, venv), torch=torch)
    names = ('torch', *STACKS[stack].values())
    return ', '.join(f'{row["package"]} {row["installed"]}' for row in json.loads(answer.stdout)['rows'] if row['package'] in names)


def parse_args() -> argparse.Namespace:
    """Parses the command line."""
    parser = argparse.ArgumentParser(prog='setup_env.py', description='Set up an environment with everything in it.')
    parser.add_argument('--stack', default='openmmlab', help=' or '.join(STACKS))
    parser.add_argument('--venv', default='.venv', metavar='DIR', help='where')
    parser.add_argument('--torch', default='', metavar='VERSION', help='another torch than the tested one, from 2.6 on')
    args = parser.parse_args()
    if args.stack not in STACKS:
        raise SetupError(f'There is no stack {args.stack!r}: STACK is {" or ".join(STACKS)}.')
    if args.torch and not re.match(r'(2\.([6-9]|\d\d)|[3-9])(\.|$)', args.torch):
        raise SetupError(f'TORCH={args.torch} is no version from 2.6 on: name one, such as TORCH=2.10.0.')
    if args.stack == 'onedl' and sys.version_info >= (3, 14):  # numpy 2.2, which it asks for, has no build for it
        raise SetupError(
            f'STACK=onedl needs Python 3.10 to 3.13, and this is {sys.version_info[0]}.{sys.version_info[1]}: name '
            f'another, as in `make setup PYTHON=python3.11`.'
        )
    return args


def check_beforehand(stack: str, venv: Path) -> None:
    """Refuses, before anything is written, what would fail after a long wait."""
    for other, packages in STACKS.items():  # they overwrite each other's files
        for name in packages.values() if other != stack else ():
            if distributions(venv, name):
                raise SetupError(
                    f'{venv} holds the {other} stack ({name}), and {stack} would overwrite its files: name another '
                    f'folder (make uses .venv for openmmlab and .venv-onedl for onedl), or remove this one first.'
                )
    disk = next(folder for folder in (venv, *venv.parents) if folder.exists())
    need_gb, free_gb = 1 if distributions(venv, 'torch') else VENV_GB, shutil.disk_usage(disk).free / 1e9
    if free_gb < need_gb:
        raise SetupError(
            f'The environment {venv} needs {need_gb} GB and the disk of {disk} has {free_gb:.1f} GB free: free some, or '
            f'put it elsewhere with VENV=/folder.'
        )


def main() -> int:
    """Sets up; returns the exit code."""
    start = time.monotonic()
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) != signal.SIG_IGN:  # nohup
            signal.signal(number, signal.default_int_handler)  # like Ctrl-C
    try:
        args = parse_args()
        venv = Path(args.venv).absolute()
        torch = args.torch or read_state(venv).get('torch', '')  # `make test` keeps what `make setup TORCH=` chose

        def ready() -> bool:
            return read_state(venv).get('stamp') == stamp(args.stack, torch, venv) and (venv / 'bin/python').exists()

        if ready():
            print(f'{args.venv} is ready ({args.stack}): nothing to do.')
        else:
            check_beforehand(args.stack, venv)
            venv.mkdir(parents=True, exist_ok=True)
            with locked(venv) as lock:
                if not ready():  # else the one that was waited for did it
                    words = set_up(args.stack, torch, venv, lock)
                    print(f'Ready in {time.monotonic() - start:.0f} s: {words}. Activate it with: source {args.venv}/bin/activate')
        problem = gpu_problem(next(venv.glob('lib/python3*/site-packages')))
        if problem:
            print(f'note: {problem}')
        return 0
    except SetupError as error:
        print(f'error: {error}', file=sys.stderr)
        return 2
    except OSError as error:
        print(
            f'error: {error.filename or "A file"} cannot be written or run ({error.strerror}): mend that, or name '
            f'another folder with VENV=/folder.',
            file=sys.stderr,
        )
        return 2
    except KeyboardInterrupt:
        print('Stopped. The same command goes on from here.', file=sys.stderr)
        return 130
