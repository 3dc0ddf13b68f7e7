"""Strict loading from any supported weights format; returns a LoadReport."""

import os
import re
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

from mmengine.logging import print_log
from mmengine.runner import load_state_dict
from torch import Tensor, nn

from ..models.backbone import Backbone
from ..utils.errors import CheckpointMismatch, printable
from .detect import FoundBackbone, choose_backbone
from .infer_arch import ISOTROPIC_STEM, STEM, Architecture
from .report import LoadReport
from .safe_load import read_checkpoint

REVISE_KEYS = [(r'^module\.', '')]  # as in mmengine: the prefix of data-parallel wrappers
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
        line = Architecture.of(found.tensors).config_line()
        raise CheckpointMismatch(
            f'The checkpoint does not fit the backbone, which is {Architecture.of(own)}; nothing was loaded.\n{report}'
            + (f'\nThe config line that fits: {line}' if line else '')
        )
    if head and (report.new or report.unfit):
        raise CheckpointMismatch(
            f'The checkpoint {source} does not fit the classifier of the config '
            f'({", ".join(report.new + report.unfit)}): use the config that it was trained with.'
        )
    if 'head.weight' in own:  # a classifier, where all but norm and head have the prefix
        filled = {n if n.startswith(('norm.', 'head.')) else f'backbone.{n}': tensor for n, tensor in filled.items()}
    model.load_state_dict(filled, strict=False)
    print_log(str(report), logger='current')
    return report


def load_model(
    model: nn.Module, checkpoint: dict, source: str, strict: bool = True, revise_keys: list = REVISE_KEYS
) -> None:
    """Load a model from a checkpoint with the model's own names, as training runs write them.

    Args:
        model: Detector, segmentor or classifier.
        checkpoint: What :func:`.read_state` returned.
        source: Path or address, for errors.
        strict: Every tensor must be filled and none left over. If False, only those of backbones must: the heads of
            another data set may differ.
        revise_keys: Pairs of a pattern and its replacement in names, as in mmengine.

    Raises:
        CheckpointMismatch: The checkpoint does not fit.
    """
    stored = checkpoint.get('state_dict', checkpoint)
    weights: Any = OrderedDict(stored)  # with an attribute, as torch's state dicts have
    for pattern, replacement in revise_keys:
        weights = OrderedDict((re.sub(pattern, replacement, name), value) for name, value in weights.items())
    weights._metadata = getattr(stored, '_metadata', OrderedDict())  # modules convert those of older versions by it
    try:
        load_state_dict(model, weights, strict, 'current')
    except RuntimeError as error:
        if not strict:
            raise
        details = printable(' '.join(line.strip() for line in str(error).splitlines()[1:]))
        raise CheckpointMismatch(
            f'The checkpoint {printable(source)} does not fit the model of the config ({details}): use the config that '
            f'it was trained with.'
        ) from error
    if not strict:
        _check_backbones(model, weights, source)


def _check_backbones(model: nn.Module, weights: dict, source: str) -> None:
    for where, backbone in model.named_modules():
        if not isinstance(backbone, Backbone):
            continue
        own = backbone.state_dict(prefix=f'{where}.' if where else '')
        lacking = [name for name, tensor in own.items() if getattr(weights.get(name), 'shape', None) != tensor.shape]
        if lacking:
            raise CheckpointMismatch(
                f'The checkpoint {source} does not fill the backbone of the config, {len(lacking)} of its '
                f'{len(own)} tensors are missing or of another shape ({", ".join(lacking[:3])}, ...): use the '
                f'config that it was trained with, or name it in init_cfg of the backbone, which knows all names.'
            )


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
