"""Compares what is installed with what was tested, and says what to do about each difference.

    python tools/check_env.py [--json]

It needs nothing but Python. Exit code 0: all is fine, or merely in another version than the tested one, which is a note
and no error. Exit code 1: something is missing or broken; the last column of its row says what to run.
"""

from __future__ import annotations  # so that even a Python that is too old can be told so

import argparse
import contextlib
import faulthandler
import importlib
import importlib.metadata
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
# Import name -> distribution, of either stack. The same import names on both sides: one overwrites the other's files.
STACKS = dict(
    openmmlab=dict(mmengine='mmengine', mmcv='mmcv-lite', mmdet='mmdet', mmseg='mmsegmentation'),
    onedl=dict(mmengine='onedl-mmengine', mmcv='onedl-mmcv', mmdet='onedl-mmdetection', mmseg='onedl-mmsegmentation'),
)
COMMON = dict(torch='torch', torchvision='torchvision', timm='timm', numpy='numpy', cv2='opencv-python')
COMMON.update(pycocotools='pycocotools', ftfy='ftfy', regex='regex')
DRIVERS = {'11': 450, '12': 525, '13': 580}  # the oldest that runs what was built with each CUDA


def read_constraints(stack: str) -> dict[str, str]:
    """The tested versions by distribution name, those for this Python; `python` from the comment."""
    line = r'^(?:# )?([\w.-]+)={2,3}([\w.]+)(?:; python_version (<|>=) "3\.(\d+)")?$'
    text = (ROOT / 'constraints' / f'{stack}.txt').read_text(encoding='utf-8')
    found = re.findall(line, text, re.M)
    fits = {'': True, '<': sys.version_info.__lt__, '>=': sys.version_info.__ge__}
    return {name: version for name, version, sign, minor in found if not sign or fits[sign]((3, int(minor)))}


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


def driver_version() -> str:
    """The version of the NVIDIA driver where there is a GPU that is not hidden, or nothing."""
    driver = Path('/proc/driver/nvidia/version')
    if os.environ.get('CUDA_VISIBLE_DEVICES', 'all') in ('', '-1'):
        return ''
    if driver.exists():  # in a container that was not given the GPU, too
        found = re.search(r'Module.*? (\d+\.[\d.]+)', driver.read_text())
        return found[1] if found and any(Path('/dev').glob('nvidia[0-9]*')) else ''
    if not shutil.which('nvidia-smi'):  # Windows' subsystem for Linux has it
        return ''
    command = ['nvidia-smi', '--query-gpu=driver_version', '--format=csv,noheader']
    return (subprocess.run(command, stdout=-1, stderr=-3, text=True).stdout.split() or [''])[0]


def gpu_problem(torch_folder: Path, otherwise: str = '') -> str:
    """Why torch cannot use this machine's NVIDIA GPU, in a sentence.

    Args:
        torch_folder: Where torch is; it is not imported.
        otherwise: What to say where the versions of driver and torch are no reason.
    """
    driver, file = driver_version(), torch_folder / 'version.py'
    if not driver or not file.exists():
        return ''
    torch, cuda = re.findall(r"^(?:__version__|cuda)\b.*= '?([\w.+]+)", file.read_text(), re.M)
    has, wants = int(driver.split('.')[0]), DRIVERS.get(cuda.split('.')[0], 0)
    if cuda == 'None':
        otherwise = f'it is a build without CUDA; `pip install torch==={torch.split("+")[0]} torchvision` has one'
    elif has < wants:
        older = ', or torch 2.10.0, which runs on yours (`make setup TORCH=2.10.0`)' if has >= DRIVERS['12'] else ''
        otherwise = f'CUDA {cuda}, which it was built for, wants driver {wants} or newer; install that{older}'
    return otherwise and f'There is an NVIDIA GPU (driver {driver}) that torch {torch} cannot use: {otherwise}.'


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
    """One row of the table; without a status, it is `ok` or `other` by the version."""
    if not status:
        public = installed.split('+')[0]  # 2.14.1+cu130 is 2.14.1
        status = 'ok' if not tested or public == tested or public.startswith(tested + '.') else 'other'
    return dict(package=package, installed=installed, tested=tested, status=status, remedy=remedy)


def package_row(package: str, module: str, stack: str) -> dict:
    """The row of one package, by what importing it gives."""
    versions = read_constraints(stack)
    known = [each.version for each in importlib.metadata.distributions(name=package)]
    installed, tested = ''.join(known[:1]), versions.get(package, '')
    error, needs = import_error(module)
    if not error:
        return row(package, kind_of_operators() if module == 'mmcv.ops' else installed, tested)
    pip = f'{sys.executable} -m pip install'
    name = needs if needs in ('mmcv._ext', 'pkg_resources') else needs.split('.')[0]
    name = package if name in ('', module) else {**COMMON, **STACKS[stack]}.get(name, name)
    both = f'{pip} torch==={versions["torch"]} torchvision=={versions["torchvision"]}'  # each works with its own other
    remedies = dict(torch=both, torchvision=both)
    remedies['mmcv._ext'] = f'{sys.executable} -m convnext_backbone.ops install'
    again = f'{pip} --force-reinstall --no-deps {STACKS[stack]["mmcv"]}; {remedies["mmcv._ext"]}'
    remedies['mmcv.ops'] = f'{sys.executable} -m pip uninstall -y mmcv; {again}'  # compiled for another torch
    remedies.update({'pkg_resources': f"{pip} 'setuptools<81'", 'convnext-backbone': f'{pip} -e {ROOT}'})
    remedy = remedies.get(name, f'{pip} -c {ROOT / "constraints" / stack}.txt {name}')
    if needs == module and not installed:  # timm is for classification only, and in neither stack's extra
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
        packages['mmcv'] = 'mmcv'  # with compiled operators, by the user's own hands
    rows += [package_row(package, module, stack) for module, package in packages.items()]
    if len(stacks) > 1:
        remedy = 'make a new environment: they overwrite each other, and removing one now takes files from the other'
        rows.append(row('stack', ' and '.join(stacks), 'one of them', 'broken', remedy))
    ok = all(each['status'] in ('ok', 'other') for each in rows)
    return dict(ok=ok, stack=' and '.join(stacks) or 'none', gpu=gpu(), python=sys.executable, rows=rows)


def print_table(result: dict) -> None:
    """Prints the result for people."""
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
    """Checks; returns the exit code."""
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
    sys.path[:1] = []  # the folder of this file: what lies in it is not meant
    sys.exit(main())
