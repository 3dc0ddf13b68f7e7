"""Cases for the operators of mmcv.ops: what the compiled ones were recorded with and ours are tested with.

A case calls the public functions of mmcv.ops with inputs that are made anew each time, so that the recorded files
hold outputs alone. The inputs are uniform random numbers of numpy's RandomState, whose stream never changes, put
together by additions and products: no version of numpy or of a mathematical library gives others.
"""

import json
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from mmcv import ops
from numpy.random import RandomState

Arrays = dict[str, np.ndarray]


class Case(NamedTuple):
    """One call of a public function: its inputs by name, and which of them have gradients."""

    name: str
    run: Callable[..., object]
    make: Callable[[RandomState], Arrays]
    gradients: Sequence[str] = ()
    half: bool | str = False  # also in fp16; 'cuda': which the original takes there alone
    cuda: bool = True  # False: runs on the CPU wherever the inputs are
    cpu: bool = True  # False: the original has it on CUDA alone

    @property
    def family(self) -> str:
        return self.name.split('-')[0]

    def dtypes(self, device: str) -> list[torch.dtype]:
        """What the original takes on a device: nothing where it does not run there."""
        taken = [torch.float32] + [torch.float16] * (self.half in (True, device))
        return taken if getattr(self, device) else []


def evaluate(case: Case, device: str, dtype: torch.dtype = torch.float32) -> Arrays:
    """The outputs of a case, and the gradients for a random gradient of the first output."""
    tensors = {}
    for name, array in case.make(RandomState(zlib.crc32(case.name.encode()))).items():
        tensor = torch.from_numpy(array)
        tensors[name] = tensor.to(device, dtype if tensor.is_floating_point() else None)
        tensors[name].requires_grad_(name in case.gradients)
    outputs = case.run(**tensors)
    outputs = outputs if isinstance(outputs, (tuple, list)) else [outputs]
    results = {f'output {i}': as_array(output) for i, output in enumerate(outputs)}
    if case.gradients and not (case.family == 'carafe_naive' and device == 'cpu'):  # refused by mmcv.ops itself
        random = RandomState(zlib.crc32(f'{case.name} gradient'.encode()))
        gradient = torch.from_numpy(signed(random, *outputs[0].shape)).to(outputs[0])
        outputs[0].backward(gradient)
        results |= {f'gradient of {name}': as_array(tensors[name].grad) for name in case.gradients}
    return results


def as_array(value: torch.Tensor | np.ndarray) -> np.ndarray:
    if isinstance(value, np.ndarray):
        return value
    value = value.detach().cpu()
    return (value.float() if value.dtype == torch.bfloat16 else value).numpy()


def signed(random: RandomState, *shape: int) -> np.ndarray:
    """Uniform between -1 and 1."""
    return np.asarray(random.random_sample(shape) * 2 - 1, np.float32)


def uniform(random: RandomState, low: float, high: float, *shape: int) -> np.ndarray:
    return np.asarray(random.random_sample(shape) * (high - low) + low, np.float32)


def fixed(**arrays: object) -> Callable[[RandomState], Arrays]:
    """Inputs that are written out."""

    def make(random: RandomState) -> Arrays:
        return {name: np.asarray(array, np.float32) for name, array in arrays.items()}

    return make


# Boxes with scores

ZERO_AREA = [[3, 3, 3, 3], [3, 3, 3, 3], [1, 1, 1, 9], [1, 1, 1, 9], [0, 0, 8, 8], [3, 5, 9, 5]]


def random_boxes(random: RandomState, count: int, extent: float = 40.0) -> np.ndarray:
    """Boxes that overlap often, some of them partly at negative coordinates."""
    corner = uniform(random, -5, extent, count, 2)
    return np.concatenate([corner, corner + uniform(random, 1, 30, count, 2)], 1)


def scored(count: int, levels: int = 0, extent: float = 40.0) -> Callable[[RandomState], Arrays]:
    """Random boxes; `levels`: so many different scores only."""

    def make(random: RandomState) -> Arrays:
        scores = uniform(random, 0, 1, count)
        if levels:
            scores = (random.randint(levels, size=count) / levels).astype(np.float32)
        return dict(boxes=random_boxes(random, count, extent), scores=scores)

    return make


