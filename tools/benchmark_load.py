"""Time and memory of loading a checkpoint into a backbone, beside torch's own way."""

import argparse
import logging
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from benchmark_models import forget_peak, in_own_process, memory_mib
from safetensors.torch import save_file
from torch import nn
from tqdm import tqdm

from convnext_backbone import ConvNeXt, load_backbone


def load_with_torch(model: nn.Module, path: Path) -> None:
    """What most people write."""
    model.load_state_dict(torch.load(path, map_location='cpu'))


# The contender's name: how it loads, and the ending of the file. The first is what the others are compared with.
LOADERS: dict[str, tuple[Callable, str]] = {
    'torch.load + load_state_dict, .pth': (load_with_torch, '.pth'),
    'load_backbone, .pth': (load_backbone, '.pth'),
    'load_backbone, .safetensors': (load_backbone, '.safetensors'),
}


def measure_load(contender: str, arch: str, folder: Path) -> dict[str, float]:
    """Loads once; the peak is the memory of model and file together, without that of the libraries."""
    logging.disable(logging.INFO)
    load, suffix = LOADERS[contender]
    load(ConvNeXt('atto'), folder / f'atto{suffix}')  # what is imported or compiled at first use
    before = memory_mib('VmRSS')
    model = ConvNeXt(arch)
    forget_peak()
    start = time.perf_counter()
    load(model, folder / f'{arch}{suffix}')
    return dict(seconds=time.perf_counter() - start, peak_mib=memory_mib('VmHWM') - before)


def benchmark_load(args: argparse.Namespace) -> dict:
    """Time and memory of loading a checkpoint."""
    with tempfile.TemporaryDirectory(dir=args.dir) as name:
        folder = Path(name)
        for arch in ('atto', args.arch):
            state = ConvNeXt(arch).state_dict()
            torch.save(state, folder / f'{arch}.pth')
            save_file(state, folder / f'{arch}.safetensors')
        model_mib = sum(tensor.numel() * tensor.element_size() for tensor in state.values()) / 2**20
        del state
        found: dict[str, list] = {contender: [] for contender in LOADERS}
        for _ in tqdm(range(args.repeat), desc='Rounds'):
            for contender, results in found.items():
                results.append(in_own_process(measure_load, contender, args.arch, folder))
        rows = []
        for contender, results in found.items():
            file_mib = (folder / f'{args.arch}{LOADERS[contender][1]}').stat().st_size / 2**20
            row = {key: statistics.median(result[key] for result in results) for key in results[0]}
            rows.append(dict(contender=contender, **row, of_model_and_file=row['peak_mib'] / (model_mib + file_mib)))
    return dict(arch=args.arch, model_mib=model_mib, repeat=args.repeat, rows=rows)


def print_load(result: dict) -> None:
    """As a table."""
    print(f'ConvNeXt {result["arch"]}: weights of {result["model_mib"]:.0f} MiB; medians of {result["repeat"]}')
    print(f'{"":36}{"time, s":>9}{"ratio":>8}{"peak, MiB":>12}{"peak / (model + file)":>24}')
    first = result['rows'][0]
    for row in result['rows']:
        ratio = row['seconds'] / first['seconds']
        figures = f'{row["seconds"]:9.2f}{ratio:8.2f}{row["peak_mib"]:12.0f}{row["of_model_and_file"]:24.2f}'
        print(f'{row["contender"]:36}{figures}')
