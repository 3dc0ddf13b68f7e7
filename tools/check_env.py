"""Compares what is installed with what was tested, and says what to do about each difference.

    python tools/check_env.py [--json]

It needs nothing but Python. Exit code 0: all is fine, or merely in another version than the tested one, which is a note
and no error. Exit code 1: something is missing or broken; the last column of its row says what to run.
"""

from __future__ import annotations  # so that even a Python that is too old can be told so

import argparse
import importlib.metadata
import json
import os
import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
OLDEST_PYTHON = (3, 10)

# Import name -> distribution, of either stack. The same import names on both sides: one overwrites the other's files.
STACKS = {
    'openmmlab': dict(mmengine='mmengine', mmcv='mmcv-lite', mmdet='mmdet', mmseg='mmsegmentation'),
    'onedl': dict(
        mmengine='onedl-mmengine', mmcv='onedl-mmcv', mmdet='onedl-mmdetection', mmseg='onedl-mmsegmentation'
    ),
}
COMMON = dict(
    torch='torch',
    torchvision='torchvision',
    timm='timm',
    numpy='numpy',
    cv2='opencv-python',
    pycocotools='pycocotools',
    ftfy='ftfy',
    regex='regex',
)
OWN = dict(convnext_backbone='convnext-backbone')

# Proves that mmcv's compiled operators work, on the GPU too where there is one: they may have been built without it.
PROOF = """
from mmcv.ops import nms
import torch
for device in ['cpu'] + ['cuda'] * torch.cuda.is_available():
    boxes = torch.tensor([[0, 0, 9, 9], [0, 0, 9, 8], [20, 20, 29, 29]], dtype=torch.float32, device=device)
    kept = nms(boxes, torch.tensor([.9, .8, .7], device=device), 0.5)[1]
    assert kept.tolist() == [0, 2], kept
"""

# Runs in a process of its own, which may crash. A line per module, marked since packages print things of their own.
PROBE = """
import importlib, json, sys
sys.path[:] = [folder for folder in sys.path if folder]  # '' would import whatever lies in the working directory
for name in sys.argv[2:]:
    print('probe', json.dumps(dict(name=name)), flush=True)
    found = dict(name=name, error='', needs='', version='')
    try:
        if name == 'mmcv.ops':
            exec(sys.argv[1])
        else:
            found['version'] = str(getattr(importlib.import_module(name), '__version__', ''))
    except ModuleNotFoundError as error:
        found.update(error=f'there is no module {error.name}', needs=(error.name or '').split('.')[0])
    except BaseException as error:
        found.update(error=f'{type(error).__name__}: {error}')
    print('\\nprobe', json.dumps(found), flush=True)
"""


def read_constraints(stack: str) -> dict[str, str]:
    """The tested versions by distribution name, those for this Python; `python` and `c++` from the comments."""
    tested = {}
    line_form = re.compile(r'(?:# )?([\w.+-]+)={2,3}([\w.]+)(?:; python_version (<|>=) "3\.(\d+)")?$')
    for line in (ROOT / 'constraints' / f'{stack}.txt').read_text(encoding='utf-8').splitlines():
        match = line_form.match(line)
        if match:
            name, version, comparison, minor = match.groups()
            newer = comparison is None or sys.version_info >= (3, int(minor))
            if comparison is None or newer == (comparison == '>='):
                tested[name] = version
    return tested


def installed_version(distribution: str) -> str:
    """The version that pip knows of, or nothing."""
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return ''


def installed_stacks() -> list[str]:
    """The stacks of which anything is installed."""
    return [name for name, packages in STACKS.items() if any(map(installed_version, packages.values()))]


def probe(names: list[str]) -> dict[str, dict]:
    """Imports modules in another process. One that crashes it is noted, and another process goes on after it."""
    results: dict[str, dict] = {}
    while len(results) < len(names):
        rest = [name for name in names if name not in results]
        command = [sys.executable, '-W', 'ignore', '-c', PROBE, PROOF, *rest]
        try:
            run = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, timeout=600)
            output, ending = run.stdout, f'importing it ends Python with exit code {run.returncode}'
        except subprocess.TimeoutExpired as error:
            output, ending = (error.stdout or b'').decode(errors='replace'), 'importing it takes more than 10 minutes'
        begun = [json.loads(line[6:]) for line in output.splitlines() if line.startswith('probe {')]
        results.update({found['name']: found for found in begun if 'error' in found})
        unfinished = ([found['name'] for found in begun if found['name'] not in results] + rest)[0]
        if unfinished not in results:
            results[unfinished] = dict(name=unfinished, error=ending, needs='', version='')
    return results


def row(package: str, installed: str, tested: str, status: str = '', remedy: str = '', detail: str = '') -> dict:
    """One row of the table; without a status, it is `ok` or `other` by the version."""
    if not status:
        public = installed.split('+')[0]  # 2.13.0+cu130 is 2.13.0
        status = 'ok' if not tested or public == tested or public.startswith(tested + '.') else 'other'
    return dict(package=package, installed=installed, tested=tested, status=status, remedy=remedy, detail=detail)


def python_row(tested: str) -> dict:
    """The row of Python itself."""
    if sys.version_info < OLDEST_PYTHON:
        return row('python', platform.python_version(), tested, 'broken', 'install Python 3.10 or newer')
    return row('python', platform.python_version(), tested)


