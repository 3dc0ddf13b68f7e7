#!/usr/bin/env python
"""Says what the training of each recipe holds in memory, on which cards it fits, and how long a step takes at best.

tools/scale.py                                         # the tables of docs/scale.md
tools/scale.py configs/cascade_convnext_xl_22k_coco.py configs/upernet_convnext_xl_22k_ade20k.py
"""

import argparse
import contextlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from mmengine.config import Config
from mmengine.registry import MODELS
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from convnext_backbone.analysis.complexity import count_memory, run_parts, training_shape
from convnext_backbone.config.load import load_config
from convnext_backbone.models.convnext import ConvNeXtBlock
from convnext_backbone.utils.cli import user_errors

CONFIGS = Path(__file__).resolve().parents[1] / 'configs'
RECIPES = (
    *(f'cascade_convnext_{size}_coco' for size in ('t', 's', 'b', 'l_22k', 'xl_22k')),
    *(f'upernet_convnext_{size}_ade20k' for size in ('t', 's', 'b', 'l_22k', 'xl_22k')),
    *(f'pretrain_convnext_{size}_imagenet' for size in ('t', 's', 'b', 'l')),
    'pretrain_convnext_xl_imagenet22k',
)
GB = 1e9
CARDS = (16, 24, 40, 80)  # GB
SPARE = 2.0  # GB of a card for what is not counted: the driver's context, workspaces, losses, fragments
PROCESSES = 8  # among which FSDP divides
# Dense products in bf16 and memory, from NVIDIA's data sheets (SXM).
GPUS = {'A100': (312e12, 2.04e12), 'H100': (989e12, 3.35e12)}


class Held(NamedTuple):
    """What a training holds, in GB: the model, and what each image adds."""

    weights: float
    gradients: float
    moments: float
    gathered: float  # the weights that FSDP gathers at once, all but those of the blocks
    fp32: float
    half: float
    recomputed: float  # with_cp=True, in half precision

    def most_images(self, card: float) -> tuple[int, ...]:
        """How many images a card takes: in fp32, by autocast, and with all that saves memory."""
        fixed = self.weights + self.gradients + self.moments
        copies = self.weights / 2  # of autocast
        divided = fixed / PROCESSES + 2.5 * self.gathered  # with their gradients and copies
        ways = (fixed, self.fp32), (fixed + copies, self.half), (divided, self.recomputed)
        return tuple(max(0, int((card - SPARE - model) // image)) for model, image in ways)


class Roofline(TorchDispatchMode):
    """Adds up, over the operations of a model, what each takes at least: for its products or for its memory traffic."""

    def __init__(self) -> None:
        super().__init__()
        self.seconds = dict.fromkeys(GPUS, 0.0)

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        """Runs an operation, and counts it."""
        out = func(*args, **(kwargs or {}))
        if func.is_view:
            return out
        tensors = [leaf for leaf in tree_leaves((args, kwargs, out)) if isinstance(leaf, Tensor)]
        traffic = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
        count = flop_registry.get(func.overloadpacket)
        flops = count(*args, **(kwargs or {}), out_val=out) if count else 0
        for name, (rate, bandwidth) in GPUS.items():
            self.seconds[name] += max(flops / rate, traffic / bandwidth)
        return out


@contextlib.contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    """New tensors, weights and images, have this data type."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def build(cfg: Config, **backbone: object) -> nn.Module:
    """The model of a config in train mode, without memory for its weights."""
    settings = cfg.model.copy()
    settings.backbone = {**settings.backbone, **backbone, 'init_cfg': None, 'drop_path_rate': 0.0}
    with MODELS.switch_scope_and_registry(cfg.get('default_scope', 'mmdet')) as registry, torch.device('meta'):
        return registry.build(settings).train()


def measure(cfg: Config) -> Held:
    """Counts what a recipe holds."""
    images = []
    for dtype, how in ((torch.float32, {}), (torch.bfloat16, {}), (torch.bfloat16, dict(with_cp=True))):
        with default_dtype(dtype), torch.device('meta'):
            model = build(cfg, **how)
            images.append(count_memory(model, training_shape(cfg)).image / GB)
    learnt = sum(p.numel() for p in model.parameters() if p.requires_grad) * 4 / GB
    weights = sum(tensor.numel() for tensor in (*model.parameters(), *model.buffers())) * 4 / GB
    in_blocks = sum(p.numel() for m in model.modules() if isinstance(m, ConvNeXtBlock) for p in m.parameters()) * 4 / GB
    return Held(weights, learnt, 2 * learnt, weights - in_blocks, *images)


def step_time(cfg: Config) -> dict[str, float]:
    """Seconds that a step on the batch of a recipe takes at least: a forward pass, and a backward pass of two."""
    with default_dtype(torch.bfloat16), torch.device('meta'), torch.no_grad():
        model = build(cfg)
        with Roofline() as roofline:
            run_parts(model, training_shape(cfg), lambda name, part, inputs: part(inputs))
    images = cfg.train_dataloader.batch_size / 2  # it runs two
    return {name: 3 * images * seconds for name, seconds in roofline.seconds.items()}


def table(head: list[str], rows: Iterator[list[str]], show: Callable[[str], None] = print) -> None:
    """Prints a table in markdown, each row as soon as it is known."""
    show('| ' + ' | '.join(head) + ' |\n| ' + ' | '.join('---' for _ in head) + ' |')
    for row in rows:
        show('| ' + ' | '.join(row) + ' |')


@user_errors
def main() -> None:
    """Prints."""
    parser = argparse.ArgumentParser(description='What the training of each recipe holds in memory, and where it fits.')
    parser.add_argument('configs', nargs='*', metavar='CONFIG', help='default: T to XL of each task')
    paths = [Path(path) for path in parser.parse_args().configs] or [CONFIGS / f'{name}.py' for name in RECIPES]
    recipes = {path.stem: load_config(path) for path in paths}
    held = {name: measure(cfg) for name, cfg in recipes.items()}

    def memory_row(name: str) -> list[str]:
        height, width = training_shape(recipes[name])
        part = held[name]
        numbers = (part.weights, part.gradients, part.moments, part.fp32, part.half, part.recomputed)
        return [name, f'{width}x{height}', *(f'{number:.3f}' for number in numbers)]

    def card_row(name: str) -> list[str]:
        counts = (' / '.join(map(str, held[name].most_images(card))) for card in CARDS)
        return [name, str(recipes[name].train_dataloader.batch_size), *counts]

    def time_row(name: str) -> list[str]:
        return [name, *(f'{1000 * seconds:.0f}' for seconds in step_time(recipes[name]).values())]

    table(
        ['GB', 'image', 'weights', 'gradients', 'moments', 'an image', 'in half', 'with_cp'], map(memory_row, recipes)
    )
    print()
    table(['images on a GPU', 'recipe', *(f'{card} GB' for card in CARDS)], map(card_row, recipes))
    print()
    table(['ms a step, at least', *GPUS], map(time_row, recipes))


if __name__ == '__main__':
    sys.exit(main())
