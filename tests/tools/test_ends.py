"""How tools end: exit code and sentence, whatever strikes. Exact."""

import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from conftest import REPOSITORY

from convnext_backbone.utils.cli import common_parser, user_errors
from convnext_backbone.utils.errors import UserError

sys.path.insert(0, str(REPOSITORY / 'tools'))


def swallow_interrupt() -> None:
    """As mmengine does where it lays out a config."""
    try:
        raise KeyboardInterrupt
    except:  # noqa: E722
        raise SyntaxError('Failed to format the config file')  # noqa: B904


def explain_swallowed() -> None:
    try:
        swallow_interrupt()
    except SyntaxError as error:
        raise UserError('The config cannot be built.') from error


def lose_worker_meanwhile() -> None:
    """As torch's handler of SIGCHLD does: it raises wherever the process is."""
    try:
        raise UserError('A process that loads data was killed.')
    finally:
        raise RuntimeError('DataLoader worker (pid 7) is killed by signal: Killed.')


def raiser(error: BaseException):
    def main() -> None:
        raise error

    return main


FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
SECRET = PermissionError(errno.EACCES, os.strerror(errno.EACCES), 'a\x1b[2Jb.json')


@pytest.mark.parametrize(
    ('main', 'code', 'said'),
    [
        (lambda: None, 0, ''),
        (lambda: 3, 3, ''),
        (raiser(UserError('It is wrong.')), 2, 'error: It is wrong.\n'),
        (raiser(KeyboardInterrupt()), 130, 'interrupted\n'),
        (swallow_interrupt, 130, 'interrupted\n'),
        (explain_swallowed, 130, 'interrupted\n'),
        (lose_worker_meanwhile, 2, 'error: A process that loads data was killed.\n'),
        (
            raiser(FULL),
            2,
            'error: The output of the command cannot be written: No space left on device; what was saved before is '
            'untouched. Free space there or choose another folder.\n',
        ),
        (
            raiser(SECRET),
            2,
            "error: 'a\\x1b[2Jb.json' cannot be used: Permission denied; check its path, its permissions and "
            '`ulimit -a`.\n',
        ),
        (lambda: print('f\udcfcr'), 0, ''),
    ],
)
def test_a_tool_ends_with_code_and_sentence(main, code, said, capsys):
    assert user_errors(main)() == code
    assert capsys.readouterr().err == said


@pytest.mark.parametrize('error', [ValueError('a fault of the program'), SystemExit(143), OSError('without a file')])
def test_a_fault_of_the_program_keeps_its_traceback(error):
    with pytest.raises(type(error)) as raised:
        user_errors(raiser(error))()
    assert raised.value is error


@pytest.mark.parametrize('unbuffered', ['', pytest.param('1', marks=pytest.mark.slow)])
def test_an_output_that_nobody_reads_ends_without_a_word(unbuffered, tmp_path):
    tool = f'{sys.executable} {REPOSITORY}/tools/train.py --list'
    result = subprocess.run(
        ['bash', '-c', f'{tool} | true; exit ${{PIPESTATUS[0]}}'],
        cwd=tmp_path,
        env={**os.environ, 'PYTHONUNBUFFERED': unbuffered},
        capture_output=True,
        text=True,
    )
    assert (result.returncode, result.stdout, result.stderr) == (141, '', '')


def test_a_full_disk_for_the_output_is_named(tmp_path):
    with Path('/dev/full').open('w') as full:
        command = [sys.executable, REPOSITORY / 'tools/train.py', '--list']
        result = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True)
    assert result.returncode == 2 and result.stderr.startswith('error: The output of the command cannot be written: No')


def test_ctrl_c_while_libraries_are_imported_is_one_word():
    command = [sys.executable, REPOSITORY / 'tools/train.py', '--list']
    process = subprocess.Popen(
        command,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),  # ignored in the background
    )
    deadline = time.monotonic() + 60
    while 'libtorch_cpu' not in Path(f'/proc/{process.pid}/maps').read_text():
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.005)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert (process.returncode, said) == (130, 'interrupted\n')


@pytest.mark.slow
def test_ctrl_c_that_python_ignores_is_raised_again(monkeypatch):
    monkeypatch.setattr(sys, 'unraisablehook', sys.unraisablehook)  # importing it is for a tool alone
    handler = signal.getsignal(signal.SIGINT)
    from interruptible import _raise_again

    signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in the background
    try:
        with pytest.raises(KeyboardInterrupt):
            _raise_again(SimpleNamespace(exc_value=KeyboardInterrupt()))
            time.sleep(10)
    finally:
        signal.signal(signal.SIGINT, handler)


def parse(*words: str) -> dict | None:
    return common_parser('').parse_args(['CONFIG', '--cfg-options', *words]).cfg_options


@pytest.mark.parametrize(
    'words',
    [
        ('train_cfg.max_epochs', '2'),
        ('a=1', 'lr'),
        ('lr', '=', '1'),
        ('=1',),
        ('a..b=1',),
        ('a=[1,2',),
        ('scale=(1333,800),(1333,640)',),
    ],
)
def test_a_word_that_is_no_setting_is_named(words):
    with pytest.raises(UserError) as refused:
        parse(*words)
    wrong = next(word for word in words if word != 'a=1')
    assert str(refused.value) == (
        f'--cfg-options {wrong} is no KEY=VALUE: write it without spaces, and lists in quotes and brackets, such as '
        f'"scale=[(1333,800),(1333,640)]".'
    )


def test_settings_are_read_as_mmengine_reads_them():
    words = ['a=1', 'b.c=[(1,2),(3,4)]', 'd=', 'e=x=y', 'f=1e-3', 'g=None', 'a=2']
    expected = {'a': 2, 'b.c': [(1, 2), (3, 4)], 'd': '', 'e': 'x=y', 'f': 1e-3, 'g': None}
    assert parse(*words) == expected
