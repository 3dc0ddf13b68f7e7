"""Time and memory measurements that all benchmarks share."""

import ctypes
import gc
import multiprocessing
import re
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from mmengine.device import get_device
from tqdm import tqdm

from convnext_backbone.utils.errors import UserError

Shape = tuple[int, int, int]
M_MMAP_THRESHOLD = -3  # of malloc.h


def parse_shape(text: str) -> Shape:
    """Images, height and width: ``2x800x1216``."""
    numbers = text.split('x')
    if len(numbers) != 3 or not all(number.isdecimal() and int(number) for number in numbers):
        raise UserError(f'{text!r} is no shape: write NxHxW, images by height by width, such as 1x800x1216.')
    samples, height, width = map(int, numbers)
    return samples, height, width


def device() -> torch.device:
    """The device that is measured."""
    return torch.device(get_device())


def conditions(repeat: int) -> dict[str, Any]:
    """What the figures depend on."""
    return dict(device=_name_device(), torch=torch.__version__, repeat=repeat)


def _name_device() -> str:
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    names = re.findall(r'^model name\s*: (.+)', Path('/proc/cpuinfo').read_text(), re.MULTILINE)
    capability = torch.backends.cpu.get_cpu_capability()
    return f'{names[0] if names else "CPU"} ({capability}), {torch.get_num_threads()} threads'


def measure_alone(function: Callable, *arguments: object) -> Any:
    """What a function returns in a fresh process: memory that others freed would make its own look smaller.

    A GPU's memory is counted exactly: there this process does, as imports take longer than most measurements.
    """
    if device().type == 'cuda':
        torch.compiler.reset()  # or it would be beyond the number of times that a function may be compiled
        gc.collect()
        return function(*arguments)
    with multiprocessing.get_context('spawn').Pool(1) as process:
        return process.apply(function, arguments)


def time_in_turns(
    title: str, runs: dict[str, Callable], repeat: int, warm_up: int = 1, after: Callable = lambda: None
) -> dict[str, list[float]]:
    """Seconds of each run, in turn, so that what else the machine does slows all alike; `after` each is not timed."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    for turn in tqdm(range(warm_up + repeat), desc=title):
        for name, run in runs.items():
            torch.manual_seed(turn)  # stochastic depth
            start = time.perf_counter()
            run()
            if device().type == 'cuda':
                torch.cuda.synchronize()
            times[name].append(time.perf_counter() - start)
            after()
    return {name: found[warm_up:] for name, found in times.items()}


def memory_mib(entry: str) -> float:
    """A figure of this process: ``'VmRSS'``, its memory now, or ``'VmHWM'``, its peak."""
    status = dict(line.split(':') for line in Path('/proc/self/status').read_text().splitlines())
    return int(status[entry].split()[0]) / 1024


def time_and_peak(run: Callable[[], object], before: float) -> dict[str, float]:
    """Seconds of a run, and the peak memory of this process in MiB above `before`."""
    Path('/proc/self/clear_refs').write_text('5')  # the peak is now what the process has
    start = time.perf_counter()
    run()
    return dict(seconds=time.perf_counter() - start, peak_mib=memory_mib('VmHWM') - before)


def medians(rounds: Sequence[dict[str, float]]) -> dict[str, float]:
    """The median of each figure."""
    return {name: statistics.median(one[name] for one in rounds) for name in rounds[0]}


def peak_of(run: Callable[[], object]) -> float:
    """The peak memory of a run on top of what is there before it, in MiB."""
    if device().type == 'cuda':
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        return (torch.cuda.max_memory_allocated() - before) / 2**20
    libc = ctypes.CDLL('libc.so.6')
    libc.mallopt(M_MMAP_THRESHOLD, 2**20)  # by default it grows, and large blocks that are freed stay with the process
    libc.malloc_trim(0)  # or memory that was freed is used again and not counted
    return time_and_peak(run, memory_mib('VmRSS'))['peak_mib']


def process_peak_of(run: Callable[[], object], steps: int = 3) -> float:
    """What a user's process takes on the CPU for some steps, with malloc as it is, in MiB."""
    before = memory_mib('VmRSS')
    return time_and_peak(lambda: [run() for _ in range(steps)], before)['peak_mib']