def tied() -> Callable[[RandomState], Arrays]:
    """Equal scores, of boxes that do not overlap.

    The originals' sort is not stable: which of two such comes first depends on torch's version and the processor. What
    is kept does not, and it is compared without its order. Soft-NMS sorts nothing: there the order is certain.
    """

    def make(random: RandomState) -> Arrays:
        corners = np.repeat(np.arange(8) * 50, 3)[:, None] + uniform(random, 0, 8, 24, 2)
        boxes = np.concatenate([corners, corners + uniform(random, 10, 20, 24, 2)], 1).astype(np.float32)
        order = random.permutation(24)
        return dict(boxes=boxes[order], scores=np.tile(np.float32([0.75, 0.5, 0.25]), 8)[order])

    return make


def exact_overlaps() -> Callable[[RandomState], Arrays]:
    """Nine pairs whose overlaps are 0.1 to 0.9 to the last bit of fp32: thresholds are compared in fp32 or in fp64."""
    boxes = [[20 * i, 0, 20 * i + width, 1] for i in range(1, 10) for width in (10, i)]
    return fixed(boxes=boxes, scores=np.linspace(0.95, 0.15, len(boxes)))


BOXES = {
    'random': scored(30),
    'ties': tied(),
    'identical': fixed(boxes=[[2, 3, 9, 11]] * 5, scores=[0.5, 0.8, 0.7, 0.9, 0.1]),
    'zero_area': fixed(boxes=ZERO_AREA, scores=[0.9, 0.8, 0.7, 0.6, 0.5, 0.4]),
    'one': scored(1),
    'none': scored(0),
    'exact': exact_overlaps(),
}


