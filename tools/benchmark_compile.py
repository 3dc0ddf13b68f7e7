"""What torch.compile makes of a whole model in inference: its graphs, where they break, and the time beside eager."""

import argparse
import collections
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial

import torch
from benchmark_models import here, make_images, parse_shape, settings, wait
from benchmark_operators import contenders
from mmengine.registry import MODELS, init_default_scope
from mmengine.structures import BaseDataElement
from torch import Tensor, nn
from torch._dynamo.utils import counters

from convnext_backbone.config.load import load_config
from convnext_backbone.config.recipes import task_of
from convnext_backbone.ops.workloads import using

REASONS = 10  # of breaks, the most frequent


def arguments_of(task: str, images: Tensor) -> tuple[Tensor, list[BaseDataElement]]:
    """What mmdet and mmseg are given: images, and of each that it was not resized."""
    if task == 'detection':
        from mmdet.structures import DetDataSample as Sample
    else:
        from mmseg.structures import SegDataSample as Sample
    size = tuple(images.shape[2:])
    sizes = dict(img_shape=size, ori_shape=size, pad_shape=size, batch_input_shape=size)
    return images, [Sample(metainfo=dict(**sizes, scale_factor=(1.0, 1.0))) for _ in images]


def build_model(path: str) -> tuple[nn.Module, str]:
    """The model of a config with random weights, and its task."""
    cfg = load_config(path)
    init_default_scope(cfg.get('default_scope'))
    cfg.model.backbone.init_cfg = None
    torch.manual_seed(0)
    return MODELS.build(cfg.model).to(here()).eval(), task_of(cfg)


def seconds_of(run: Callable, arguments: Callable[[], tuple], repeat: int) -> float:
    """The median, after two runs that compile and warm up."""
    times = []
    for _ in range(repeat + 2):
        start = time.perf_counter()
        run(*arguments())
        wait(here())
        times.append(time.perf_counter() - start)
    return statistics.median(times[2:])


def measure_compile(forward: Callable, arguments: Callable[[], tuple], repeat: int, backend: str) -> dict:
    """Graphs, breaks with their reasons, and the times of both."""
    torch._dynamo.reset()
    counters.clear()
    compiled = torch.compile(forward, backend=backend)
    with torch.no_grad():
        times = [seconds_of(partial(run, mode='predict'), arguments, repeat) for run in (forward, compiled)]
    breaks = collections.Counter({reason.splitlines()[0][:120]: n for reason, n in counters['graph_break'].items()})
    return dict(
        graphs=counters['stats']['unique_graphs'],
        breaks=breaks.total(),
        eager=times[0],
        compiled=times[1],
        reasons=breaks.most_common(REASONS),
    )


def benchmark_compile(args: argparse.Namespace) -> dict:
    """Each model with each kind of operators."""
    shape, rows = parse_shape(args.shape), []
    for path in args.config:
        model, task = build_model(path)
        images = make_images(shape)
        for name, module in contenders().items():
            with using(module):
                given = partial(arguments_of, task, images)
                row = measure_compile(model.forward, given, args.repeat, args.backend)
                rows.append(dict(config=path, operators=name, **row))
                print(rows[-1], file=sys.stderr, flush=True)  # the next one takes minutes
    return dict(shape=args.shape, **settings(args), rows=rows)


def print_compile(result: dict) -> None:
    """As a table, and the reasons of the breaks below."""
    print(f'{result["device"]}, torch {result["torch"]}, {result["shape"]}; medians of {result["repeat"]}')
    print(f'{"":44}{"operators":>10}{"graphs":>8}{"breaks":>8}{"eager, s":>10}{"compiled":>10}')
    for row in result['rows']:
        figures = f'{row["graphs"]:8}{row["breaks"]:8}{row["eager"]:10.3f}{row["compiled"]:10.3f}'
        print(f'{row["config"]:44}{row["operators"]:>10}{figures}')
    for row in result['rows']:
        for reason, count in row['reasons']:
            print(f'  {row["operators"]:>10} {count:4} x {reason}')


def add_compile_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of `benchmark.py compile`."""
    configs = ['configs/cascade_convnext_t_coco.py', 'configs/upernet_convnext_t_ade20k.py']
    parser.add_argument('--config', nargs='+', default=configs, help='(default: %(default)s)')
    parser.add_argument('--backend', default='inductor', help="'eager' for the graphs alone (default: %(default)s)")
    parser.add_argument('--shape', default='1x512x512', metavar='NxHxW', help='(default: %(default)s)')
