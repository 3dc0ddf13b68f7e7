"""Time and memory of a backbone, or of a detector's training step, compared with the same model by other packages."""

import argparse
import copy
import itertools
import statistics
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from mmengine.registry import MODELS
from torch import Tensor, nn
from tqdm import tqdm

from convnext_backbone import ARCHS, ImageClassifier
from convnext_backbone.analysis.complexity import count_multiply_adds
from convnext_backbone.config.load import load_config
from convnext_backbone.config.recipes import task_of
from convnext_backbone.models.precision import working_dtype
from convnext_backbone.utils.errors import UserError

from .contenders import OURS, Exported, build, choose_contenders, switch_kernels
from .measuring import Shape, conditions, device, measure_alone, parse_shape, peak_of, process_peak_of, time_in_turns
from .report import Bars, Benchmark, draw_bars

DTYPES = dict(fp32=torch.float32, bf16=torch.bfloat16, fp16=torch.float16)
PURE = {f'pure-{name}': DTYPES[name] for name in ('bf16', 'fp16')}  # the model's weights and the images, too
MODES = ('train', 'infer')
MATRIX_SIZE = 2048
Makers = dict[str, Callable[[], nn.Module]]


def autocast(dtype: str) -> torch.autocast:
    """Context of a step in a data type, by name; in fp32 and pure types without autocast."""
    return torch.autocast(device().type, DTYPES.get(dtype), enabled=dtype in DTYPES and dtype != 'fp32')


def make_images(shape: Shape) -> Tensor:
    """Noise, channels-last."""
    samples, height, width = shape
    images = torch.randn(samples, 3, height, width, device=device())
    return images.contiguous(memory_format=torch.channels_last)


def run_backbone(model: nn.Module, images: Tensor, mode: str, dtype: str) -> None:
    """A forward pass, and in training a backward pass from gradients as dense as those of a neck."""
    model.train(mode == 'train')  # which returns nothing in mmpretrain
    if dtype in PURE:
        model, images = model.to(PURE[dtype]), images.to(PURE[dtype])
    with switch_kernels(model):
        with autocast(dtype), torch.set_grad_enabled(mode == 'train'):
            maps = list(model(images))
        if mode == 'train':
            torch.autograd.backward(maps, [one.detach() for one in maps])


def make_batch(shape: Shape) -> dict:
    """Noise with boxes and masks, all of the second class, as mmdetection's own tests make it."""
    from mmdet.testing import demo_mm_inputs

    samples, height, width = shape
    return demo_mm_inputs(samples, [[3, height, width]] * samples, [8] * samples, num_classes=2, with_mask=True)


def run_detector(model: nn.Module, batch: dict, mode: str = 'train', dtype: str = 'fp32') -> None:
    """A training step without that of the optimizer."""
    with switch_kernels(model):
        with autocast(dtype):
            data = model.data_preprocessor(copy.deepcopy(batch), mode == 'train')
            loss, _ = model.parse_losses(model(**data, mode='loss'))
        loss.backward()


def _backbone_of(path: str) -> tuple[str, float]:
    """Arch and stochastic depth of a detector's config; refuses other configs."""
    cfg = load_config(path)
    backbone = cfg.model.get('backbone', {})
    if task_of(cfg) != 'detection' or backbone.get('type') != 'ConvNeXt' or backbone.get('arch') not in ARCHS:
        raise UserError(f'--config {path} is no detector with a ConvNeXt of a named arch: there is nothing to compare.')
    return backbone.arch, backbone.get('drop_path_rate', 0.0)


def build_model(path: str) -> nn.Module:
    """The model of a config, with random weights."""
    cfg = load_config(path)
    cfg.model.backbone.init_cfg = None
    torch.manual_seed(0)
    with MODELS.switch_scope_and_registry(cfg.default_scope) as registry:
        return registry.build(cfg.model).to(device())


def build_detector(contender: str, path: str) -> nn.Module:
    """The detector of a config, with a contender's backbone of the same size."""
    model = build_model(path)
    if contender != OURS:
        model.backbone = build(contender, *_backbone_of(path), device())
    return model.to(memory_format=torch.channels_last).train()


def time_models(
    title: str, makers: Makers, make_input: Callable[[], Any], run: Callable, repeat: int, matrix: str | None = None
) -> dict[str, list[float]]:
    """Seconds of each model's steps, in turn; under the name ``'matrix'`` those of a matrix product of a data type."""
    models, inputs = {name: make() for name, make in makers.items()}, make_input()
    runs = {name: partial(run, model, inputs) for name, model in models.items()}
    if matrix:
        # fp32 where a CPU has no instructions for half precision
        dtype = working_dtype((DTYPES | PURE)[matrix], device())
        runs['matrix'] = partial(torch.mm, *torch.randn(2, MATRIX_SIZE, MATRIX_SIZE, device=device(), dtype=dtype))
    return time_in_turns(title, runs, repeat, after=lambda: [model.zero_grad() for model in models.values()])


def measure_peak(
    make: Callable[[], nn.Module],
    make_input: Callable[[Shape], Any],
    run: Callable,
    shape: Shape,
    peak: Callable[[Callable], float] = peak_of,
) -> float:
    """The peak of one step in MiB, on top of weights, gradients, inputs and libraries."""
    model, inputs = make(), make_input(shape)
    # First whatever is imported or built at first use; torch.compile and other runtimes build again for each shape.
    run(model, inputs if isinstance(model, (torch._dynamo.OptimizedModule, Exported)) else make_input((1, 64, 64)))
    return peak(partial(run, model, inputs))


