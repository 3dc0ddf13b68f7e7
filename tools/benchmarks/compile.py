"""torch.compile of whole models in inference: graphs, graph breaks, and the time compared with eager mode."""

import argparse
import collections
import statistics
import sys
from collections.abc import Callable
from functools import partial

import torch
from mmengine.registry import MODELS, init_default_scope
from mmengine.structures import BaseDataElement
from torch import Tensor, nn
from torch._dynamo.utils import counters

from convnext_backbone.config.load import load_config
from convnext_backbone.config.recipes import task_of
from convnext_backbone.ops.workloads import using

from .measuring import conditions, device, parse_shape, time_in_turns
from .models import make_images
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


def _build_model(path: str) -> tuple[nn.Module, str]:
    """The model of a config with random weights, and its task."""
    cfg = load_config(path)
    init_default_scope(cfg.get('default_scope'))
    cfg.model.backbone.init_cfg = None
    torch.manual_seed(0)
    return MODELS.build(cfg.model).to(device()).eval(), task_of(cfg)


def _measure_model(title: str, forward: Callable, make: Callable[[], tuple], repeat: int, backend: str) -> dict:
    torch._dynamo.reset()
    counters.clear()
    ways = dict(eager=forward, compiled=torch.compile(forward, backend=backend))
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
        model, task = _build_model(path)
        for name, module in implementations().items():
            with using(module):
                given = model.forward, partial(_arguments, task, images), args.repeat, args.backend
                row = _measure_model(f'{path}, {name}', *given)
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
