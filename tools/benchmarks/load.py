"""Time and memory of loading a checkpoint into a backbone, compared with plain torch."""

import argparse
import logging
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn
from tqdm import tqdm

from convnext_backbone import ARCHS, ConvNeXt, load_backbone

from .measuring import measure_alone, medians, memory_mib, time_and_peak
from .report import Benchmark


def _load_with_torch(model: nn.Module, path: Path) -> None:
    model.load_state_dict(torch.load(path, map_location='cpu'))


# By contender: how it loads, and the suffix of the file. The others are compared with the first.
LOADERS: dict[str, tuple[Callable, str]] = {
    'torch.load + load_state_dict, .pth': (_load_with_torch, '.pth'),
    'load_backbone, .pth': (load_backbone, '.pth'),
    'load_backbone, .safetensors': (load_backbone, '.safetensors'),
}


def measure_load(contender: str, arch: str, folder: Path) -> dict[str, float]:
    """Load once; the peak is the memory of model and file together, without that of the libraries."""
    logging.disable(logging.INFO)
    load, suffix = LOADERS[contender]
    load(ConvNeXt('atto'), folder / f'atto{suffix}')  # imports, and what is built at first use
    before = memory_mib('VmRSS')
    return time_and_peak(partial(load, ConvNeXt(arch), folder / f'{arch}{suffix}'), before)


def _measure(args: argparse.Namespace) -> dict:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for arch in ('atto', args.arch):
            state = ConvNeXt(arch).state_dict()
            torch.save(state, folder / f'{arch}.pth')
            save_file(state, folder / f'{arch}.safetensors')
        model_mib = sum(tensor.nbytes for tensor in state.values()) / 2**20
        rounds = [
            {contender: measure_alone(measure_load, contender, args.arch, folder) for contender in LOADERS}
            for _ in tqdm(range(args.repeat), desc='Rounds')
        ]
        rows: list[dict] = []
        for contender, (_, suffix) in LOADERS.items():
            file_mib = (folder / f'{args.arch}{suffix}').stat().st_size / 2**20
            row = dict(contender=contender, **medians([one[contender] for one in rounds]))
            rows.append(row | dict(of_model_and_file=row['peak_mib'] / (model_mib + file_mib)))
    rows = [row | dict(ratio=row['seconds'] / rows[0]['seconds']) for row in rows]
    return dict(arch=args.arch, model_mib=model_mib, repeat=args.repeat, rows=rows)


LOAD = Benchmark(
    'loading a checkpoint into a backbone',
    {'--arch': dict(choices=ARCHS, default='xlarge')},
    _measure,
)