def measure_peaks(makers: Makers, *arguments: Any) -> dict[str, float]:
    """:func:`measure_peak` of each model, in a process of its own."""
    return {name: measure_alone(measure_peak, make, *arguments) for name, make in tqdm(makers.items(), desc='Memory')}


def _multiply_adds(arch: str, shape: Shape, mode: str) -> int:
    with torch.device('meta'):
        classifier = ImageClassifier(dict(type='ConvNeXt', arch=arch)).eval()
        image = count_multiply_adds(classifier, shape[1:])['backbone']
    return shape[0] * image * (3 if mode == 'train' else 1)


def _row(
    contender: str, times: dict[str, list[float]], peaks: dict[str, float], processes: dict[str, float] | None
) -> dict:
    """Median time, how many times faster ours is, peak memory, and how much of it ours takes; so for processes."""
    # Ratios within a round: what else the machine does slows both.
    speedup = statistics.median(other / own for other, own in zip(times[contender], times[OURS], strict=True))
    row = dict(contender=contender, seconds=statistics.median(times[contender]), fastest=min(times[contender]))
    row |= dict(speedup=speedup, peak_mib=peaks[contender], memory=peaks[OURS] / peaks[contender])
    if processes:
        row |= dict(process_mib=processes[contender], of_process=processes[OURS] / processes[contender])
    return row


def _compare(
    args: argparse.Namespace, makers: Makers, make_input: Callable[[Shape], Any], run: Callable, arch: str = ''
) -> dict:
    """Rows of each shape, mode and data type; for a backbone's arch also the share of a matrix product's rate."""
    results = []
    for shape, mode, dtype in itertools.product(map(parse_shape, args.shapes), args.mode, args.dtype):
        samples, height, width = shape
        step, title = partial(run, mode=mode, dtype=dtype), f'{samples}x{height}x{width} {mode} {dtype}'
        settings = makers, partial(make_input, shape), step, args.repeat, dtype if arch else None
        times = measure_alone(time_models, title, *settings)
        matrix, peaks = times.pop('matrix', None), measure_peaks(makers, make_input, step, shape)
        as_it_is = device().type == 'cpu'
        processes = measure_peaks(makers, make_input, step, shape, process_peak_of) if as_it_is else None
        rows = [_row(contender, times, peaks, processes) for contender in makers]
        if matrix:
            bound = _multiply_adds(arch, shape, mode) / MATRIX_SIZE**3 * statistics.median(matrix)
            rows = [row | dict(share_of_matrix_rate=bound / row['seconds']) for row in rows]
        results.append(dict(images=samples, height=height, width=width, mode=mode, dtype=dtype, rows=rows))
    return dict(**conditions(args.repeat), results=results)


def _measure_backbones(args: argparse.Namespace) -> dict:
    names = choose_contenders(args.peers, args.arch, args.compile)
    makers: Makers = {name: partial(build, name, args.arch, args.drop_path, device()) for name in names}
    result = _compare(args, makers, make_images, run_backbone, args.arch)
    return dict(model=f'ConvNeXt {args.arch}, drop path {args.drop_path}', **result)


def _measure_detectors(args: argparse.Namespace) -> dict:
    arch, drop_path = _backbone_of(args.config)
    args.mode = ['train']
    names = choose_contenders(args.peers, arch, args.compile)
    makers: Makers = {name: partial(build_detector, name, args.config) for name in names}
    result = _compare(args, makers, make_batch, run_detector)
    return dict(model=f'{Path(args.config).stem}, drop path {drop_path}', **result)


def draw_models(result: dict, path: Path) -> None:
    """Draw time and memory, a row for each case."""
    names = [row['contender'] for row in result['results'][0]['rows']]
    grid = []
    for case in result['results']:
        seconds, peaks = ([row[key] for row in case['rows']] for key in ('seconds', 'peak_mib'))
        title = '{images}x{height}x{width}, {mode}, {dtype}: seconds'.format(**case)
        grid.append([Bars(title, names, seconds, '%.2f'), Bars('peak memory, MiB', names, peaks, '%.0f')])
    colors = ['tab:orange' if name.startswith(OURS) else 'tab:blue' for name in names]
    draw_bars(grid, colors, f'{result["model"]}; {result["device"]}', path)


CONFIG: dict = dict(default='configs/cascade_convnext_t_coco.py')
FLAGS: dict[str, dict] = {
    '--peers': dict(metavar='A,B', help='packages to compare with; default is all that are installed'),
    '--compile': dict(action='store_true', help='all by torch.compile, too'),
    '--shapes': dict(nargs='+', default=['1x800x1216'], metavar='NxHxW'),
    '--dtype': dict(nargs='+', choices=DTYPES, default=['fp32'], help='by autocast'),
    '--out': dict(type=Path, metavar='FILE', help='draw the result as a picture'),
}
BACKBONE = Benchmark(
    'the backbone, compared with those of other packages',
    {
        '--arch': dict(choices=ARCHS, default='tiny'),
        '--drop-path': dict(type=float, default=0.0, help='stochastic depth'),
        '--mode': dict(nargs='+', choices=MODES, default=MODES),
        **FLAGS,
        '--dtype': FLAGS['--dtype'] | dict(choices=DTYPES | PURE, help='by autocast, or of weights and images (pure)'),
    },
    _measure_backbones,
)
DETECTOR = Benchmark(
    "a detector's training step, with our backbone and those of other packages",
    {'--config': CONFIG, **FLAGS},
    _measure_detectors,
)
