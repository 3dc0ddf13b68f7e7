"""Sets up an environment for each supported version of torch and Python, runs tests in it, and prints a table.

    python3 tools/test_matrix.py [--only torch=2.6.0] [--full] [--compiled] [--out work_dirs/versions] [--dry-run]

A row takes 5 to 10 minutes on 2 cores and 7 GB of disk, which are freed after it. A row whose Python is not on the PATH
is left out. Exit code 0: no test failed; 1: some did, or an environment could not be set up.
"""

import argparse
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import xml.etree.ElementTree as ElementTree
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
ROWS = [
    dict(name=f'{stack}-torch{torch}-py{python}', stack=stack, torch=torch, python=python)
    for stack, torch, python in (
        ('openmmlab', '2.6.0', '3.10'),
        ('openmmlab', '2.10.0', '3.12'),
        ('openmmlab', '2.11.0', '3.12'),
        ('openmmlab', '2.13.0', '3.11'),
        ('openmmlab', '2.14.1', '3.13'),
        ('onedl', '2.14.1', '3.11'),
    )
]
# mmcv's own operators, built from source: its sources are not in the C++ of torch 2.14 and later.
COMPILED = dict(name='compiled', torch='2.13.0', python='3.11', stack='openmmlab')
BUILD_TOOLS = ['setuptools<81', 'wheel', 'ninja', 'psutil']
BUILD = ['--no-build-isolation', '--no-cache-dir', '--no-deps', 'mmcv==2.1.0']  # a cached wheel may be another torch's
# The fast part: the backbone, the operators, FSDP, and of each task a training that is killed and resumed.
FAST = [
    'tests/models/test_backbone.py',
    'tests/weights/test_checkpoint.py',
    'tests/weights/test_key_maps.py',
    'tests/models/test_fused_block.py',
    'tests/engine/test_layer_decay.py',
    'tests/ops/test_ops.py',
    'tests/config/test_configs.py::test_importing_the_package_imports_no_mm_library',
    'tests/config/test_configs.py::test_the_registry_finds_the_backbone_from_any_directory',
    'tests/engine/test_processes.py::test_a_sharded_model_has_full_state_dicts_and_cannot_be_averaged',
    'tests/engine/test_pretraining.py::test_a_resumed_run_ends_with_the_same_weights_and_averages',
    'tests/apis/test_segmentation.py::test_a_killed_run_resumes_to_the_same_weights',
    'tests/tools/test_tools.py::test_a_killed_run_resumes_to_the_same_weights',
]
VERSIONS = """
import json, timm, torch, torchvision
found = {module.__name__: module.__version__ for module in (torch, torchvision, timm)}
print(json.dumps({**found, 'build': f'CUDA {torch.version.cuda}' if torch.version.cuda else 'CPU'}))
"""
HOURS = 3  # the longest that a step may take
COLUMNS = ['torch', 'torchvision', 'timm', 'python', 'stack', 'build', 'set-up s', 'passed', 'failed', 'skipped', 's']


def find_python(version: str) -> str | None:
    """A Python of a version by its name, if it runs: pyenv puts names on the PATH that do not."""
    path = shutil.which(f'python{version}')
    works = path and subprocess.run([path, '-c', ''], capture_output=True).returncode == 0
    return path if works else None


def run(command: list[object], log: Path, what: str, **variables: str) -> None:
    """Run a command with its output in a log; raises RuntimeError where it fails or takes too long."""
    print(f'    {what}', flush=True)
    with log.open('a') as sink:
        streams = dict(stdin=subprocess.DEVNULL, stdout=sink, stderr=sink, env={**os.environ, **variables})
        process = subprocess.Popen([*map(str, command)], cwd=ROOT, start_new_session=True, **streams)
    try:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(HOURS * 3600)
    finally:  # also what it started and left
        for number, patience in ((signal.SIGTERM, 30), (signal.SIGKILL, None)):
            with contextlib.suppress(ProcessLookupError, subprocess.TimeoutExpired):
                os.killpg(process.pid, number)
                process.wait(patience)
    if process.returncode:
        lines = [line.strip() for line in log.read_text(errors='replace').splitlines()]
        raise RuntimeError(f'{what} failed: {next(filter(None, reversed(lines)), "")}')


def set_up(row: dict, venv: Path, log: Path) -> dict:
    """Make the environment of a row; returns the versions that are in it."""
    python = venv / 'bin/python'
    arguments = ['--stack', row['stack'], '--venv', venv, '--torch', row['torch']]
    run([find_python(row['python']), ROOT / 'tools/setup_env.py', *arguments], log, 'set-up')
    if row['name'] == 'compiled':
        run([python, '-m', 'pip', 'uninstall', '-y', 'mmcv-lite'], log, 'removing mmcv-lite')
        run([python, '-m', 'pip', 'install', *BUILD_TOOLS], log, 'build tools')
        run([python, '-m', 'pip', 'install', *BUILD], log, "building mmcv's operators", MMCV_WITH_OPS='1')
    return json.loads(subprocess.run([python, '-c', VERSIONS], capture_output=True, check=True).stdout)


