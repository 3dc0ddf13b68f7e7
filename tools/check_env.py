"""Compares what is installed with what was tested, and says what to do about each difference.

    python tools/check_env.py [--json]

It needs nothing but Python. Exit code 0: all is fine, or merely in another version than the tested one, which is a note
and no error. Exit code 1: something is missing or broken; the last column of its row says what to run.
"""

from __future__ import annotations  # so that even a Python that is too old can be told so

import argparse
import importlib.metadata
import importlib.util
import json
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
# Import name -> distribution, of either stack. The same import names on both sides: one overwrites the other's files.
STACKS = dict(
    openmmlab=dict(mmengine='mmengine', mmcv='mmcv-lite', mmdet='mmdet', mmseg='mmsegmentation'),
    onedl=dict(mmengine='onedl-mmengine', mmcv='onedl-mmcv', mmdet='onedl-mmdetection', mmseg='onedl-mmsegmentation'),
)
COMMON = {name: name for name in ('torch', 'torchvision', 'timm', 'numpy', 'pycocotools', 'ftfy', 'regex')}
COMMON['cv2'] = 'opencv-python'
DRIVERS = {'11': 450, '12': 525, '13': 580}  # the oldest that runs what was built with each CUDA

# Runs in a process of its own, which may crash. A line per module, marked since packages print things of their own.
PROBE = """
import importlib, json, sys, warnings
from importlib.machinery import EXTENSION_SUFFIXES
sys.path[:] = [folder for folder in sys.path if folder]  # '' would import whatever lies in the working directory

def operators(torch, ops):  # which ones there are, and that they work, on the GPU too
    for device in ['cpu'] + ['cuda'] * torch.cuda.is_available():
        boxes = torch.tensor([[0, 0, 9, 9], [0, 0, 9, 8], [20, 20, 29, 29]], dtype=torch.float32, device=device)
        kept = ops.nms(boxes, torch.tensor([.9, .8, .7], device=device), 0.5)[1].tolist()
        assert kept == [0, 2], f'on {device} nms kept {kept}'
    return 'compiled' if sys.modules['mmcv._ext'].__file__.endswith(tuple(EXTENSION_SUFFIXES)) else 'torchvision'

for name in sys.argv[1:]:
    found = dict(error='', needs='')
    try:
        module = importlib.import_module(name)
        if name == 'torch':
            with warnings.catch_warnings(record=True) as caught:
                found['gpu'] = module.cuda.get_device_name() if module.cuda.is_available() else ''
            found['warning'] = ' '.join(str(each.message) for each in caught)
        found['kind'] = operators(sys.modules['torch'], module) if name == 'mmcv.ops' else ''
    except ModuleNotFoundError as error:
        found.update(error=f'there is no module {error.name}', needs=error.name)
    except BaseException as error:
        found.update(error=f'{type(error).__name__}: {error}')
    print('\\nprobe', json.dumps([name, found]), flush=True)
"""


def read_constraints(stack: str) -> dict[str, str]:
    """The tested versions by distribution name, those for this Python; `python` from the comment."""
    line = r'^(?:# )?([\w.-]+)={2,3}([\w.]+)(?:; python_version (<|>=) "3\.(\d+)")?$'
    text = (ROOT / 'constraints' / f'{stack}.txt').read_text(encoding='utf-8')
    found = re.findall(line, text, re.M)
    fits = {'': True, '<': sys.version_info.__lt__, '>=': sys.version_info.__ge__}
    return {name: version for name, version, sign, minor in found if not sign or fits[sign]((3, int(minor)))}


def probe(names: list[str]) -> dict[str, dict]:
    """Imports modules in another process. One that crashes it is noted, and another process goes on after it."""
    results: dict[str, dict] = {}
    while len(results) < len(names):
        rest = [name for name in names if name not in results]
        run = subprocess.run([sys.executable, '-c', PROBE, *rest], stdout=-1, stderr=-3, text=True)
        results.update(json.loads(line[6:]) for line in run.stdout.splitlines() if line.startswith('probe ['))
        crashed = [name for name in rest if name not in results][:1]
        results.update(
            (name, dict(error=f'importing it ends Python with exit code {run.returncode}')) for name in crashed
        )
    return results


def driver_version() -> str:
    """The version of the NVIDIA driver where there is a GPU that is not hidden, or nothing."""
    driver = Path('/proc/driver/nvidia/version')
    if os.environ.get('CUDA_VISIBLE_DEVICES', 'all') in ('', '-1'):
        return ''
    if driver.exists():  # in a container that was not given the GPU, too
        found = re.search(r'Module.*? (\d+\.[\d.]+)', driver.read_text())
        return found[1] if found and any(Path('/dev').glob('nvidia[0-9]*')) else ''
    if not shutil.which('nvidia-smi'):
        return ''
    command = ['nvidia-smi', '--query-gpu=driver_version', '--format=csv,noheader']  # Windows' subsystem for Linux
    answer = subprocess.run(command, stdout=-1, stderr=-3, text=True)
    return (answer.stdout.split() or [''])[0] if answer.returncode == 0 else ''


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
        otherwise = f'CUDA {cuda}, which it was built for, wants driver {wants} or newer; install that'
        otherwise += (
            ', or torch 2.10.0, which runs on yours (`make setup TORCH=2.10.0`)' if has >= DRIVERS['12'] else ''
        )
    return otherwise and f'There is an NVIDIA GPU (driver {driver}) that torch {torch} cannot use: {otherwise}.'


