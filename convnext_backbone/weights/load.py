"""Strict loading from any supported weights format; returns a LoadReport."""

import os
import re
from collections.abc import Mapping
from typing import Any

from mmengine.logging import print_log
from torch import Tensor, nn

from ..utils.errors import CheckpointMismatch
from .detect import CLASSIFIER, FoundBackbone, choose_backbone
from .infer_arch import ISOTROPIC_STEM, STEM, Architecture
from .report import LoadReport
from .safe_load import read_checkpoint

_HEAD = ('head.weight', 'head.bias')
_MAY_LACK = re.compile(r'norm\d?\.|head\.')
_STAGE = re.compile(r'(?:stages|downsample_layers)\.(\d)\.')


def load_backbone(
    model: nn.Module, source: str | os.PathLike, prefix: str | None = None, ema: bool = False
) -> LoadReport:
    """Load a backbone strictly from a checkpoint in any weights format of :mod:`.key_maps`.

    Args:
        model: The backbone, or an :class:`.ImageClassifier`, whose norm and head are filled too if the file has them
            for as many classes.
        source: As of :func:`read_checkpoint`; the file may hold more than the backbone, such as a detector.
        prefix: Prefix of the backbone's names, such as ``'backbone.'``, to choose one of several in a file.
        ema: Load the averaged weights of a file that has both; if False, only where there are no others.

    Returns:
        The report, which is also logged.

    Raises:
        CheckpointError: The file cannot be read.
        CheckpointMismatch: Some tensor of the backbone would not be filled, or the file holds no backbone, several, or
            no averaged weights; the model is unchanged.
    """
    source = os.fspath(source)
    return fill_backbone(model, read_checkpoint(source), source, prefix, ema)


def fill_backbone(
    model: nn.Module, checkpoint: Any, source: str, prefix: str | None = None, ema: bool = False, head: bool = False
) -> LoadReport:
    """Like :func:`load_backbone`, from the contents of a file that was read from ``source``.

    With ``head`` a classifier's norm and head must be filled too, as for a test.

    Raises:
        CheckpointMismatch: As of :func:`load_backbone`, or the head is not filled.
    """
    found = choose_backbone(checkpoint, source, prefix, ema)
    shapes = dict(model.named_parameters())  # a sharded model's state is empty in all processes but the first
    own = {name.removeprefix('backbone.'): shapes.get(name, tensor) for name, tensor in model.state_dict().items()}
    report, filled = compare(own, found, source)
    if not report.complete:
        arch = Architecture.of(found.tensors)
        line, unlike = arch.config_line(), arch.unlike
        raise CheckpointMismatch(
            f'The checkpoint does not fit the backbone, which is {Architecture.of(own)}; nothing was loaded.\n{report}'
            + (f'\nThe config line that fits: {line}' if line else '')
            + (f'\nNo backbone of this package has {unlike}.' if unlike else '')
        )
    if head and (report.new or report.unfit):
        raise CheckpointMismatch(
            f'The checkpoint {source} does not fit the classifier of the config '
            f'({", ".join(report.new + report.unfit)}): use the config that it was trained with.'
        )
    if 'head.weight' in own:  # a classifier, where all but norm and head have the prefix
        filled = {n if n.startswith(CLASSIFIER) else f'backbone.{n}': tensor for n, tensor in filled.items()}
    model.load_state_dict(filled, strict=False)
    print_log(str(report), logger='current')
    return report


def compare(own: Mapping[str, Tensor], found: FoundBackbone, source: str) -> tuple[LoadReport, dict[str, Tensor]]:
    """Compare the tensors of a backbone with those found in a file; returns the report, and what fills the backbone."""
    arch = Architecture.of(found.tensors)
    report = LoadReport(source, found.key_map.name, str(arch), arch.in_channels, arch.classes, found.weights)
    modules = {name.rpartition('.')[0] for name in found.tensors}
    filled = {}
    for name, tensor in own.items():
        stored = found.tensors.get(name)
        if stored is None:
            may_be_new = _MAY_LACK.match(name) and name.rpartition('.')[0] not in modules
            (report.new if may_be_new else report.missing).append(name)
        elif stored.shape == tensor.shape:
            filled[name] = stored
        elif name in (STEM, ISOTROPIC_STEM) and stored.shape == (tensor.shape[0], 3, *tensor.shape[2:]):
            filled[name] = adapt_stem(stored, tensor.shape[1])
            report.adapted.append(f'{name} from 3 to {tensor.shape[1]} input channels')
        else:
            unfit = report.unfit if name in _HEAD else report.mismatched
            unfit.append(f'{name} {tuple(stored.shape)} for {tuple(tensor.shape)}')
    report.loaded += filled
    stages = 1 + max((int(match[1]) for match in map(_STAGE.match, own) if match), default=3)
    for name in sorted(found.tensors.keys() - own.keys()):
        later = _STAGE.match(name)
        unused = int(later[1]) >= stages if later else _MAY_LACK.match(name)
        (report.dropped if unused else report.unexpected).append(name)
    report.dropped += found.outside
    return report, filled


def adapt_stem(weight: Tensor, in_channels: int) -> Tensor:
    """Adapt the stem's weight, (C, 3, k, k), to another number of input channels, like timm's ``adapt_input_conv``.

    For one channel the colours are summed; for more they are repeated in turn, and scaled to keep their sum.
    """
    if in_channels == 1:
        return weight.sum(dim=1, keepdim=True)
    turns = -(-in_channels // 3)
    return weight.repeat(1, turns, 1, 1)[:, :in_channels] * (3 / in_channels)
