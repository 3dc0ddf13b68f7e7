"""What a model costs: parameters, multiply-adds and training memory, counted on the meta device, without allocation.

Multiply-adds are those of convolutions, linear layers and matrix products, each counted once: what the papers call
FLOPs. Biases, norms, activations, resizing, RoIAlign and the sampling of deformable attention count nothing.
"""

import contextlib
import copy
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from mmengine.config import Config
from mmengine.registry import MODELS
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from ..models.classifier import ImageClassifier
from ..models.layers import DropPath
from ..models.masked_autoencoder import MaskedAutoencoder
from ..utils.errors import UserError, printable, shorten
from .transformers import find_transformer, run_transformer

# (width, height): COCO's images are resized until they fit into the first; papers count at the second.
COCO_BOUND, COCO_PUBLISHED = (1333, 800), (1280, 800)
HEADS = ('rpn_head', 'bbox_head', 'decode_head')  # on the maps of the neck, or of the backbone
# On regions of the maps, at most as many as this part of the model's test_cfg says.
REGION_HEADS = {'roi_head.bbox_head': 'rpn', 'roi_head.mask_head': 'rcnn'}
AUXILIARY_HEAD = 'auxiliary_head'  # of a segmentor, in training only


class Cost(NamedTuple):
    """What a model or a part of it costs for one image."""

    parameters: int
    multiply_adds: int


class TrainingMemory(NamedTuple):
    """Memory of training with AdamW in fp32: ``model`` bytes, and ``image`` bytes for each image of ``shape``.

    ``model`` is weights and buffers, and gradients and both moments of what is trained; ``image`` is the activation
    memory: what autograd keeps for the backward pass. Targets, losses and operators' workspaces come on top.
    """

    shape: tuple[int, int]
    model: int
    image: int


class Complexity(NamedTuple):
    """What a model costs for an image of ``shape`` (height, width), in all and by part, and what training it takes."""

    shape: tuple[int, int]
    total: Cost
    parts: dict[str, Cost]
    memory: TrainingMemory


def count_complexity(cfg: Config, shape: Sequence[int] | None = None) -> Complexity:
    """Count the model of a config: inference on one image, and the memory of training.

    Detectors are counted as in the official results: each box head on as many regions as ``test_cfg`` lets the RPN
    propose (1000), each mask head on as many as it lets be detected (100). Segmentors take the whole image at once;
    an auxiliary head, which only training runs, has no multiply-adds. A masked autoencoder encodes what is visible.

    Args:
        cfg: Of a classifier, a masked autoencoder, a segmentor, or a detector of one or two stages or with a
            transformer.
        shape: Height and width of the image in pixels; by default those of :func:`input_shape`.

    Raises:
        UserError: The shape is not positive or too small, the model is of another kind, or a detector of two stages has
            no ``train_cfg``.
    """
    height, width = shape or input_shape(cfg)
    in_training = (height, width) if shape else training_shape(cfg)
    if min(height, width) < 1:
        raise UserError(f'--shape {height} {width} is out of range: height and width are at least 1 pixel.')
    with MODELS.switch_scope_and_registry(cfg.get('default_scope', 'mmdet')) as registry, torch.device('meta'):
        model = registry.build(copy.deepcopy(cfg.model)).eval()  # detectors write into their config
        try:
            counted = count_multiply_adds(model, (height, width))
            memory = count_memory(model.train(), in_training)
        except (NotImplementedError, RuntimeError, TypeError) as error:  # it needs values, or its parts do not fit
            raise UserError(
                f'The {cfg.model.type} cannot be counted on an image of {height}x{width}: {printable(error)}.'
            ) from error
    parts = {
        name: Cost(count_parameters(part), counted[name]) for name, part in submodules_with_parameters(model).items()
    }
    return Complexity((height, width), Cost(count_parameters(model), sum(counted.values())), parts, memory)


def input_shape(cfg: Config) -> tuple[int, int]:
    """Return height and width of the images that a config tests on; for COCO's those of the papers, 800 and 1280.

    Raises:
        UserError: The config does not say.
    """
    dataset: Any = (cfg.get('test_dataloader') or {}).get('dataset') or {}
    if 'transform' in dataset:
        return (dataset.transform.input_size,) * 2
    for step in dataset.get('pipeline') or []:
        if step.type == 'Resize' and isinstance(step.get('scale'), Sequence):
            width, height = COCO_PUBLISHED if tuple(step.scale) == COCO_BOUND else step.scale
            return height, width
    raise UserError('The test pipeline of the config has no Resize with a scale: give the size with --shape.')


def training_shape(cfg: Config) -> tuple[int, int]:
    """Return height and width of what a config trains on: a segmentor's crops, or images as it tests on them."""
    return tuple((cfg.model.get('data_preprocessor') or {}).get('size') or input_shape(cfg))


def count_parameters(module: nn.Module) -> int:
    """Count the parameters of a module, the frozen ones too."""
    return sum(parameter.numel() for parameter in module.parameters())


def submodules_with_parameters(model: nn.Module) -> dict[str, nn.Module]:
    """Return the parts of a model that have parameters, those of a detector's ``roi_head`` one by one."""
    parts: dict[str, nn.Module] = {}
    for name, part in model.named_children():
        inner = part.named_children() if name == 'roi_head' else ()
        parts |= {f'{name}.{inner_name}': inner_part for inner_name, inner_part in inner} or {name: part}
    return {name: part for name, part in parts.items() if count_parameters(part)}


