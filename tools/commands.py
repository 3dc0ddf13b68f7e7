"""What the steps of the set-up share: errors of one sentence, commands with heartbeat and log, locks, disk space."""

import contextlib
import fcntl
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

HEARTBEAT_S = 15

COMPILER_ERROR = re.compile(r'\b(fatal )?error: (?!subprocess-exited)')
COMPILER_KILLED = re.compile(
    r'error: Killed signal|virtual memory exhausted|cannot allocate memory|out of memory', re.I
)
DISK_FULL = re.compile(r'No space left on device|Disk quota exceeded')
NOT_FOUND = re.compile(r'No matching distribution found for (\S+)')
NO_NETWORK = re.compile(
    r'NewConnectionError|NameResolutionError|[Nn]ame resolution|Name or service not known|nodename nor servname|'
    r'Network is unreachable|No route to host|Connection (refused|reset|aborted)|ConnectTimeout|ReadTimeout|'
    r'Read timed out|Max retries exceeded|ProxyError|SSLError|CERTIFICATE_VERIFY|IncompleteRead|RemoteDisconnected'
)


class SetupError(Exception):
    """Something that the user can mend: one sentence that names it and the remedy."""


class DiskFullError(SetupError):
    """The disk filled up while something was being written."""


def elapsed(start: float) -> str:
    """The time since a start, for people."""
    minutes, seconds = divmod(int(time.monotonic() - start), 60)
    return f'{minutes}:{seconds:02} min' if minutes else f'{seconds} s'


@contextlib.contextmanager
def step(title: str) -> Iterator[None]:
    """Announces a step, and says how long it took."""
    print(f'{title} ...', flush=True)
    start = time.monotonic()
    yield
    print(f'    done in {elapsed(start)}', flush=True)


def stop(process: subprocess.Popen) -> None:
    """Ends a process and all that it started; it must lead a process group of its own."""
    for number, patience in ((signal.SIGTERM, 5), (signal.SIGKILL, None)):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(patience)
    # A member of the group may outlive its leader: the last signal went to all of them.


def run(
    command: Sequence[object],
    log: Path,
    what: str,
    env: Mapping[str, str] | None = None,
    progress: Callable[[], str] = str,
) -> None:
    """Runs a command, its output going to the end of a log file, with a line every 15 seconds that says it is alive.

    Args:
        command: The program and its arguments.
        log: Where the output goes.
        what: What the command does, as in "installing torch".
        env: The environment, if not this process's.
        progress: Says how far it is.

    Raises:
        SetupError: The command failed.
    """
    words = [str(word) for word in command]
    start = time.monotonic()
    with log.open('ab') as stream:
        begin = stream.tell()
        stream.write(f'$ {shlex.join(words)}\n'.encode())
        stream.flush()
        streams = dict(stdin=subprocess.DEVNULL, stdout=stream, stderr=subprocess.STDOUT)
        process = subprocess.Popen(words, **streams, env=env, close_fds=False, start_new_session=True)
        try:
            while process.poll() is None:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(HEARTBEAT_S)
                    break
                print(f'    {elapsed(start):>9}  {what}{progress()}', flush=True)
        except BaseException:
            stop(process)
            raise
    if process.returncode:
        with log.open('rb') as stream:
            stream.seek(begin)
            output = stream.read().decode(errors='replace')
        raise failure(output, what, log)


def failure(output: str, what: str, log: Path) -> SetupError:
    """The error to raise for a command that failed, by what it printed last."""
    lines = output.rstrip().splitlines()
    errors = [line for line in lines if COMPILER_ERROR.search(line)][:5]
    text = '\n'.join(errors + lines[-30:])
    if COMPILER_KILLED.search(text):
        return SetupError(
            f'The compiler was killed while {what}, most likely for want of memory: run the same command again with '
            f'MAX_JOBS=1 before it, or with more memory; {log} has the details.'
        )
    if DISK_FULL.search(text):
        return DiskFullError(f'The disk filled up while {what}: free some space and run the same command again.')
    if NO_NETWORK.search(text):
        return SetupError(
            f'The package index could not be reached while {what}: check the network, proxy and certificates '
            f'(pip config list), then run the same command again; {log} has the details.'
        )
    not_found = NOT_FOUND.search(text)
    if not_found:
        return SetupError(
            f'pip finds no {not_found[1]} for this Python and system: check which index it looks in (pip config list) '
            f'and whether it can be reached, or try another Python; {log} has the details.'
        )
    before_pip = output.split('error: subprocess-exited-with-error')[0].rstrip().splitlines()  # pip's words come last
    print('\n'.join(f'    | {line}' for line in [*errors, *before_pip[-10:]]), file=sys.stderr)
    return SetupError(f'{what[0].upper()}{what[1:]} failed: what it said is above, and all of it in {log}.')


def check_disk(folder: Path, need_gb: float, what: str, remedy: str) -> None:
    """Refuses to begin where the disk is too small for what is going to be written.

    Args:
        folder: Where it is going to be written; it need not exist yet.
        need_gb: How much.
        what: What needs the space.
        remedy: How to put it elsewhere.
    """
    while not folder.exists():
        folder = folder.parent
    free_gb = shutil.disk_usage(folder).free / 1e9
    if free_gb < need_gb:
        raise SetupError(
            f'{what} needs {need_gb:g} GB and the disk of {folder} has {free_gb:.1f} GB free: free some, or {remedy}.'
        )


@contextlib.contextmanager
def locked(folder: Path, what: str) -> Iterator[None]:
    """Holds a lock on a folder, so that two set-ups do not write the same thing.

    Commands inherit it: where a set-up is killed so hard that it cannot stop its pip, the next one waits for that pip.
    """
    descriptor = os.open(folder, os.O_RDONLY)
    os.set_inheritable(descriptor, True)
    try:
        waited = 0
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if waited % HEARTBEAT_S == 0:
                    print(f'    waiting for another set-up that is {what} ...', flush=True)
                time.sleep(1)
                waited += 1
        yield
    finally:
        os.close(descriptor)
