"""Time and memory of a backbone or a detector, beside those who offer the same, in turn."""

import argparse
import contextlib
import copy
import ctypes
import multiprocessing
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from contenders import OURS, build, choose_contenders
from mmengine.device import get_device
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from tqdm import tqdm

from convnext_backbone import ARCHS, ConvNeXt
from convnext_backbone.config.load import load_config
from convnext_backbone.config.recipes import task_of
from convnext_backbone.models.precision import working_dtype
from convnext_backbone.utils.errors import UserError

DTYPES = dict(fp32=torch.float32, bf16=torch.bfloat16, fp16=torch.float16)
MODES = ('train', 'infer')
M_MMAP_THRESHOLD = -3  # of malloc.h


def memory_mib(entry: str) -> float:
    """A figure of this process: ``'VmRSS'``, what it has now, or ``'VmHWM'``, the most that it had."""
    for line in Path('/proc/self/status').read_text().splitlines():
        if line.startswith(f'{entry}:'):
            return int(line.split()[1]) / 1024
    raise KeyError(entry)


def forget_peak() -> None:
    """Sets ``VmHWM`` back to what the process has now."""
    Path('/proc/self/clear_refs').write_text('5')


def parse_shape(text: str) -> tuple[int, int, int]:
    """Images, height and width: ``2x800x1216``.

    Raises:
        UserError: It is nothing like it.
    """
    numbers = text.split('x')
    if len(numbers) != 3 or not all(number.isdecimal() and int(number) for number in numbers):
        raise UserError(f'--shapes has {text!r}: a shape is NxHxW, images by height by width, 1x800x1216 for example.')
    return tuple(map(int, numbers))


def here() -> torch.device:
    """The device that is measured."""
    return torch.device(get_device())


def wait(device: torch.device) -> None:
    """Until a GPU has done what it was given."""
    if device.type == 'cuda':
        torch.cuda.synchronize()


def autocast(device: str, dtype: str) -> contextlib.AbstractContextManager:
    """Mixed precision, or none for fp32."""
    return torch.autocast(device, dtype=DTYPES[dtype]) if dtype != 'fp32' else contextlib.nullcontext()


def make_images(shape: tuple[int, int, int]) -> Tensor:
    """Noise, channels-last."""
    samples, height, width = shape
    images = torch.randn(samples, 3, height, width, device=here())
    return images.contiguous(memory_format=torch.channels_last)


def run_backbone(model: nn.Module, images: Tensor, mode: str, dtype: str) -> None:
    """A forward pass; in training a backward pass too, from gradients as dense as a neck gives them."""
    model.train(mode == 'train')  # which returns nothing in mmpretrain
    with autocast(images.device.type, dtype), torch.set_grad_enabled(mode == 'train'):
        maps = list(model(images))
    if mode == 'train':
        torch.autograd.backward(maps, [one.detach() for one in maps])
    wait(images.device)


def matrix_rate(dtype: str, size: int = 2048) -> float:
    """Multiply-adds a second of a matrix product here; in fp32 where a CPU has no instructions for half precision."""
    work = working_dtype(DTYPES[dtype], here())
    left, right = (torch.randn(size, size, device=here(), dtype=work) for _ in range(2))
    for _ in range(2):  # the first one warms up
        start = time.perf_counter()
        torch.mm(left, right)
        wait(here())
    return size**3 / (time.perf_counter() - start)


def count_multiply_adds(arch: str, shape: tuple[int, int, int]) -> int:
    """Of a forward pass."""
    with torch.device('meta'), torch.no_grad(), FlopCounterMode(display=False) as counter:
        ConvNeXt(arch, out_norm=False).eval()(torch.empty(shape[0], 3, *shape[1:]))
    return counter.get_total_flops() // 2


def measure_memory(make: Callable[[], nn.Module], shape: tuple, mode: str, dtype: str) -> float:
    """The peak of one step of a backbone in MiB: what comes on top of weights, gradients, images and libraries."""
    model, images = make(), make_images(shape)
    # First what is imported or built at first use; torch.compile builds for each shape anew.
    compiled = isinstance(model, torch._dynamo.OptimizedModule)
    run_backbone(model, images if compiled else make_images((1, 64, 64)), mode, dtype)
    return peak_of(lambda: run_backbone(model, images, mode, dtype), here())


