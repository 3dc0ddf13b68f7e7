"""Time of mmcv's operators: ours beside the compiled ones where mmcv has them, in turn."""

import argparse
import importlib
import statistics
import time
from collections.abc import Callable
from functools import partial
from types import ModuleType

import torch
from benchmark_models import detector_of, here, make_batch, parse_shape, run_detector, settings, wait
from contenders import OURS
from tqdm import tqdm

from convnext_backbone.ops import ext
from convnext_backbone.ops.status import is_compiled
from convnext_backbone.ops.workloads import WORKLOADS, Workload, using


def contenders() -> dict[str, ModuleType]:
    """What fills mmcv's operators, ours first."""
    module = importlib.import_module('mmcv._ext')
    return {'ours': ext} | ({'compiled': module} if is_compiled(module) else {})


def run_workload(workload: Workload, backward: bool) -> None:
    """A forward pass, and a backward pass if asked for."""
    function, inputs = workload
    if not backward:
        with torch.no_grad():
            function(*inputs)
        return
    leaves = [each.detach().requires_grad_() for each in inputs]
    function(*leaves).sum().backward()


def measure(run: Callable[[], None], repeat: int) -> dict[str, float | None]:
    """Median milliseconds of each contender; None where it has no such operator on this device."""
    times: dict[str, list[float] | None] = {name: [] for name in contenders()}
    for turn in range(repeat + 1):  # the first one warms up
        for name, module in contenders().items():
            if times[name] is None:
                continue
            try:
                with using(module):
                    start = time.perf_counter()
                    run()
                    wait(here())
                    seconds = time.perf_counter() - start
            except RuntimeError as error:
                if 'not found' not in str(error):  # "implementation for device cpu not found"
                    raise
                times[name] = None
                continue
            if turn:
                times[name].append(seconds * 1e3)
    return {name: statistics.median(found) if found else None for name, found in times.items()}


def benchmark_operators(args: argparse.Namespace) -> dict:
    """Time of each operator, forward and with its backward pass, and of a detector's training step."""
    rows, device = [], here().type
    for make in tqdm(WORKLOADS, desc='Operators'):
        workload = make(device)
        for backward in (False, True) if workload[1] else (False,):
            name = f'{make.__name__}{" and backward" if backward else ""}'
            rows.append(
                dict(operator=name, milliseconds=measure(partial(run_workload, workload, backward), args.repeat))
            )
    model, batch = detector_of(OURS, args.config), make_batch(parse_shape(args.shape))
    print(f'Training steps of {args.config} at {args.shape}', flush=True)
    times = measure(partial(run_detector, model, batch, 'fp32'), args.repeat)
    rows.append(dict(operator=f"a detector's training step, {args.shape}", milliseconds=times))
    return dict(**settings(args), rows=rows)


def print_operators(result: dict) -> None:
    """As a table."""
    print(f'{result["device"]}, torch {result["torch"]}; milliseconds, medians of {result["repeat"]}')
    print(f'{"":46}{"ours":>10}{"compiled":>10}{"ratio":>8}')
    for row in result['rows']:
        own, compiled = row['milliseconds']['ours'], row['milliseconds'].get('compiled')
        others = f'{compiled:10.2f}{own / compiled:8.2f}' if compiled else f'{"-":>10}'
        print(f'{row["operator"]:46}{own:10.2f}{others}')


def add_operator_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of `benchmark.py operators`."""
    parser.add_argument('--config', default='configs/cascade_convnext_t_coco.py', help='(default: %(default)s)')
    parser.add_argument('--shape', default='1x800x1216', metavar='NxHxW', help='of the step (default: %(default)s)')
