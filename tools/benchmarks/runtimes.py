"""Inference by other runtimes: files of each precision, as tools/export.py writes them, beside our model in torch."""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from convnext_backbone import ARCHS, ConvNeXt
from convnext_backbone.deploy.networks import Network
from convnext_backbone.deploy.onnx_file import check_packages, export_network
from convnext_backbone.deploy.precision import quantize, store_half
from convnext_backbone.models.precision import working_dtype

from .contenders import OURS, has, start_onnxruntime, start_openvino
from .measuring import Shape, conditions, measure_alone, memory_mib, parse_shape, time_and_peak
from .report import Benchmark

PHOTOS, SIDE = 8, 224  # that int8 is calibrated with: noise, as what is measured
FILES = 'fp32', 'fp16 weights', 'int8'
# Runtime, file, and whether what the file has in fp32 is computed in bf16.
ROWS = (
    (OURS, '', False),
    (OURS, '', True),
    ('onnxruntime', 'fp32', False),
    ('onnxruntime', 'fp16 weights', False),
    ('onnxruntime', 'int8', False),
    ('openvino', 'fp32', False),
    ('openvino', 'fp32', True),
    ('openvino', 'fp16 weights', False),
    ('openvino', 'int8', False),
    ('openvino', 'int8', True),
)


class _Maps(Network):
    outputs = 'maps1', 'maps2', 'maps3', 'maps4'

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        return self.model(image)


def make_model(arch: str) -> nn.Module:
    """A backbone whose blocks change their input as much as trained ones do; those of a new one hardly do."""
    torch.manual_seed(0)
    model = ConvNeXt(arch, layer_scale_init_value=1.0).eval().to(memory_format=torch.channels_last)
    for one in model.parameters():
        if one.ndim > 1:
            nn.init.xavier_normal_(one)
    return model


def write_files(arch: str, folder: Path) -> None:
    """Write a file of each precision."""
    paths = {name: folder / f'{name}.onnx' for name in FILES}
    export_network(_Maps(make_model(arch)), paths['fp32'], None)
    for name in FILES[1:]:
        paths[name].write_bytes(paths['fp32'].read_bytes())
    store_half(paths['fp16 weights'])
    quantize(paths['int8'], (make_image((1, SIDE, SIDE), seed)[0].numpy() for seed in range(1, PHOTOS + 1)))


def make_image(shape: Shape, seed: int = 0) -> Tensor:
    """Noise, (N, 3, H, W)."""
    samples, height, width = shape
    return torch.randn(samples, 3, height, width, generator=torch.Generator().manual_seed(seed))


def _start_torch(arch: str, half: bool) -> Callable[[np.ndarray], list[np.ndarray]]:
    model = make_model(arch)

    def run(images: np.ndarray) -> list[np.ndarray]:
        inputs = torch.from_numpy(images).contiguous(memory_format=torch.channels_last)
        with torch.no_grad(), torch.autocast('cpu', enabled=half):
            return [one.float().numpy() for one in model(inputs)]

    return run


def measure_runtime(runtime: str, path: Path, half: bool, arch: str, shape: Shape, repeat: int) -> dict[str, float]:
    """Median time of a forward pass, peak memory of that and of loading the model, and the error of its maps."""
    images, seconds, maps = make_image(shape).numpy(), [], []

    def use() -> None:
        start = {'onnxruntime': start_onnxruntime, 'openvino': start_openvino}.get(runtime)
        run = start(path, torch.get_num_threads(), half) if start else _start_torch(arch, half)
        for _ in range(2 + repeat):
            began = time.perf_counter()
            maps[:] = run(images)
            seconds.append(time.perf_counter() - began)

    make_image((1, 32, 32))  # what is built at first use
    peak = time_and_peak(use, memory_mib('VmRSS'))['peak_mib']
    expected = _start_torch(arch, False)(images)
    errors = (np.linalg.norm(one - other) / np.linalg.norm(other) for one, other in zip(maps, expected, strict=True))
    return dict(seconds=statistics.median(seconds[2:]), peak_mib=peak, error_percent=100 * float(max(errors)))


def _rows(args: argparse.Namespace, folder: Path, shape: Shape) -> Iterator[dict]:
    halves = working_dtype(torch.bfloat16, torch.device('cpu')) == torch.bfloat16  # there are instructions for it
    rows = [one for one in ROWS if (one[0] == OURS or has(one[0], args.arch)) and (halves or not one[2])]
    for runtime, file, half in tqdm(rows, desc='x'.join(map(str, shape))):
        path = folder / f'{file}.onnx'
        found = measure_alone(measure_runtime, runtime, path, half, args.arch, shape, args.repeat)
        precision = ', '.join([file] * bool(file) + ['bf16'] * half) or 'fp32'
        yield dict(runtime=runtime, precision=precision, **found) | (
            dict(file_mib=path.stat().st_size / 2**20) if file else {}
        )


def _measure(args: argparse.Namespace) -> dict:
    check_packages()
    with tempfile.TemporaryDirectory() as folder:
        measure_alone(write_files, args.arch, Path(folder))
        results = [dict(shape=shape, rows=[*_rows(args, Path(folder), parse_shape(shape))]) for shape in args.shapes]
    return dict(model=f'ConvNeXt {args.arch}', **conditions(args.repeat), results=results)


RUNTIMES = Benchmark(
    'exported files by onnxruntime and OpenVINO, in fp32, bf16 and int8, beside torch',
    {
        '--arch': dict(choices=ARCHS, default='tiny'),
        '--shapes': dict(nargs='+', default=['1x224x224', '1x800x1216'], metavar='NxHxW'),
    },
    _measure,
)