def count_multiply_adds(model: nn.Module, shape: tuple[int, int]) -> dict[str, int]:
    """Count the multiply-adds of each part of a model in eval mode; see :func:`run_parts`."""
    with torch.no_grad(), FlopCounterMode(display=False) as counter, _divide_by_part(model, counter) as counted:
        run_parts(model, shape)
    return {name: flops // 2 for name, flops in counted.items()}  # it counts a multiply-add as two


@contextlib.contextmanager
def _divide_by_part(model: nn.Module, counter: FlopCounterMode) -> Iterator[dict[str, int]]:
    """Count the FLOPs of each part, whoever calls its modules: a decoder also runs branches of its head."""
    parts = submodules_with_parameters(model)
    counted = dict.fromkeys(parts, 0)
    running: list[str] = []  # the innermost last
    before = 0  # the FLOPs up to the last change of the part that runs

    def settle() -> None:
        nonlocal before
        now = counter.get_total_flops()
        if running:
            counted[running[-1]] += now - before
        before = now

    def enter(name: str) -> None:
        settle()
        running.append(name)

    def leave() -> None:
        settle()
        running.pop()

    hooks = []
    for name, part in parts.items():
        for module in part.modules():
            hooks.append(module.register_forward_pre_hook(lambda *_, name=name: enter(name)))
            hooks.append(module.register_forward_hook(lambda *_: leave()))
    yield counted
    for hook in hooks:
        hook.remove()


def count_memory(model: nn.Module, shape: tuple[int, int]) -> TrainingMemory:
    """Count the training memory of a model in train mode, as if stochastic depth dropped nothing."""
    for module in model.modules():
        if isinstance(module, DropPath):
            module.rate = 0
    weights = {*model.parameters(), *model.buffers()}
    held = sum(tensor.nbytes * (4 if tensor.requires_grad else 1) for tensor in weights)
    own = {tensor.untyped_storage()._cdata for tensor in weights}
    kept = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage._cdata] = storage  # the storage too: as long as it lives, its address is not used again
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        run_parts(model, shape)
    images = sum(one.nbytes() for address, one in kept.items() if address not in own)
    return TrainingMemory(shape, held, images // batch_size(model))


def batch_size(model: nn.Module) -> int:
    """Return how many images :func:`run_parts` runs: batch norms on maps of 1x1 need two to train."""
    return 2 if model.training else 1


def run_parts(model: nn.Module, shape: tuple[int, int]) -> None:
    """Run the parts of a model one after the other, as inference or training does, on :func:`batch_size` images.

    Args:
        model: Its mode decides on how many regions the heads of a detector run, and whether auxiliary heads do.
        shape: Height and width of the images in pixels; they are made on torch's default device.

    Raises:
        UserError: The model has no backbone, or parts that cannot be run here.
    """
    if isinstance(model, MaskedAutoencoder):
        model(torch.empty(batch_size(model), model.backbone.in_channels, *shape))
        return
    parts = submodules_with_parameters(model)
    is_classifier = isinstance(model, ImageClassifier)
    transformer = find_transformer(model)
    known = ('norm', 'head') if is_classifier else ('neck', *HEADS, *REGION_HEADS, AUXILIARY_HEAD)
    unknown = [] if transformer else sorted(set(parts) - {'backbone', *known})
    if unknown or 'backbone' not in parts:
        reason = f'how {shorten(unknown)} should run is not known' if unknown else 'it has no backbone'
        raise UserError(
            f'The {type(model).__name__} cannot be counted: {reason}; classifiers, masked autoencoders, segmentors, '
            f'and detectors of one or two stages or with a transformer can.'
        )
    images = torch.empty(batch_size(model), getattr(parts['backbone'], 'in_channels', 3), *shape)
    maps = parts['backbone'](images)
    if is_classifier:
        maps = maps[-1].mean(dim=(2, 3))
    for name in ('norm', 'head') if is_classifier else ('neck',):
        if name in parts:
            maps = parts[name](maps)
    if transformer:
        return run_transformer(transformer, maps, batch_size(model), shape)
    for name in (*HEADS, AUXILIARY_HEAD) if model.training else HEADS:
        if name in parts:
            parts[name](maps)
    for name in REGION_HEADS:
        if name in parts:
            for head, regions in zip(stages(parts[name]), make_regions(model, name), strict=True):
                head(regions)


def make_regions(model: Any, name: str) -> list[Tensor]:
    """Make what RoIAlign returns for each stage of the region heads of a detector, (regions, C, H, W) each."""
    extractors: list[Any] = stages(model.get_submodule(name.removesuffix('_head') + '_roi_extractor'))
    counts = [model.test_cfg[REGION_HEADS[name]].max_per_img] * len(extractors)
    if model.training:  # mask heads are trained on those of the sampled regions that hold an object
        settings = (model.train_cfg or {}).get('rcnn')
        if not settings:
            raise UserError('The model has no train_cfg.rcnn, which says on how many regions its heads are trained.')
        samplers = [one.sampler for one in (settings if isinstance(settings, list) else [settings] * len(extractors))]
        counts = [int(s.num * (s.pos_fraction if name.endswith('mask_head') else 1)) for s in samplers]
    return [
        torch.empty(batch_size(model) * count, one.out_channels, *one.roi_layers[0].output_size)
        for count, one in zip(counts, extractors, strict=True)
    ]


def stages(part: nn.Module) -> list[nn.Module]:
    """Return the stages of a cascade, or the only one."""
    return list(part) if isinstance(part, nn.ModuleList) else [part]
