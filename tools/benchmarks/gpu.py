"""What a GPU makes of the backbone: its numbers in half precision, time and memory beside others, and what to set."""

import argparse
import statistics
import subprocess
from typing import Any

import torch

from convnext_backbone.utils.errors import UserError

from .contenders import BY_TRITON, COMPILED, OURS, has
from .models import BACKBONE
from .precision import PRECISION
from .report import Benchmark

_PLAIN = f'{OURS}-plain'
_SLACK, _MEMORY = 1.03, 0.4  # the fastest of those within 3 % whose peak is below 0.4 of the plain block's
_SETTINGS = {
    OURS: 'the defaults',
    OURS + COMPILED: 'compile=True in the config',
    BY_TRITON: 'CONVNEXT_TRITON=1 in the environment',
    BY_TRITON + COMPILED: 'CONVNEXT_TRITON=1 in the environment, compile=True in the config',
    _PLAIN: 'model.backbone.fused=False',
    _PLAIN + COMPILED: 'model.backbone.fused=False compile=True',
}


def _describe_card() -> dict[str, Any]:
    properties = torch.cuda.get_device_properties(0)
    query = ['nvidia-smi', '--query-gpu=driver_version', '--format=csv,noheader', '--id=0']
    try:
        driver = subprocess.run(query, capture_output=True, text=True, timeout=60, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        driver = 'unknown'
    return dict(
        card=properties.name,
        memory_gib=properties.total_memory / 2**30,
        capability='.'.join(map(str, torch.cuda.get_device_capability(0))),
        driver=driver,
        cuda=torch.version.cuda,
    )


def recommend(results: list[dict]) -> str:
    """The settings to train with, by the cases of :data:`.BACKBONE`: fast enough, and small if that costs nothing."""
    seconds: dict[str, list[float]] = {}
    memory: dict[str, list[float]] = {}
    for case in (case for case in results if case['mode'] == 'train'):
        rows = {row['contender']: row for row in case['rows'] if row['contender'] in _SETTINGS}
        fastest = min(row['seconds'] for row in rows.values())
        for name, row in rows.items():
            seconds.setdefault(name, []).append(row['seconds'] / fastest)
            memory.setdefault(name, []).append(row['peak_mib'] / rows[_PLAIN]['peak_mib'])
    means = {name: statistics.geometric_mean(found) for name, found in seconds.items()}
    best = min(means.values())
    near = [name for name, mean in means.items() if mean <= _SLACK * best]
    small = [name for name in near if max(memory[name]) < _MEMORY] or near
    chosen = min(small, key=lambda name: means[name])
    share = statistics.geometric_mean(memory[chosen])
    return (
        f'{_SETTINGS[chosen]}: {means[chosen] / best:.2f} of the time of the fastest, {share:.2f} of the memory of the '
        f'plain block'
    )


def _measure(args: argparse.Namespace) -> dict:
    """Precision, then time and memory.

    Raises:
        UserError: There is no GPU, or it has too little memory.
    """
    if not torch.cuda.is_available():
        raise UserError(
            'There is no GPU that torch can use here: run this where there is one; tools/check_env.py tells of drivers.'
        )
    args.arch, args.drop_path, args.mode = 'tiny', 0.0, ['train', 'infer']
    args.compile, args.peers = True, ','.join([_PLAIN, BY_TRITON, *(['timm'] if has('timm', 'tiny') else [])])
    precision = PRECISION.measure(args)['rows']
    try:
        result = BACKBONE.measure(args)
    except torch.OutOfMemoryError as error:
        raise UserError(
            f'The GPU has too little memory for {" ".join(args.shapes)}: give smaller --shapes, such as 1x512x512.'
        ) from error
    return dict(
        recommended=recommend(result['results']),
        **{key: value for key, value in result.items() if key != 'results'},
        **_describe_card(),
        precision=precision,
        results=result['results'],
    )


GPU = Benchmark(
    'numbers, time and memory on this GPU, and the settings that fit it',
    {
        '--shapes': dict(nargs='+', default=['2x800x1216', '16x512x512', '64x224x224'], metavar='NxHxW'),
        '--dtype': dict(nargs='+', choices=['bf16', 'fp16'], default=['bf16'], help='by autocast'),
        '--out': BACKBONE.flags['--out'],
    },
    _measure,
)