def install_command(package: str, stack: str, tested: dict[str, str]) -> str:
    """The command that installs a package in the tested version."""
    pip = f'{sys.executable} -m pip install'
    if package in ('torch', 'torchvision'):  # each works only with its own build of the other
        return f'{pip} torch==={tested["torch"]} torchvision=={tested["torchvision"]}'
    name = STACKS[stack]['mmcv']
    if package in (name, 'mmcv.ops'):
        build = f"MMCV_WITH_OPS=1 {pip} --no-cache-dir --no-build-isolation --force-reinstall --no-deps '{name}=={{}}'"
        return f"`make setup STACK={stack}`, or {pip} 'setuptools<81' wheel ninja psutil; " + build.format(tested[name])
    if package == 'convnext-backbone':
        return f'{pip} -e {ROOT}'
    return f'{pip} {package}=={tested[package]}'


def package_row(package: str, module: str, found: dict[str, dict], stack: str, tested: dict[str, str]) -> dict:
    """The row of one package, by what importing it gave."""
    result = found[module]
    installed = installed_version(package) or result['version']
    if not result['error']:
        return row(package, installed, tested.get(package, ''))
    needs = result['needs']
    if needs == module.split('.')[0]:
        status, detail = ('broken', result['error']) if installed else ('missing', '')
        return row(package, installed, tested.get(package, ''), status, install_command(package, stack, tested), detail)
    if found.get(needs, {}).get('error'):
        remedy = f'mend {needs} first'
    elif needs:
        remedy = f'{sys.executable} -m pip install -c {ROOT / "constraints" / stack}.txt {needs}'
    else:
        remedy = install_command(package, stack, tested)
    return row(package, installed, tested.get(package, ''), 'broken', remedy, ' '.join(result['error'].split())[:300])


def gpu() -> str:
    """Which GPU torch sees, in words."""
    code = 'import torch; print(torch.cuda.get_device_name() if torch.cuda.is_available() else "none visible")'
    answer = subprocess.run([sys.executable, '-W', 'ignore', '-c', code], stdout=-1, stderr=-3, text=True)
    return answer.stdout.strip() if answer.returncode == 0 else 'unknown: torch does not import'


def gpu_problem(site_packages: Path) -> str:
    """Why torch does not see this machine's GPU, in a sentence."""
    return ''


def check() -> dict:
    """All rows, the stack, and the GPU."""
    stacks = installed_stacks()
    stack = stacks[0] if stacks else 'openmmlab'
    tested = read_constraints(stack)
    packages = {**COMMON, **STACKS[stack]}
    found = probe([*packages, 'mmcv.ops', *OWN])
    rows = [python_row(tested['python'])]
    rows += [package_row(package, module, found, stack, tested) for module, package in packages.items()]
    operators = package_row('mmcv.ops', 'mmcv.ops', found, stack, tested)
    rows += [dict(operators, installed='' if operators['detail'] else installed_version(STACKS[stack]['mmcv']))]
    rows += [package_row(package, module, found, stack, tested) for module, package in OWN.items()]
    if len(stacks) > 1:
        remedy = 'make a new environment: they overwrite each other, and removing one now takes files from the other'
        rows.append(row('stack', ' and '.join(stacks), 'one of them', 'broken', remedy))
    ok = all(each['status'] in ('ok', 'other') for each in rows)
    return dict(ok=ok, stack=' and '.join(stacks) or 'none', gpu=gpu(), python=sys.executable, rows=rows)


def print_table(result: dict) -> None:
    """Prints the result for people."""
    print(f'Environment: {sys.prefix}\nMM stack: {result["stack"]}\nGPU: {result["gpu"]}\n')
    cells = [('package', 'installed', 'tested', 'status', 'remedy')]
    for each in result['rows']:
        remedy = ' -> '.join(part for part in (each['detail'], each['remedy']) if part)
        cells.append((each['package'], each['installed'] or '-', each['tested'] or '-', each['status'], remedy))
    widths = [max(len(line[column]) for line in cells) for column in range(4)]
    for line in cells:
        print('  '.join([line[column].ljust(widths[column]) for column in range(4)] + [line[4]]).rstrip())
    if not result['ok']:
        print('\nSome packages are missing or broken: run what their rows say, from the top.')
        for folder in ('.venv', '.venv-onedl'):
            if (ROOT / folder / 'bin/python').exists() and Path(sys.prefix).resolve() != (ROOT / folder).resolve():
                print(f'This is not the environment that `make setup` made: for that, {folder}/bin/python {__file__}')
    elif any(each['status'] == 'other' for each in result['rows']):
        print('\nEverything works; `other` marks a version that was not tested.')
    else:
        print('\nEverything is as tested.')


def main() -> int:
    """Checks; returns the exit code."""
    parser = argparse.ArgumentParser(description='Compare what is installed with what was tested.')
    parser.add_argument('--json', action='store_true', help='print the result as JSON')
    as_json = parser.parse_args().json
    result = check()
    if as_json:
        print(json.dumps(result, indent=2))
    else:
        print_table(result)
    return 0 if result['ok'] else 1


if __name__ == '__main__':
    sys.exit(main())
