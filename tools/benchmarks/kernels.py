"""What our GPU kernels take of a GPU, compiled for several of them; there need not be one."""

import argparse
import re
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from convnext_backbone.models.block_weights import Weights
from convnext_backbone.models.gpu_kernels import TAIL_CAPABILITY, WIDEST_TAIL, Launch
from convnext_backbone.utils.errors import UserError

from .models import DTYPES
from .report import Benchmark

_SHAPE = (2, 200, 304)  # of the map of the first stage
# KiB of shared memory that a program may have (CUDA C++ Programming Guide, technical specifications).
_SHARED = {75: 64, 80: 163, 86: 99, 89: 99, 90: 227, 100: 227, 120: 99}


def _launches(dtype: torch.dtype) -> Iterator[tuple[str, int, Launch]]:
    """Kernels by name, with the channels of their maps, which need no memory."""
    from convnext_backbone.models import triton_depthwise, triton_tail

    for channels in (96, WIDEST_TAIL):
        with torch.device('meta'):
            mapped, shortcut = (torch.empty(*_SHAPE, channels, dtype=one) for one in (dtype, torch.float32))
            vector, wide, norm = torch.empty(channels), torch.empty(4 * channels), torch.empty(channels)
            conv, expand = torch.empty(channels, 1, 7, 7), torch.empty(4 * channels, channels)
            w = Weights(conv, vector, norm, norm, expand, wide, expand.mT.contiguous(), vector, norm, None, None)
        w = w.replace(w.cast(dtype))
        if channels == 96:  # of which the others are hardly another kernel
            yield 'depthwise', channels, triton_depthwise.convolution(mapped, w.conv, w.conv_bias, mapped)
            yield "depthwise, input's gradient", channels, triton_depthwise.convolution(mapped, w.conv, None, mapped)
            yield "depthwise, weights' gradient", channels, triton_depthwise.weight_gradient(mapped, mapped, 7)
        if dtype.itemsize == 2:
            yield 'tail', channels, triton_tail.tail(mapped, shortcut, w, 1e-6, shortcut)


def _source(launch: Launch) -> Any:
    """A kernel as Triton specializes it for its arguments: 16 divides all addresses, and some numbers."""
    from triton.compiler import ASTSource

    names = {dtype: name for name, dtype in DTYPES.items()}
    types, constants, attributes = {}, dict(launch.constants), {}
    for place, name in enumerate(launch.kernel.arg_names):
        value = launch.arguments.get(name)
        if isinstance(value, torch.Tensor):
            types[name] = f'*{names[value.dtype]}'
        elif value is None:
            types[name] = 'constexpr'
            constants.setdefault(name, None)
        else:
            types[name] = 'i32' if isinstance(value, int) else 'fp32'
        if isinstance(value, torch.Tensor) or isinstance(value, int) and value % 16 == 0:
            attributes[place,] = [['tt.divisibility', 16]]
    return ASTSource(launch.kernel, types, constants, attributes)


def _compile(launch: Launch, arch: int) -> dict[str, Any]:
    """Registers of a thread, bytes that it spills, and shared memory of a program, of the machine code."""
    import triton
    from triton.backends.compiler import GPUTarget

    options = dict(num_warps=launch.warps, num_stages=launch.stages)
    compiled = triton.compile(_source(launch), target=GPUTarget('cuda', arch, 32), options=options)
    tool = Path(triton.__file__).parent / 'backends/nvidia/bin' / ('ptxas-blackwell' if arch >= 100 else 'ptxas')
    target = re.search(r'\.target (\w+)', compiled.asm['ptx'])[1]
    with tempfile.NamedTemporaryFile('w', suffix='.ptx') as file:
        file.write(compiled.asm['ptx'])
        file.flush()
        command = [str(tool), '-v', f'--gpu-name={target}', file.name, '-o', '/dev/null']
        said = subprocess.run(command, capture_output=True, text=True, check=True).stderr
    shared = compiled.metadata.shared / 1024
    row = dict(
        registers=int(re.search(r'Used (\d+) registers', said)[1]),
        spilled_bytes=int(re.search(r'(\d+) bytes spill stores', said)[1]),
        shared_kib=shared,
    )
    return row | (dict(note='more memory than there is') if shared > _SHARED.get(arch, 227) else {})


def _measure(args: argparse.Namespace) -> dict:
    """A row for each GPU, data type and kernel.

    Raises:
        UserError: Triton is not installed.
    """
    try:
        import triton
    except ImportError as error:
        raise UserError('There is no triton here to compile with: pip install triton.') from error
    cases = [
        (arch, dtype, name, channels, launch)
        for arch in args.arch
        for dtype in args.dtype
        for name, channels, launch in _launches(DTYPES[dtype])
    ]
    rows = []
    for arch, dtype, name, channels, launch in tqdm(cases, desc='Kernels'):
        row: dict[str, Any] = dict(kernel=name, channels=channels, dtype=dtype, gpu=f'sm_{arch}')
        if name == 'tail' and divmod(arch, 10) < TAIL_CAPABILITY:
            lacks = 'no product in bf16' if dtype == 'bf16' else 'no tensor cores that Triton knows'
            row['note'] = f"torch's: {lacks}"
        else:
            row |= _compile(launch, arch)
        rows.append(row)
    return dict(triton=triton.__version__, rows=rows)


KERNELS = Benchmark(
    'registers, spills and shared memory of our GPU kernels, compiled without a GPU',
    {
        '--arch': dict(type=int, nargs='+', choices=_SHARED, default=[75, 80, 86, 90], help='compute capability x 10'),
        '--dtype': dict(nargs='+', choices=DTYPES, default=[*DTYPES]),
    },
    _measure,
)