def run_tests(row: dict, venv: Path, log: Path, full: bool) -> dict:
    """Run the tests of a row; returns how many had which outcome, and the names of those that failed."""
    which = [] if full else FAST
    if row['name'] == 'compiled':
        which = ['tests/ops/test_ops.py', 'tests/ops/test_ops_models.py']
    report = log.with_suffix('.xml')
    report.unlink(missing_ok=True)
    options = ['-q', '-n', '2', '--dist', 'worksteal', '-p', 'no:cacheprovider', f'--junitxml={report}']
    try:
        run([venv / 'bin/python', '-m', 'pytest', *options, *which], log, 'tests')
    except RuntimeError:
        if not report.exists():  # no test ran
            raise
    suite = ElementTree.parse(report).getroot().find('testsuite')
    bad = [case for case in suite.iter('testcase') if {'failure', 'error'} & {part.tag for part in case}]
    skipped = int(suite.get('skipped'))
    failures = [f'{case.get("classname")}::{case.get("name")}' for case in bad]
    passed = int(suite.get('tests')) - skipped - len(bad)
    return dict(passed=passed, failed=len(bad), skipped=skipped, failures=failures)


def do_row(row: dict, folder: Path, full: bool) -> dict:
    """Set up, test and remove the environment; returns what to report, an error included."""
    venv, log = folder / row['name'], folder / f'{row["name"]}.log'
    result, start = dict(row, error=''), time.monotonic()
    log.unlink(missing_ok=True)
    try:
        result |= set_up(row, venv, log)
        result['set-up s'], start = round(time.monotonic() - start), time.monotonic()
        result |= run_tests(row, venv, log, full)
        result['s'] = round(time.monotonic() - start)
    except (RuntimeError, OSError, subprocess.CalledProcessError) as error:
        result['error'] = f'{error} (all of it: {log})'
    finally:
        shutil.rmtree(venv, ignore_errors=True)
    return result


def table(results: list[dict], left_out: list[str]) -> str:
    """The report in Markdown."""
    rows = [COLUMNS, ['---'] * len(COLUMNS), *([str(result.get(name, '-')) for name in COLUMNS] for result in results)]
    notes = [f'{result["name"]}: failed {name}' for result in results for name in result.get('failures', [])]
    notes += [f'{result["name"]}: {result["error"]}' for result in results if result['error']]
    return '\n'.join([f'| {" | ".join(row)} |' for row in rows] + [f'\n{note}' for note in notes + left_out] + [''])


def parse_args() -> tuple[argparse.Namespace, list[dict]]:
    """The parsed command line, and the rows that it asks for."""
    parser = argparse.ArgumentParser(description='Test with all supported versions.')
    choice = 'rows with this value of torch, python, stack or name; with several, rows with all of them'
    parser.add_argument('--only', nargs='+', default=[], metavar='KEY=VALUE', help=choice)
    parser.add_argument('--full', action='store_true', help='all tests but the slow ones, not the fast part alone')
    parser.add_argument('--compiled', action='store_true', help="one more row: mmcv's operators, built from source")
    parser.add_argument('--folder', type=Path, default=ROOT / 'work_dirs/matrix', help='for environments and logs')
    parser.add_argument('--out', type=Path, help='where the table goes, as .json and .md')
    parser.add_argument('--dry-run', action='store_true', help='only print what would be done')
    args = parser.parse_args()
    wanted = [one.partition('=')[::2] for one in args.only]
    rows = [*ROWS, *[COMPILED] * args.compiled]
    rows = [row for row in rows if all(row.get(key) == value for key, value in wanted)]
    if not rows:
        parser.error(f'no row has {" ".join(args.only)}')
    return args, rows


def main() -> int:
    """Run the rows; returns the exit code."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # like Ctrl-C: the environment is removed
    args, rows = parse_args()
    absent = [row for row in rows if not find_python(row['python'])]
    left_out = [f'{row["name"]} was left out: no python{row["python"]} runs here.' for row in absent]
    rows = [row for row in rows if row not in absent]
    print('\n'.join([*left_out, f'{len(rows)} rows: {", ".join(row["name"] for row in rows)}']), flush=True)
    if args.dry_run:
        return 0
    args.folder.mkdir(parents=True, exist_ok=True)
    results, start = [], time.monotonic()
    for number, row in enumerate(rows, 1):
        print(f'[{number}/{len(rows)}] {row["name"]}, after {(time.monotonic() - start) / 60:.0f} min', flush=True)
        results.append(do_row(row, args.folder.resolve(), args.full))
        print(table(results, left_out), flush=True)
        if args.out:
            args.out.with_name(f'{args.out.name}.md').write_text(table(results, left_out))
            args.out.with_name(f'{args.out.name}.json').write_text(json.dumps(results, indent=1) + '\n')
    return int(not results or any(result['error'] or result['failed'] for result in results))


if __name__ == '__main__':
    sys.exit(main())
