"""Time of mmcv's operators: ours compared with the compiled ones where mmcv has them."""

import argparse
import importlib
import statistics
from collections.abc import Callable
from functools import partial
from types import ModuleType

import torch

from convnext_backbone.ops import ext
from convnext_backbone.ops.status import is_compiled
from convnext_backbone.ops.workloads import WORKLOADS, Workload, using

from .contenders import OURS
from .measuring import conditions, device, parse_shape, time_in_turns
from .models import CONFIG, build_detector, make_batch, run_detector
from .report import Benchmark


def implementations() -> dict[str, ModuleType]:
    """The modules that mmcv's operators can come from, ours first."""
    module = importlib.import_module('mmcv._ext')
    return {OURS: ext} | ({'compiled': module} if is_compiled(module) else {})


def _run_workload(workload: Workload, backward: bool) -> None:
    function, inputs = workload
    if backward:
        function(*(each.detach().requires_grad_() for each in inputs)).sum().backward()
    else:
        with torch.no_grad():
            function(*inputs)


def _is_implemented(run: Callable[[], None]) -> bool:
    try:
        run()
    except RuntimeError as error:
        if 'not found' not in str(error):  # "implementation for device cpu not found"
            raise
        return False
    return True


def _time(title: str, run: Callable[[], None], repeat: int) -> dict[str, float | None]:
    """Median milliseconds with each implementation; None where it has no such operator on this device."""
    runs = {name: using(module)(run) for name, module in implementations().items()}
    times = time_in_turns(title, {name: run for name, run in runs.items() if _is_implemented(run)}, repeat)
    return {name: 1e3 * statistics.median(times[name]) if name in times else None for name in runs}


def _measure(args: argparse.Namespace) -> dict:
    """Each operator, forward and with its backward pass, and a detector's training step."""
    runs: dict[str, Callable[[], None]] = {}
    for make in WORKLOADS:
        workload = make(device().type)
        runs[make.__name__] = partial(_run_workload, workload, False)
        if workload[1]:
            runs[f'{make.__name__} and backward'] = partial(_run_workload, workload, True)
    step = partial(run_detector, build_detector(OURS, args.config), make_batch(parse_shape(args.shape)))
    runs[f"a detector's training step, {args.shape}"] = step
    rows = []
    for name, run in runs.items():
        times = _time(name, run, args.repeat)
        row = dict(operator=name, milliseconds=times)
        rows.append(row | dict(ratio=times[OURS] / times['compiled']) if times.get('compiled') else row)
    return dict(**conditions(args.repeat), rows=rows)


OPERATORS = Benchmark(
    "mmcv's operators, ours compared with the compiled ones",
    {'--config': CONFIG, '--shape': dict(default='1x800x1216', metavar='NxHxW', help='of the training step')},
    _measure,
)