def peak_of(run: Callable[[], None], device: torch.device) -> float:
    """The most memory that a run takes on top of what is there, in MiB."""
    if device.type == 'cuda':
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        return (torch.cuda.max_memory_allocated() - before) / 2**20
    libc = ctypes.CDLL('libc.so.6')
    libc.mallopt(M_MMAP_THRESHOLD, 2**20)  # by default it grows, and large blocks that are freed stay with the process
    libc.malloc_trim(0)  # what was freed would be used again, and not count
    before = memory_mib('VmRSS')
    forget_peak()
    run()
    return memory_mib('VmHWM') - before


def size_of_backbone(path: str) -> tuple[str, float]:
    """Arch and rate of stochastic depth of a detector's config.

    Raises:
        UserError: It is for another task, or its backbone is no ConvNeXt of a named size.
    """
    cfg = load_config(path)
    backbone = cfg.model.get('backbone', {})
    if task_of(cfg) != 'detection' or backbone.get('type') != 'ConvNeXt' or backbone.get('arch') not in ARCHS:
        raise UserError(f'--config {path} is no detector with a ConvNeXt of a named arch: there is nothing to compare.')
    return backbone.arch, backbone.get('drop_path_rate', 0.0)


def detector_of(contender: str, path: str) -> nn.Module:
    """The detector of a config, with a contender's backbone of the same size."""
    from mmdet.registry import MODELS

    cfg = load_config(path)
    cfg.model.backbone.init_cfg = None
    model = MODELS.build(cfg.model)
    if contender != OURS:
        model.backbone = build(contender, *size_of_backbone(path), torch.device('cpu'))
    return model.to(memory_format=torch.channels_last).to(here()).train()


def make_batch(shape: tuple[int, int, int]) -> dict:
    """Noise with boxes and masks, all of the second class, as mmdetection's own tests make it."""
    from mmdet.testing import demo_mm_inputs

    samples, height, width = shape
    return demo_mm_inputs(samples, [[3, height, width]] * samples, [8] * samples, num_classes=2, with_mask=True)


def run_detector(model: nn.Module, batch: dict, dtype: str) -> None:
    """A training step without the optimizer's."""
    with autocast(here().type, dtype):
        data = model.data_preprocessor(copy.deepcopy(batch), True)
        loss, _ = model.parse_losses(model(**data, mode='loss'))
    loss.backward()
    wait(here())


def measure_detector_memory(make: Callable[[], nn.Module], shape: tuple, dtype: str) -> float:
    """As :func:`measure_memory`, of a detector's training step."""
    model = make()
    run_detector(model, make_batch((1, 64, 64)), dtype)
    batch = make_batch(shape)
    return peak_of(lambda: run_detector(model, batch, dtype), here())


def benchmark_detector(args: argparse.Namespace) -> dict:
    """Time and memory of a detector's training step with each contender's backbone."""
    arch, drop_path = size_of_backbone(args.config)
    makers = {
        name: partial(detector_of, name, args.config) for name in choose_contenders(args.peers, arch, args.compile)
    }
    results = []
    for case in [(parse_shape(shape), 'train', dtype) for shape in args.shapes for dtype in args.dtype]:
        shape, _, dtype = case
        run = partial(run_detector, dtype=dtype)
        times, _ = in_own_process(take_turns, name_case(case), makers, partial(make_batch, shape), run, args.repeat)
        peaks = measure_each(makers, measure_detector_memory, shape, dtype)
        results.append(make_result(case, times, peaks))
    return dict(model=f'{Path(args.config).stem}, drop path {drop_path}', **settings(args), results=results)


def benchmark_backbone(args: argparse.Namespace) -> dict:
    """Time and memory of each contender at each shape, in each mode and data type."""
    contenders = choose_contenders(args.peers, args.arch, args.compile)
    makers = {name: partial(build, name, args.arch, args.drop_path, here()) for name in contenders}
    results = []
    for case in [(parse_shape(s), mode, dtype) for s in args.shapes for mode in args.mode for dtype in args.dtype]:
        shape, mode, dtype = case
        run = partial(run_backbone, mode=mode, dtype=dtype)
        turns = name_case(case), makers, partial(make_images, shape), run, args.repeat, partial(matrix_rate, dtype)
        times, rate = in_own_process(take_turns, *turns)
        peaks = measure_each(makers, measure_memory, *case)
        work = count_multiply_adds(args.arch, shape) * (3 if mode == 'train' else 1)
        results.append(make_result(case, times, peaks, work / rate))
    return dict(model=f'ConvNeXt {args.arch}, drop path {args.drop_path}', **settings(args), results=results)


