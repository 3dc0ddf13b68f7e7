"""torch.compile of whole models in inference: graphs, graph breaks, and the time compared with eager mode."""

import argparse
import collections
import statistics
import sys
from collections.abc import Callable
from functools import partial

import torch
from mmengine.structures import BaseDataElement
from torch import Tensor, nn
from torch._dynamo.utils import counters

from convnext_backbone.config.load import load_config
from convnext_backbone.config.recipes import task_of
from convnext_backbone.ops.workloads import using

from .measuring import conditions, parse_shape, time_in_turns
from .models import build_model, make_images
from .operators import implementations
from .report import Benchmark

REASONS = 10  # of graph breaks, the most frequent


def _arguments(task: str, images: Tensor) -> tuple[Tensor, list[BaseDataElement]]:
    """The arguments of a model's forward: images, and samples that say that they were not resized."""
    if task == 'detection':
        from mmdet.structures import DetDataSample as Sample
    else:
        from mmseg.structures import SegDataSample as Sample
    size = tuple(images.shape[2:])
    sizes = dict(img_shape=size, ori_shape=size, pad_shape=size, batch_input_shape=size)
    return images, [Sample(metainfo=dict(**sizes, scale_factor=(1.0, 1.0))) for _ in images]


def _measure_model(title: str, model: nn.Module, make: Callable[[], tuple], repeat: int, backend: str) -> dict:
    torch._dynamo.reset()
    counters.clear()
    ways = dict(eager=model.forward, compiled=torch.compile(model.forward, backend=backend))
    runs = {name: lambda way=way: way(*make(), mode='predict') for name, way in ways.items()}
    with torch.no_grad():
        times = time_in_turns(title, runs, repeat, warm_up=2)
    breaks = collections.Counter({reason.splitlines()[0][:120]: n for reason, n in counters['graph_break'].items()})
    return dict(
        graphs=counters['stats']['unique_graphs'],
        breaks=breaks.total(),
        **{name: statistics.median(found) for name, found in times.items()},
        reasons=breaks.most_common(REASONS),
    )


def _measure(args: argparse.Namespace) -> dict:
    """Each model with each implementation of mmcv's operators."""
    images, rows = make_images(parse_shape(args.shape)), []
    for path in args.config:
        model, make = build_model(path).eval(), partial(_arguments, task_of(load_config(path)), images)
        for name, module in implementations().items():
            with using(module):
                row = _measure_model(f'{path}, {name}', model, make, args.repeat, args.backend)
            rows.append(dict(config=path, operators=name, **row))
            print(rows[-1], file=sys.stderr, flush=True)  # the next one takes minutes
    return dict(shape=args.shape, **conditions(args.repeat), rows=rows)


CONFIGS = ['configs/cascade_convnext_t_coco.py', 'configs/upernet_convnext_t_ade20k.py']
COMPILE = Benchmark(
    'torch.compile of whole models in inference',
    {
        '--config': dict(nargs='+', default=CONFIGS),
        '--backend': dict(default='inductor', help="'eager' for the graphs alone"),
        '--shape': dict(default='1x512x512', metavar='NxHxW'),
    },
    _measure,
)
