"""Compares what is installed with what was tested, and says what to do about each difference.

    python tools/check_env.py [--json]

It needs nothing but Python. Exit code 0: everything works, perhaps in another version than the tested one, which is a
note and no error. Exit code 1: something is missing or broken; the last column of its row says what to run.
"""

from __future__ import annotations  # so that even a Python that is too old can be told so

import argparse
import contextlib
import faulthandler
import importlib
import importlib.metadata
import json
import platform
import sys
import warnings
from pathlib import Path

from environment.requirements import COMMON, ROOT, STACKS, gpu_problem, read_constraints


def kind_of_operators() -> str:
    """Whether mmcv's operators are compiled, after a try of one, on the GPU too."""
    import mmcv.ops
    import torch

    for device in ['cpu'] + ['cuda'] * torch.cuda.is_available():
        boxes = torch.tensor([[0, 0, 9, 9], [0, 0, 9, 8], [20, 20, 29, 29]], dtype=torch.float32, device=device)
        kept = mmcv.ops.nms(boxes, torch.tensor([0.9, 0.8, 0.7], device=device), 0.5)[1].tolist()
        assert kept == [0, 2], f'on {device} nms kept {kept}'
    return 'torchvision' if sys.modules['mmcv._ext'].__file__.endswith('.py') else 'compiled'


def import_error(module: str) -> tuple[str, str]:
    """Why a module cannot be imported, and which one it lacks; nothing where it can."""
    try:
        importlib.import_module(module)
        return '', ''
    except ModuleNotFoundError as error:
        return f'there is no module {error.name}', error.name or module
    except BaseException as error:  # some packages end Python
        return ' '.join(f'{type(error).__name__}: {error}'.split())[:300], ''


def gpu() -> str:
    """The GPU that torch uses, or why it uses none."""
    torch = sys.modules.get('torch')
    if torch is None:
        return 'unknown: torch does not import'
    with warnings.catch_warnings(record=True) as caught:
        if torch.cuda.is_available():
            return torch.cuda.get_device_name()
    why = ' '.join(str(each.message) for each in caught) or '`nvidia-smi` may say why'
    return gpu_problem(Path(torch.__file__).parent, why) or 'none visible'


def row(package: str, installed: str, tested: str, status: str = '', remedy: str = '') -> dict:
    """A row of the table; without a status, it is `ok` or `other` by the version."""
    if not status:
        public = installed.split('+')[0]  # 2.14.1+cu130 is 2.14.1
        status = 'ok' if not tested or public == tested or public.startswith(tested + '.') else 'other'
    return dict(package=package, installed=installed, tested=tested, status=status, remedy=remedy)


def remedy_for(package: str, stack: str) -> str:
    """The command that installs a package, or a module that others lack."""
    pip, versions = f'{sys.executable} -m pip', read_constraints(stack)
    operators = f'{sys.executable} -m convnext_backbone.ops install'
    mmcv = f'{pip} install --force-reinstall --no-deps {STACKS[stack]["mmcv"]}'
    torch = f'{pip} install torch==={versions["torch"]} torchvision=={versions["torchvision"]}'  # made for each other
    remedies = {
        'torch': torch,
        'torchvision': torch,
        'mmcv._ext': operators,
        'mmcv.ops': f'{pip} uninstall -y mmcv; {mmcv}; {operators}',  # compiled for another torch
        'pkg_resources': f"{pip} install 'setuptools<81'",
        'convnext-backbone': f'{pip} install -e {ROOT}',
    }
    return remedies.get(package, f'{pip} install -c {ROOT / "constraints" / stack}.txt {package}')


def package_row(package: str, module: str, stack: str) -> dict:
    """The row of a package, by whether its module can be imported."""
    known = [each.version for each in importlib.metadata.distributions(name=package)]
    installed, tested = ''.join(known[:1]), read_constraints(stack).get(package, '')
    error, lacks = import_error(module)
    if not error:
        return row(package, kind_of_operators() if module == 'mmcv.ops' else installed, tested)
    name = lacks if lacks in ('mmcv._ext', 'pkg_resources') else lacks.split('.')[0]
    remedy = remedy_for(package if name in ('', module) else {**COMMON, **STACKS[stack]}.get(name, name), stack)
    if lacks == module and not installed:  # timm is for classification only, and in neither stack's extra
        return row(package, '', tested, 'other' if package == 'timm' else 'missing', remedy)
    return row(package, installed, tested, 'broken', f'{error} -> {remedy}')


def check() -> dict:
    """All rows, the stack, and the GPU."""
    installed = {each.metadata['Name'] for each in importlib.metadata.distributions()}
    stacks = [name for name, packages in STACKS.items() if installed & {*packages.values()}]
    stack = stacks[0] if stacks else 'openmmlab'
    rows = [row('python', platform.python_version(), read_constraints(stack)['python'])]
    # This package last: from then on it provides mmcv with operators.
    packages = {**COMMON, **STACKS[stack], 'mmcv.ops': 'mmcv.ops', 'convnext_backbone': 'convnext-backbone'}
    if 'mmcv' in installed:
        packages['mmcv'] = 'mmcv'  # with compiled operators, installed by the user
    rows += [package_row(package, module, stack) for module, package in packages.items()]
    if len(stacks) > 1:
        remedy = 'make a new environment: they overwrite each other, and removing one now takes files from the other'
        rows.append(row('stack', ' and '.join(stacks), 'one of them', 'broken', remedy))
    ok = all(each['status'] in ('ok', 'other') for each in rows)
    return dict(ok=ok, stack=' and '.join(stacks) or 'none', gpu=gpu(), python=sys.executable, rows=rows)


def print_table(result: dict) -> None:
    """Print the result for people."""
    print(f'Environment: {sys.prefix}\nMM stack: {result["stack"]}\nGPU: {result["gpu"]}\n')
    lines = [('package', 'installed', 'tested', 'status', 'remedy')]
    lines += [tuple(each[name] or '-' * (name != 'remedy') for name in lines[0]) for each in result['rows']]
    widths = [max(map(len, column)) for column in [*zip(*lines)][:4]] + [0]  # noqa: B905 (3.10)
    for line in lines:
        print('  '.join(map(str.ljust, line, widths)).rstrip())
    if not result['ok']:
        print('\nSome packages are missing or broken: run what their rows say, from the top.')
    elif any(each['status'] == 'other' for each in result['rows']):
        print('\nEverything works; `other` marks a version that was not tested.')
    else:
        print('\nEverything is as tested.')


def main() -> int:
    """Check; returns the exit code."""
    parser = argparse.ArgumentParser(description='Compare what is installed with what was tested.')
    parser.add_argument('--json', action='store_true', help='print the result as JSON')
    as_json = parser.parse_args().json
    faulthandler.enable()  # a package that crashes Python is named in what this prints
    warnings.simplefilter('ignore')
    with contextlib.redirect_stdout(sys.stderr):  # packages print things of their own
        result = check()
    print(json.dumps(result, indent=2)) if as_json else print_table(result)
    return 0 if result['ok'] else 1


if __name__ == '__main__':
    sys.path[:1] = []  # modules in the folder of this file are not meant
    sys.exit(main())