def name_case(case: tuple[tuple[int, int, int], str, str]) -> str:
    """``'1x800x1216 train fp32'``."""
    shape, mode, dtype = case
    return f'{"x".join(map(str, shape))} {mode} {dtype}'


def settings(args: argparse.Namespace) -> dict:
    """What the figures were taken with."""
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f'CPU, {torch.get_num_threads()} threads'
    return dict(device=device, torch=torch.__version__, repeat=args.repeat)


def in_own_process(function: Callable, *arguments: object) -> Any:
    """What a function returns in a fresh process: memory that others freed would make its own come cheaper."""
    with multiprocessing.get_context('spawn').Pool(1) as process:
        return process.apply(function, arguments)


def measure_each(
    makers: dict[str, Callable[[], nn.Module]], measure: Callable[..., float], *arguments: object
) -> dict[str, float]:
    """A measurement of what each of them makes, each in a process of its own."""
    return {name: in_own_process(measure, make, *arguments) for name, make in tqdm(makers.items(), desc='Memory')}


def take_turns(
    title: str,
    makers: dict[str, Callable[[], nn.Module]],
    make_input: Callable[[], Any],
    run: Callable[[nn.Module, Any], None],
    repeat: int,
    rate: Callable[[], float] = float,
) -> tuple[dict[str, list[float]], float]:
    """Seconds of each model's steps, the models in turn, and the median of a rate that is measured in between."""
    models, given = {contender: make() for contender, make in makers.items()}, make_input()
    times: dict[str, list[float]] = {contender: [] for contender in models}
    rates = []
    for turn in tqdm(range(repeat + 1), desc=title):  # the first one warms up
        for contender, model in models.items():
            torch.manual_seed(turn)  # of stochastic depth
            start = time.perf_counter()
            run(model, given)
            times[contender].append(time.perf_counter() - start)
            model.zero_grad()
        rates.append(rate())
    return {contender: found[1:] for contender, found in times.items()}, statistics.median(rates)


def make_result(case: tuple, times: dict, peaks: dict, bound: float | None = None) -> dict:
    """Medians of a case, how many times faster ours is, and how much of the others' memory it takes.

    Args:
        case: Shape, mode and data type.
        times: Of each contender.
        peaks: Of each contender.
        bound: The time that the multiply-adds would take at the rate of a matrix product.
    """
    (samples, height, width), mode, dtype = case
    rows = []
    for contender, found in times.items():
        median = statistics.median(found)
        # Pairs of one round: what else the machine does slows both.
        speedup = statistics.median(other / own for other, own in zip(found, times[OURS], strict=True))
        row = dict(contender=contender, seconds=median, fastest=min(found), speedup=speedup)
        row |= dict(peak_mib=peaks[contender], memory=peaks[OURS] / peaks[contender])
        rows.append(row | (dict(share_of_matrix_rate=bound / median) if bound else {}))
    return dict(images=samples, height=height, width=width, mode=mode, dtype=dtype, rows=rows)


def add_arguments(backbone: argparse.ArgumentParser, detector: argparse.ArgumentParser) -> None:
    """The flags of `benchmark.py backbone` and `benchmark.py detector`."""
    backbone.add_argument('--arch', choices=ARCHS, default='tiny', help='(default: %(default)s)')
    backbone.add_argument('--drop-path', type=float, default=0.0, help='stochastic depth (default: %(default)s)')
    backbone.add_argument('--mode', nargs='+', choices=MODES, default=MODES, help='(default: both)')
    detector.add_argument('--config', default='configs/cascade_convnext_t_coco.py', help='(default: %(default)s)')
    for parser in (backbone, detector):
        parser.add_argument('--peers', metavar='A,B', help='whom to compare with; default is all that are installed')
        parser.add_argument('--compile', action='store_true', help='the peers by torch.compile, too')
        parser.add_argument(
            '--shapes', nargs='+', default=['1x800x1216'], metavar='NxHxW', help='(default: 1x800x1216)'
        )
        parser.add_argument('--dtype', nargs='+', choices=DTYPES, default=['fp32'], help='autocast (default: fp32)')
        parser.add_argument('--out', type=Path, metavar='FILE', help='draw a picture of it')
