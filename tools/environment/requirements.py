"""What has to be installed: packages of each stack, their tested versions, and the NVIDIA driver that torch needs."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
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
    fits = {'': lambda other: True, '<': sys.version_info.__lt__, '>=': sys.version_info.__ge__}
    found = re.findall(line, text, re.M)
    return {name: version for name, version, sign, minor in found if fits[sign]((3, int(minor or 0)))}


def driver_version() -> str:
    """The version of the NVIDIA driver, or nothing where there is no GPU or it is hidden."""
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
    """Why torch cannot use this machine's NVIDIA GPU, in a sentence; nothing where there is none.

    Args:
        torch_folder: Where torch is installed; it is not imported.
        otherwise: The reason where the versions of driver and torch are none.
    """
    driver, file = driver_version(), torch_folder / 'version.py'
    if not driver or not file.exists():
        return ''
    torch, cuda = re.findall(r"^(?:__version__|cuda)\b.*= '?([\w.+]+)", file.read_text(), re.M)
    has, needs = int(driver.split('.')[0]), DRIVERS.get(cuda.split('.')[0], 0)
    if cuda == 'None':
        otherwise = f'it is a build without CUDA; `pip install torch==={torch.split("+")[0]} torchvision` has one'
    elif has < needs:
        older = ', or torch 2.10.0, which runs on yours (`make setup TORCH=2.10.0`)' if has >= DRIVERS['12'] else ''
        otherwise = f'CUDA {cuda}, which it was built for, needs driver {needs} or newer; install that{older}'
    return otherwise and f'There is an NVIDIA GPU (driver {driver}) that torch {torch} cannot use: {otherwise}.'
