#!/usr/bin/env python
"""Training memory of each recipe, the GPUs that it fits on, and a lower bound for the time of a step.

tools/analysis/scale.py                                # the tables of docs/scale.md
tools/analysis/scale.py configs/cascade_convnext_xl_22k_coco.py configs/upernet_convnext_xl_22k_ade20k.py
"""

import argparse
import contextlib
import itertools
import sys
from collections.abc import Iterable, Iterator
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

CONFIGS = Path(__file__).resolve().parents[2] / 'configs'
RECIPES = (
    *(f'cascade_convnext_{size}_coco' for size in ('t', 's', 'b', 'l_22k', 'xl_22k')),
    *(f'upernet_convnext_{size}_ade20k' for size in ('t', 's', 'b', 'l_22k', 'xl_22k')),
    *(f'pretrain_convnext_{size}_imagenet' for size in ('t', 's', 'b', 'l')),
    'pretrain_convnext_xl_imagenet22k',
)
GB = 1e9
CARDS = (16, 24, 40, 80)  # GB
SPARE = 2.0  # GB of a card for what is not counted: the driver's context, workspaces, losses, fragmentation
PROCESSES = 8  # among which FSDP shards
# FLOP/s of dense products in bf16 and bytes/s of memory, from NVIDIA's data sheets (SXM).
GPUS = {'A100': (312e12, 2.04e12), 'H100': (989e12, 3.35e12)}


class Memory(NamedTuple):
    """Training memory in GB: that of the model, and what each image adds."""

    weights: float
    gradients: float
    moments: float
    fp32: float  # an image
    half: float
    recomputed: float  # in half precision with gradient checkpointing
    gathered: float  # the weights that FSDP gathers at once, all but those of the blocks

    def most_images(self, card: float) -> str:
        """The most images a card holds: in fp32, by autocast, and with all that saves memory."""
        fixed = self.weights + self.gradients + self.moments
        copies = self.weights / 2  # of autocast
        sharded = fixed / PROCESSES + 2.5 * self.gathered  # with their gradients and copies
        ways = (fixed, self.fp32), (fixed + copies, self.half), (sharded, self.recomputed)
        return ' / '.join(str(max(0, int((card - SPARE - model) // image))) for model, image in ways)


class Roofline(TorchDispatchMode):
    """Adds up the least time of each operation of a model: that of its products or of its memory traffic."""

    def __init__(self) -> None:
        super().__init__()
        self.seconds = dict.fromkeys(GPUS, 0.0)

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        """Run an operation and count it."""
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
    """Make new tensors, weights and images, of this data type."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def build(cfg: Config, **backbone: object) -> nn.Module:
    """The model of a config in train mode, on the meta device."""
    settings = cfg.model.copy()
    settings.backbone = {**settings.backbone, **backbone, 'init_cfg': None, 'drop_path_rate': 0.0}
    with MODELS.switch_scope_and_registry(cfg.get('default_scope', 'mmdet')) as registry, torch.device('meta'):
        return registry.build(settings).train()


def measure(cfg: Config) -> Memory:
    """Count the training memory of a recipe."""
    images = []
    for dtype, options in ((torch.float32, {}), (torch.bfloat16, {}), (torch.bfloat16, dict(with_cp=True))):
        with default_dtype(dtype), torch.device('meta'):
            model = build(cfg, **options)
            images.append(count_memory(model, training_shape(cfg)).image / GB)
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad) * 4 / GB
    weights = sum(tensor.numel() for tensor in (*model.parameters(), *model.buffers())) * 4 / GB
    in_blocks = sum(p.numel() for m in model.modules() if isinstance(m, ConvNeXtBlock) for p in m.parameters()) * 4 / GB
    return Memory(weights, trained, 2 * trained, *images, gathered=weights - in_blocks)


def step_time(cfg: Config) -> dict[str, float]:
    """The least seconds of a step on the batch of a recipe: a forward pass, and a backward pass that costs two."""
    with default_dtype(torch.bfloat16), torch.device('meta'), torch.no_grad():
        model = build(cfg)
        with Roofline() as roofline:
            run_parts(model, training_shape(cfg))
    images = cfg.train_dataloader.batch_size / 2  # it runs two
    return {name: 3 * images * seconds for name, seconds in roofline.seconds.items()}


def print_markdown(head: list[str], rows: Iterable[list[str]]) -> None:
    """Print a table, each row as soon as it is known."""
    for row in itertools.chain([head, ['---'] * len(head)], rows):
        print(f'| {" | ".join(row)} |')


@user_errors
def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description='Training memory of each recipe, and the GPUs that it fits on.')
    parser.add_argument('configs', nargs='*', metavar='CONFIG', help='default: T to XL of each task')
    paths = [Path(path) for path in parser.parse_args().configs] or [CONFIGS / f'{name}.py' for name in RECIPES]
    recipes = {path.stem: load_config(path) for path in paths}
    memory = {name: measure(cfg) for name, cfg in recipes.items()}
    sizes = {name: '{1}x{0}'.format(*training_shape(cfg)) for name, cfg in recipes.items()}
    print_markdown(
        ['GB', 'image', 'weights', 'gradients', 'moments', 'an image', 'in half', 'with_cp'],
        ([name, sizes[name], *(f'{gb:.3f}' for gb in each[:6])] for name, each in memory.items()),
    )
    print()
    print_markdown(
        ['images on a GPU', 'recipe', *(f'{card} GB' for card in CARDS)],
        (
            [name, str(cfg.train_dataloader.batch_size), *map(memory[name].most_images, CARDS)]
            for name, cfg in recipes.items()
        ),
    )
    print()
    print_markdown(
        ['ms a step, at least', *GPUS],
        ([name, *(f'{1000 * s:.0f}' for s in step_time(cfg).values())] for name, cfg in recipes.items()),
    )


if __name__ == '__main__':
    sys.exit(main())
