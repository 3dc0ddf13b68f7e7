"""Triton's kernels give the numbers of torch's, and nothing of them is there unless it is asked for."""

import importlib.util
import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
import torch
from conftest import REPOSITORY
from packaging.version import Version

from convnext_backbone import ConvNeXtBlock
from convnext_backbone.models import gpu_kernels
from convnext_backbone.utils.errors import UserError

CASES = Path(__file__).with_name('triton_cases.py')


@pytest.mark.slow
@pytest.mark.skipif(
    not importlib.util.find_spec('triton') or Version(version('triton')) < Version('3.3'),
    reason='triton is not installed, or so old (3.2, with torch 2.6) that its interpreter fails with numpy 2.4',
)
def test_in_the_interpreter():
    """In a process of its own, as triton becomes an interpreter when it is imported."""
    command = [sys.executable, '-m', 'pytest', '-q', '--no-header', '-p', 'no:cacheprovider', str(CASES)]
    variables = os.environ | dict(TRITON_INTERPRET='1')
    result = subprocess.run(command, cwd=REPOSITORY, env=variables, capture_output=True, text=True, timeout=600)
    assert result.returncode == 0, result.stdout[-5000:] + result.stderr[-2000:]


def test_nothing_but_the_switch_turns_them_on():
    """And on a CPU not even that."""
    code = """if True:
        import importlib, os, sys, torch
        from convnext_backbone.models import convnext, gpu_kernels

        for value in ('', '0', '1'):
            os.environ['CONVNEXT_TRITON'] = value
            importlib.reload(gpu_kernels)
            print(gpu_kernels.ENABLED)
        convnext.ConvNeXtBlock(8)(torch.zeros(1, 8, 4, 4)).sum().backward()
        print([name for name in sys.modules if name.startswith('convnext_backbone.models.triton')])
    """
    environment = {name: value for name, value in os.environ.items() if name != gpu_kernels.SWITCH}
    environment['PYTHONPATH'] = str(REPOSITORY)
    result = subprocess.run([sys.executable, '-c', code], env=environment, capture_output=True, text=True, check=True)
    assert result.stdout.split() == ['False', 'False', 'True', '[]']


def test_without_triton_one_sentence_says_what_to_do(monkeypatch):
    monkeypatch.setattr(gpu_kernels, 'ENABLED', True)
    monkeypatch.setattr(gpu_kernels, 'DEVICE', 'cpu')
    monkeypatch.setitem(sys.modules, 'triton', None)
    gpu_kernels._import_triton.cache_clear()
    with pytest.raises(UserError, match='CONVNEXT_TRITON asks for kernels of triton, .* leave the variable out'):
        ConvNeXtBlock(8)(torch.zeros(1, 8, 4, 4))