def row(package: str, installed: str, tested: str, status: str = '', remedy: str = '', detail: str = '') -> dict:
    """One row of the table; without a status, it is `ok` or `other` by the version."""
    if not status:
        public = installed.split('+')[0]  # 2.14.1+cu130 is 2.14.1
        status = 'ok' if not tested or public == tested or public.startswith(tested + '.') else 'other'
    return dict(package=package, installed=installed, tested=tested, status=status, remedy=remedy, detail=detail)


def package_row(package: str, module: str, found: dict[str, dict], stack: str) -> dict:
    """The row of one package, by what importing it gave."""
    versions = read_constraints(stack)
    known = [each.version for each in importlib.metadata.distributions(name=package)]
    installed, tested = found[module].get('kind') or ''.join(known[:1]), versions.get(package, '')
    error, needs = ' '.join(found[module]['error'].split())[:300], found[module].get('needs', '')
    if not error:
        return row(package, installed, tested)
    python, top, mmcv = shlex.quote(sys.executable), needs.split('.')[0], STACKS[stack]['mmcv']
    pip = f'{python} -m pip install'
    both = f'{pip} torch==={versions["torch"]} torchvision=={versions["torchvision"]}'  # each works with its own other
    operators = f'{python} -m convnext_backbone.ops install'
    again = f'{pip} --no-cache-dir --force-reinstall --no-deps {mmcv}=={versions[mmcv]}'
    remedies = {'torch': both, 'torchvision': both, 'convnext-backbone': f'{pip} -e {ROOT}', 'mmcv._ext': operators}
    remedies['mmcv.ops'] = f'{python} -m pip uninstall -y mmcv; {again}; {operators}'  # compiled ones for another torch
    remedies['pkg_resources'] = f'{pip} setuptools=={versions["setuptools"]}'
    name = needs if needs in remedies else package if top in ('', module) else top
    remedy = remedies.get(name, f'{pip} {name}=={versions[name]}' if name in versions else f'{pip} {name}')
    if top != module and found.get(top, dict(error=''))['error']:
        remedy = f'mend {top} first'
    missing = needs == module and not installed
    if missing:  # timm is for classification only, and in neither stack's extra
        return row(package, installed, tested, 'other' if package == 'timm' else 'missing', remedy)
    return row(package, installed, tested, 'broken', remedy, error)


def check() -> dict:
    """All rows, the stack, and the GPU."""
    installed = {each.metadata['Name'] for each in importlib.metadata.distributions()}
    stacks = [name for name, packages in STACKS.items() if installed & {*packages.values()}]
    stack = stacks[0] if stacks else 'openmmlab'
    # This package last: in its own process, it provides mmcv with operators.
    packages = {**COMMON, **STACKS[stack], 'mmcv.ops': 'mmcv.ops', 'convnext_backbone': 'convnext-backbone'}
    found = probe([*packages])
    old = dict(status='broken', remedy='install Python 3.10 or newer') if sys.version_info < (3, 10) else {}
    rows = [row('python', platform.python_version(), read_constraints(stack)['python'], **old)]
    rows += [package_row(package, module, found, stack) for module, package in packages.items()]
    if len(stacks) > 1:
        remedy = 'make a new environment: they overwrite each other, and removing one now takes files from the other'
        rows.append(row('stack', ' and '.join(stacks), 'one of them', 'broken', remedy))
    gpu = found['torch'].get('gpu', 'unknown: torch does not import')
    if not gpu:
        why = found['torch']['warning'] or '`nvidia-smi` may say why'
        gpu = gpu_problem(Path(importlib.util.find_spec('torch').origin).parent, why) or 'none visible'
    ok = all(each['status'] in ('ok', 'other') for each in rows)
    return dict(ok=ok, stack=' and '.join(stacks) or 'none', gpu=gpu, python=sys.executable, rows=rows)


def print_table(result: dict) -> None:
    """Prints the result for people."""
    print(f'Environment: {sys.prefix}\nMM stack: {result["stack"]}\nGPU: {result["gpu"]}\n')
    lines = [('package', 'installed', 'tested', 'status', 'remedy')]
    for each in result['rows']:
        remedy = ' -> '.join(filter(None, (each['detail'], each['remedy'])))
        lines.append((each['package'], each['installed'] or '-', each['tested'] or '-', each['status'], remedy))
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
    as_json, result = parser.parse_args().json, check()
    print(json.dumps(result, indent=2)) if as_json else print_table(result)
    return 0 if result['ok'] else 1


if __name__ == '__main__':
    sys.exit(main())
