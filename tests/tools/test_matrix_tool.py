"""tools/test_matrix.py: the rows that it plans, leaves out and reports; nothing is installed."""

import json
import os
import sys
from pathlib import Path

import pytest
from conftest import REPOSITORY, run_tool

sys.path.insert(0, str(REPOSITORY / 'tools'))
from test_matrix import FAST  # noqa: E402


@pytest.fixture
def environment(tmp_path) -> dict:
    """A PATH with a Python 3.11 whose set-ups fail, and a 3.13 as of pyenv that does not run."""
    folder = tmp_path / 'bin'
    folder.mkdir()
    for name, script in (
        ('python3.11', '[ "$1" = -c ] || { echo error: no network; exit 2; }'),
        ('python3.13', 'exit 127'),
    ):
        (folder / name).write_text(f'#!/bin/sh\n{script}\n')
        (folder / name).chmod(0o755)
    return dict(os.environ, PATH=str(folder))


def test_rows_without_their_python_are_left_out_and_named(environment, tmp_path):
    result = run_tool('test_matrix.py', '--dry-run', '--compiled', cwd=tmp_path, env=environment)
    *left_out, rows = result.stdout.splitlines()
    assert result.returncode == 0 and rows == '3 rows: openmmlab-torch2.13.0-py3.11, onedl-torch2.14.1-py3.11, compiled'
    assert [line.partition(' was left out: no ')[2] for line in left_out] == [
        f'python3.{minor} runs here.' for minor in (10, 12, 12, 13)
    ]


@pytest.mark.parametrize(
    ('only', 'expected'),
    [
        (['torch=2.13.0'], ['openmmlab-torch2.13.0-py3.11']),
        (['python=3.11', 'stack=onedl'], ['onedl-torch2.14.1-py3.11']),
        (['name=compiled'], []),
        (['torch=1.0'], []),
        (['colour=red'], []),
    ],
)
def test_rows_are_chosen(only, expected, environment, tmp_path):
    result = run_tool('test_matrix.py', '--dry-run', '--only', *only, cwd=tmp_path, env=environment)
    if expected:
        assert result.stdout == f'{len(expected)} rows: {", ".join(expected)}\n'
    else:
        assert result.returncode == 2 and f'no row has {" ".join(only)}' in result.stderr


def test_it_goes_on_after_a_row_that_fails(environment, tmp_path):
    flags = ['--folder', tmp_path / 'matrix', '--out', tmp_path / 'versions']
    result = run_tool('test_matrix.py', '--only', 'python=3.11', *flags, cwd=tmp_path, env=environment)
    rows = json.loads((tmp_path / 'versions.json').read_text())
    assert result.returncode == 1 and [row['torch'] for row in rows] == ['2.13.0', '2.14.1']
    assert all(row['error'].startswith('set-up failed: error: no network') for row in rows)
    assert (tmp_path / 'versions.md').read_text() in result.stdout
    assert {path.suffix for path in (tmp_path / 'matrix').iterdir()} == {'.log'}


@pytest.mark.parametrize('place', FAST)
def test_the_tests_of_the_fast_part_exist(place):
    file, _, name = place.partition('::')
    assert f'def {name or "test_"}' in Path(REPOSITORY, file).read_text()