def nms_cases() -> Iterator[Case]:
    def case(name: str, inputs: str, **arguments: object) -> Case:
        def run(boxes: torch.Tensor, scores: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            kept, indices = ops.nms(boxes, scores, **arguments)
            order = indices.argsort() if inputs == 'ties' else slice(None)
            return kept[order], indices[order]

        return Case(f'nms-{name}', run, BOXES[inputs])

    for inputs in BOXES:
        for offset in (0, 1):
            yield case(f'{inputs}-offset{offset}', inputs, iou_threshold=0.5, offset=offset)
    for threshold in (0.0, 0.1, 0.2, 0.3, 0.4, 0.6, 0.7, 0.8, 0.9, 1.0):
        yield case(f'exact-{threshold}', 'exact', iou_threshold=threshold)
    yield case('random-0.3', 'random', iou_threshold=0.3)
    yield case('score_threshold', 'random', iou_threshold=0.6, score_threshold=0.4)
    yield case('score_threshold-all', 'random', iou_threshold=0.6, score_threshold=2.0)
    yield case('max_num', 'random', iou_threshold=0.7, max_num=5)
    yield case('both', 'random', iou_threshold=0.7, score_threshold=0.2, max_num=4, offset=1)

    def of_arrays(boxes: torch.Tensor, scores: torch.Tensor) -> object:
        return ops.nms(boxes.cpu().numpy(), scores.cpu().numpy(), 0.5)

    yield Case('nms-numpy', of_arrays, BOXES['random'], cuda=False)


def soft_nms_cases() -> Iterator[Case]:
    def case(name: str, inputs: str, **arguments: object) -> Case:
        run = lambda boxes, scores: ops.soft_nms(boxes, scores, **arguments)  # noqa: E731
        return Case(f'soft_nms-{name}', run, BOXES[inputs], cuda=False)

    for method in ('naive', 'linear', 'gaussian'):
        for inputs in BOXES:
            if inputs != 'ties':
                yield case(f'{method}-{inputs}', inputs, method=method)
        ties = Case(f'soft_nms-{method}-ties', ops.soft_nms, scored(24, levels=4), cuda=False)
        yield ties._replace(run=lambda boxes, scores, method=method: ops.soft_nms(boxes, scores, method=method))
        yield case(f'{method}-offset1', 'random', method=method, offset=1, min_score=0.05)
        yield case(f'{method}-min_score', 'random', method=method, min_score=0.3, sigma=0.3, iou_threshold=0.5)
    for threshold in (0.1, 0.2, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9):
        yield case(f'naive-exact-{threshold}', 'exact', method='naive', iou_threshold=threshold)


def nms_match_cases() -> Iterator[Case]:
    def case(name: str, inputs: str, threshold: float) -> Case:
        def run(boxes: torch.Tensor, scores: torch.Tensor) -> list[torch.Tensor]:
            groups = ops.nms_match(torch.cat([boxes, scores[:, None]], 1), threshold)
            if inputs == 'ties':
                groups = sorted(groups, key=lambda group: int(group[0]))
            return [torch.tensor([len(group) for group in groups]), torch.cat([scores.new_zeros(0).long(), *groups])]

        return Case(f'nms_match-{name}', run, BOXES[inputs], cuda=False)

    for inputs in BOXES:
        yield case(inputs, inputs, 0.5)
    for threshold in (0.0, 0.1, 0.2, 0.3, 0.4, 0.6, 0.7, 0.8, 0.9, 1.0):
        yield case(f'exact-{threshold}', 'exact', threshold)
    yield case('random-0.3', 'random', 0.3)


def batched_nms_cases() -> Iterator[Case]:
    def case(name: str, nms_cfg: dict | None, class_agnostic: bool = False, count: int = 30) -> Case:
        def make(random: RandomState) -> Arrays:
            return scored(count)(random) | dict(idxs=random.randint(3, size=count))

        def run(**tensors: torch.Tensor) -> object:
            return ops.batched_nms(**tensors, nms_cfg=nms_cfg, class_agnostic=class_agnostic)

        return Case(f'batched_nms-{name}', run, make)

    yield case('classes', dict(type='nms', iou_threshold=0.3))
    yield case('agnostic', dict(type='nms', iou_threshold=0.3), class_agnostic=True)
    yield case('split', dict(type='nms', iou_threshold=0.3, split_thr=10))
    yield case('split-max_num', dict(type='nms', iou_threshold=0.3, split_thr=10, max_num=6))
    yield case('soft', dict(type='soft_nms', iou_threshold=0.3, min_score=0.1))
    yield case('soft-split', dict(type='soft_nms', iou_threshold=0.3, min_score=0.1, split_thr=10))
    yield case('sorted', None)
    yield case('one', dict(type='nms', iou_threshold=0.3), count=1)


def bbox_overlaps_cases() -> Iterator[Case]:
    def pairs(first: int, second: int) -> Callable[[RandomState], Arrays]:
        def make(random: RandomState) -> Arrays:
            return dict(bboxes1=random_boxes(random, first), bboxes2=random_boxes(random, second))

        return make

    others = [[3, 3, 3, 3], [2, 2, 5, 5], [1, 0, 1, 9], [1, 1, 1, 1], [0, 0, 8, 8], [30, 30, 40, 40]]
    for mode in ('iou', 'iof'):
        for aligned in (False, True):
            for offset in (0, 1):
                arguments = dict(mode=mode, aligned=aligned, offset=offset)
                run = lambda arguments=arguments, **boxes: ops.bbox_overlaps(**boxes, **arguments)  # noqa: E731
                name = f'bbox_overlaps-{mode}-{"aligned" if aligned else "all"}-offset{offset}'
                yield Case(name, run, pairs(6, 6 if aligned else 8), half='cuda')
                yield Case(f'{name}-zero_area', run, fixed(bboxes1=ZERO_AREA, bboxes2=others))
    yield Case('bbox_overlaps-none', ops.bbox_overlaps, pairs(0, 3))
    yield Case('bbox_overlaps-none2', ops.bbox_overlaps, pairs(3, 0))
    yield Case('bbox_overlaps-one', ops.bbox_overlaps, pairs(1, 1))


# Regions of feature maps

# In the image's pixels, of two maps of 7x9 at half the resolution: within, partly and wholly outside, less than a
# pixel, the whole image, an edge, far away.
REGIONS = [
    [0, 2.3, 1.7, 12.1, 9.6],
    [1, -4.0, -3.5, 5.5, 6.0],
    [0, 11.0, 8.0, 25.0, 19.0],
    [1, 7.25, 5.5, 7.75, 6.25],
    [1, 0.0, 0.0, 18.0, 14.0],
    [0, 16.5, 1.0, 18.0, 13.0],
    [0, 60.0, 60.0, 70.0, 75.0],
]
NO_AREA = [[0, 5.0, 4.0, 5.0, 4.0], [1, 3.0, 2.0, 3.0, 9.0]]


def on_maps(rois: list, size: tuple[int, ...] = (2, 2, 7, 9)) -> Callable[[RandomState], Arrays]:
    def make(random: RandomState) -> Arrays:
        return dict(input=signed(random, *size), rois=np.asarray(rois, np.float32).reshape(-1, 5))

    return make


def roi_align_cases() -> Iterator[Case]:
    for mode in ('avg', 'max'):
        for aligned in (True, False):
            for ratio in (0, 2):

                def run(input, rois, arguments=(ratio, mode, aligned)):
                    return ops.roi_align(input, rois, (3, 2), 0.5, *arguments)

                name = f'roi_align-{mode}-{"aligned" if aligned else "legacy"}-ratio{ratio}'
                yield Case(name, run, on_maps(REGIONS), ['input'], half=True)
                # Where no point is sampled the maximum is -10000, but on CUDA the least number: not to be copied.
                unsampled = mode == 'max' and aligned and ratio == 0
                yield Case(f'{name}-no_area', run, on_maps(NO_AREA), ['input'], cuda=not unsampled)

    def plain(input, rois):
        return ops.roi_align(input, rois, 2, 1.0)

    yield Case('roi_align-one', plain, on_maps([[0, 1, 1, 5, 4]], (1, 3, 5, 6)), ['input'])
    none = on_maps([], (1, 3, 5, 6))
    yield Case('roi_align-none', plain, none, ['input'], cuda=False)  # where the original's launch fails


def roi_pool_cases() -> Iterator[Case]:
    for scale in (0.5, 1.0):
        run = lambda input, rois, scale=scale: ops.RoIPool((2, 3), scale)(input, rois)  # noqa: E731
        yield Case(f'roi_pool-scale{scale}', run, on_maps(REGIONS), ['input'], cpu=False)
        yield Case(f'roi_pool-scale{scale}-no_area', run, on_maps(NO_AREA), ['input'], cpu=False)
    # No box at all: zeros. The original's gradient for them goes to the first pixel of the map, ours nowhere.
    inverted = [[0, 6, 5, 2, 1], [0, 4, 1, 2, 5]]
    yield Case('roi_pool-inverted', run, on_maps(inverted, (1, 1, 7, 9)), cpu=False)
    yield Case('roi_pool-one', run, on_maps([[0, 1, 1, 5, 4]], (1, 3, 5, 6)), ['input'], cpu=False)
    # The edges of bins are rounded to positions, so these are ones that fp16 has exactly.
    exact = [[0, 2, 1, 12, 9], [1, -4, -3, 5, 6], [0, 11, 8, 25, 19], [1, 0, 0, 17, 13]]
    run = lambda input, rois: ops.RoIPool((2, 4), 0.5)(input, rois)  # noqa: E731
    yield Case('roi_pool-exact_bins', run, on_maps(exact), ['input'], half=True, cpu=False)


# Convolutions at moved places

CONVOLUTIONS = {
    'plain': dict(padding=1),
    'groups': dict(padding=1, groups=2),
    'deform_groups': dict(padding=1, deform_groups=2),
    'all_groups': dict(padding=1, groups=2, deform_groups=2, shape=(2, 4, 3, 3)),
    'stride': dict(padding=(2, 1), stride=(2, 1)),
    'dilation': dict(padding=(1, 2), dilation=(1, 2)),
    'kernel1x3': dict(padding=(0, 1), kernel=(1, 3)),
    'kernel1x1': dict(kernel=(1, 1)),
    'far_offsets': dict(padding=1, reach=6.0),
    'no_offsets': dict(padding=1, reach=0.0),  # on pixels a gradient of the offset has two sides: one is taken
}


def moved(
    modulated: bool,
    bias: bool = False,
    reach: float = 1.5,
    shape: tuple[int, ...] = (2, 4, 4, 3),
    kernel: tuple[int, int] = (3, 3),
    outputs: int = 2,
    **arguments: object,
) -> tuple[Callable[[RandomState], Arrays], list[object]]:
    """What makes the inputs of a deformable convolution, and the arguments after them."""
    pairs = {key: np.broadcast_to(arguments.get(key, key != 'padding'), 2) for key in ('stride', 'padding', 'dilation')}
    stride, padding, dilation = (tuple(int(n) for n in pairs[key]) for key in ('stride', 'padding', 'dilation'))
    groups, deform_groups = arguments.get('groups', 1), arguments.get('deform_groups', 1)
    size = [
        (shape[2 + i] + 2 * padding[i] - dilation[i] * (kernel[i] - 1) - 1) // stride[i] + 1 for i in range(2)
    ]  # of the output
    points = deform_groups * kernel[0] * kernel[1]

    def make(random: RandomState) -> Arrays:
        arrays = dict(input=signed(random, *shape), offset=signed(random, shape[0], 2 * points, *size) * reach)
        if modulated:
            arrays['mask'] = uniform(random, 0, 1, shape[0], points, *size)
        arrays['weight'] = signed(random, outputs, shape[1] // groups, *kernel)
        if bias:
            arrays['bias'] = signed(random, outputs)
        return arrays

    return make, [stride, padding, dilation, groups, deform_groups]


def deform_conv_case(name: str, im2col_step: int = 32, half: bool = True, **arguments: object) -> Case:
    make, rest = moved(False, **arguments)

    def run(input, offset, weight):
        return ops.deform_conv2d(input, offset, weight, *rest, False, im2col_step)

    return Case(f'deform_conv-{name}', run, make, ['input', 'offset', 'weight'], half=half)


def modulated_deform_conv_case(name: str, bias: bool, half: bool = True, **arguments: object) -> Case:
    make, rest = moved(True, bias, **arguments)

    def run(input, offset, mask, weight, bias=None):
        return ops.modulated_deform_conv2d(input, offset, mask, weight, bias, *rest)

    gradients = ['input', 'offset', 'mask', 'weight'] + ['bias'] * bias
    return Case(f'modulated_deform_conv-{name}', run, make, gradients, half=half)


HALF_CONVOLUTIONS = ('plain', 'all_groups', 'kernel1x3')


def deform_conv_cases() -> Iterator[Case]:
    for name, arguments in CONVOLUTIONS.items():
        yield deform_conv_case(name, **arguments, half=name in HALF_CONVOLUTIONS)
    yield deform_conv_case('im2col_step', im2col_step=2, padding=1, shape=(4, 2, 3, 3), half=False)
    yield deform_conv_case('one', shape=(1, 2, 3, 3), half=False)


def modulated_deform_conv_cases() -> Iterator[Case]:
    for name, arguments in CONVOLUTIONS.items():
        bias = name not in ('groups', 'far_offsets')
        yield modulated_deform_conv_case(name, bias, **arguments, half=name in HALF_CONVOLUTIONS)
    yield modulated_deform_conv_case('one', False, shape=(1, 2, 3, 3), half=False)


# Focal losses


def logits(
    rows: int, classes: int, targets: str = 'random', weight: bool = False, saturated: bool = False
) -> Callable[[RandomState], Arrays]:
    """`targets`: 'random', 'none' (no positive class), 'ignored' (some -1), 'background' (some one past the last)."""

    def make(random: RandomState) -> Arrays:
        arrays = dict(input=signed(random, rows, classes) * 4, target=random.randint(classes, size=rows))
        if saturated:  # between, the originals take logarithms of 1 minus nearly 1, which is rounding alone
            arrays['input'] = np.sign(arrays['input']) * uniform(random, 30, 100, rows, classes)
        if targets == 'none':
            arrays['target'][:] = classes
        if targets == 'background':
            arrays['target'][::2] = classes
        if targets == 'ignored':  # not the first: the original reads the number before the row's
            arrays['target'][1::2] = -1
        if weight:
            arrays['weight'] = uniform(random, 0.2, 2, classes)
        return arrays

    return make


def focal_loss_case(kind: str, name: str, inputs: dict, gamma=2.0, alpha=0.25, reduction='none', half=False) -> Case:
    loss = getattr(ops, f'{kind}_focal_loss')
    # The original's gradient of the softmax loss of single rows multiplies (N, C) by (N,).
    gradients = [] if kind == 'softmax' and reduction == 'none' else ['input']

    def run(input, target, weight=None):
        return loss(input, target, gamma, alpha, weight, reduction)

    return Case(f'{kind}_focal_loss-{name}', run, logits(**inputs), gradients, half=half, cpu=False)


def focal_loss_cases() -> Iterator[Case]:
    for kind in ('sigmoid', 'softmax'):
        for reduction in ('none', 'mean', 'sum'):
            inputs = dict(rows=9, classes=4)
            yield focal_loss_case(kind, reduction, inputs, reduction=reduction, half=True)
            yield focal_loss_case(
                kind, f'{reduction}-weight', inputs | dict(weight=True), reduction=reduction, half=True
            )
            yield focal_loss_case(kind, f'{reduction}-gamma1.5', inputs, 1.5, 0.6, reduction)
        yield focal_loss_case(kind, 'gamma0', inputs, 0.0, 0.25, 'sum')
        yield focal_loss_case(kind, 'saturated', inputs | dict(saturated=True), reduction='sum')
        yield focal_loss_case(kind, 'saturated-none', inputs | dict(saturated=True))
        yield focal_loss_case(kind, 'one', dict(rows=1, classes=3), reduction='mean')
        yield focal_loss_case(kind, 'ignored', inputs | dict(targets='ignored'), reduction='sum')
    for targets in ('none', 'background'):
        for reduction in ('none', 'sum'):
            yield focal_loss_case(
                'sigmoid', f'{targets}-{reduction}', inputs | dict(targets=targets), reduction=reduction
            )
    yield focal_loss_case('sigmoid', 'one_class', dict(rows=6, classes=1, targets='background'), reduction='mean')


# Attention, masks and upsampling


def attention_case(
    name: str,
    levels: list[tuple[int, int]],
    batch: int = 2,
    heads: int = 2,
    channels: int = 4,
    queries: int = 3,
    points: int = 2,
    reach: tuple[float, float] | None = (-0.3, 1.3),
    step: int = 64,
    half: bool = True,
) -> Case:
    """`reach`: from where to where the places are, in heights and widths; None: on pixels."""

    def make(random: RandomState) -> Arrays:
        keys = [h * w for h, w in levels]
        weights = uniform(random, 0, 1, batch, queries, heads, len(levels), points)
        if reach is None:
            sizes = np.array(levels, np.float32)[:, None, ::-1]
            places = np.floor(uniform(random, 0, 1, *weights.shape, 2) * sizes) / sizes + 0.5 / sizes
        else:
            places = uniform(random, *reach, *weights.shape, 2)
        return dict(
            value=signed(random, batch, sum(keys), heads, channels),
            shapes=np.asarray(levels),
            starts=np.cumsum([0] + keys[:-1]),
            places=places,
            weights=weights,
        )

    def run(value, shapes, starts, places, weights):
        return ops.multi_scale_deform_attn.MultiScaleDeformableAttnFunction.apply(
            value, shapes, starts, places, weights, step
        )

    gradients = ['value', 'places', 'weights']
    return Case(f'ms_deform_attn-{name}', run, make, gradients, half=half, cpu=False)


def ms_deform_attn_cases() -> Iterator[Case]:
    yield attention_case('levels', [(5, 4), (3, 2)])
    yield attention_case('one_level', [(4, 3)], heads=1)
    yield attention_case('three_levels', [(4, 5), (2, 3), (1, 1)], heads=1, channels=2, half=False)
    yield attention_case('odd_channels', [(3, 4), (2, 2)], channels=3, half=False)
    yield attention_case('step1', [(3, 3), (2, 1)], step=1, half=False)
    yield attention_case('inside', [(3, 4), (2, 2)], reach=(0.25, 0.75), channels=2, half=False)
    # As where a model begins: sizes of powers of 2, so that no rounding decides of which two pixels one is between.
    yield attention_case('on_pixels', [(4, 8), (2, 4)], reach=None, channels=2, half=False)
    yield attention_case('outside', [(3, 4), (2, 2)], reach=(2.0, 3.0), channels=2, half=False)
    yield attention_case('one', [(2, 2)], batch=1, heads=1, channels=1, queries=1, points=1, half=False)


def masked_conv_cases() -> Iterator[Case]:
    for kernel in (1, 3):
        for share in (0.0, 0.4, 1.0):

            def make(random: RandomState, kernel=kernel, share=share) -> Arrays:
                mask = (random.random_sample((1, 5, 6)) < share).astype(np.float32)
                weight, bias = signed(random, 2, 3, kernel, kernel), signed(random, 2)
                return dict(features=signed(random, 1, 3, 5, 6), mask=mask, weight=weight, bias=bias)

            def run(features, mask, weight, bias, kernel=kernel):
                return ops.masked_conv2d(features, mask, weight, bias, kernel // 2)

            yield Case(f'masked_conv-kernel{kernel}-{share}', run, make, half=True, cpu=False)


def carafe_case(naive: bool, name: str, shape: tuple, kernel: int, groups: int, scale: int, half: bool = True) -> Case:
    def make(random: RandomState) -> Arrays:
        n, c, h, w = shape
        masks = uniform(random, 0, 1, n, kernel * kernel * groups, h * scale, w * scale)
        return dict(features=signed(random, *shape), masks=masks)

    def run(features, masks):
        return (ops.carafe_naive if naive else ops.carafe)(features, masks, kernel, groups, scale)

    family = 'carafe_naive' if naive else 'carafe'
    return Case(f'{family}-{name}', run, make, ['features', 'masks'], half=half, cpu=False)


def carafe_cases() -> Iterator[Case]:
    for naive in (False, True):
        yield carafe_case(naive, 'plain', (2, 2, 2, 3), 3, 1, 2)
        yield carafe_case(naive, 'groups', (1, 4, 2, 2), 3, 2, 2, half=False)
        yield carafe_case(naive, 'kernel5', (1, 2, 3, 2), 5, 1, 1, half=False)
        yield carafe_case(naive, 'kernel1', (1, 2, 2, 2), 1, 2, 2, half=False)


def psa_mask_cases() -> Iterator[Case]:
    sizes = {'larger': (5, 7), 'smaller': (3, 1), 'same': (2, 3), 'even': (2, 4), 'full': (3, 5)}
    for kind in ('collect', 'distribute'):
        for name, mask in sizes.items():

            def make(random: RandomState, mask=mask) -> Arrays:
                return dict(input=signed(random, 2, mask[0] * mask[1], 2, 3))

            def run(input, kind=kind, mask=mask):
                return ops.PSAMask(kind, mask)(input)

            yield Case(f'psa_mask-{kind}-{name}', run, make, ['input'])


CASES = {
    case.name: case
    for cases in (
        nms_cases(),
        soft_nms_cases(),
        nms_match_cases(),
        batched_nms_cases(),
        bbox_overlaps_cases(),
        roi_align_cases(),
        roi_pool_cases(),
        deform_conv_cases(),
        modulated_deform_conv_cases(),
        focal_loss_cases(),
        ms_deform_attn_cases(),
        masked_conv_cases(),
        carafe_cases(),
        psa_mask_cases(),
    )
    for case in cases
}


def large_cases() -> Iterator[Case]:
    """Larger ones of other numbers, to compare two implementations that are both at hand."""
    boxes = scored(1500, extent=400.0)
    for offset in (0, 1):
        yield Case(
            f'nms-large-offset{offset}',
            lambda o=offset, **inputs: ops.nms(**inputs, iou_threshold=0.5, offset=o),
            boxes,
        )
    for method in ('naive', 'linear', 'gaussian'):
        run = lambda method=method, **inputs: ops.soft_nms(**inputs, method=method)  # noqa: E731
        yield Case(f'soft_nms-large-{method}', run, scored(300, levels=50, extent=200.0), cuda=False)
    case = CASES['nms_match-random']
    yield case._replace(name='nms_match-large', make=boxes)
    for name in ('avg-aligned-ratio0', 'avg-legacy-ratio2', 'max-aligned-ratio0', 'max-legacy-ratio2'):
        case = CASES[f'roi_align-{name}']

        def make(random: RandomState) -> Arrays:
            rois = np.concatenate([random.randint(2, size=(60, 1)), random_boxes(random, 60) * 1.5], 1)
            return dict(input=signed(random, 2, 8, 25, 34), rois=rois.astype(np.float32))

        yield case._replace(name=f'{case.name}-large', make=make)
        if 'ratio0' in name and 'avg' in name:
            yield CASES['roi_pool-scale0.5']._replace(name='roi_pool-large', make=make)
    for groups in (1, 2):
        sizes = dict(shape=(4, 8, 12, 15), outputs=6, padding=1, groups=groups, deform_groups=3 - groups, half=False)
        yield deform_conv_case(f'large{groups}', **sizes, im2col_step=2)
        yield modulated_deform_conv_case(f'large{groups}', True, **sizes)
    yield attention_case('large', [(20, 24), (10, 12), (5, 6)], heads=4, channels=8, queries=50, points=4, half=False)
    for kind in ('sigmoid', 'softmax'):
        yield focal_loss_case(kind, 'large', dict(rows=500, classes=80), reduction='mean')
    for naive in (False, True):
        yield carafe_case(naive, 'large', (2, 16, 12, 15), 5, 4, 2, half=False)
    for kind in ('collect', 'distribute'):
        run = lambda input, kind=kind: ops.PSAMask(kind, (17, 13))(input)  # noqa: E731
        yield Case(
            f'psa_mask-large-{kind}', run, lambda random: dict(input=signed(random, 2, 17 * 13, 9, 8)), ['input']
        )


LARGE = {case.name: case for case in large_cases()}


# The recorded files


def save(path: Path, results: dict[str, Arrays]) -> None:
    """Writes results by case. One array of all numbers: a file of thousands of small arrays is mostly headers."""
    index, parts = [], []
    for name, arrays in results.items():
        for key, array in arrays.items():
            index.append([name, key, str(array.dtype), list(array.shape)])
            # Whole numbers are small enough for fp32, and fp16 in fp32 is half zeros, which take no room.
            parts.append(array.astype(np.float32).ravel())
            assert np.array_equal(parts[-1].astype(array.dtype).reshape(array.shape), array, equal_nan=True)
    # Bytes of equal rank stand together, which packs a fifth smaller.
    numbers = np.concatenate(parts).view(np.uint8).reshape(-1, 4).T
    text = json.dumps(index, separators=(',', ':')).encode()
    np.savez_compressed(path, numbers=numbers, index=np.frombuffer(text, np.uint8))


def load(path: Path) -> dict[str, Arrays]:
    """The results by case that `save` wrote; none where there is no file."""
    results, start = {}, 0
    if not path.exists():
        return results
    with np.load(path) as file:
        numbers = np.ascontiguousarray(file['numbers'].T).view(np.float32).ravel()
        index = json.loads(file['index'].tobytes())
    for name, key, dtype, shape in index:
        end = start + int(np.prod(shape))
        results.setdefault(name, {})[key] = numbers[start:end].astype(dtype).reshape(shape)
        start = end
    return results
