"""Loads a backbone from a checkpoint of any dialect, whole or not at all, and reports what became of its tensors."""

import os
import re
from collections import OrderedDict
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
    """Fills a backbone from a checkpoint in any dialect of :mod:`.dialects`, whole or not at all.

    Args:
        model: The backbone, or an :class:`.ImageClassifier`, whose norm and head are filled too if they are there and
            fit.
        source: As of :func:`read_checkpoint`; a backbone, or what holds one: a classifier, a detector, a wrapper.
        prefix: What stands directly before the backbone's names, ``'backbone.'`` for instance. Found by itself if
            None; needed only where a file holds several backbones.
        ema: Take the averaged weights of a file that holds both. If False, they are only taken where nothing else is.

    Returns:
        The report, which is also logged.

    Raises:
        CheckpointError: The file cannot be read.
        CheckpointMismatch: Some tensor of the backbone would not be filled, or the file holds no backbone, several, or
            no averaged weights; the model is left as it was.
    """
    source = os.fspath(source)
    return fill_backbone(model, read_checkpoint(source), source, prefix, ema)


def fill_backbone(
    model: nn.Module, checkpoint: Any, source: str, prefix: str | None = None, ema: bool = False, head: bool = False
) -> LoadReport:
    """What :func:`load_backbone` does, with a checkpoint that was read already.

    Args:
        model: As of :func:`load_backbone`, like ``prefix`` and ``ema``.
        checkpoint: What the file holds.
        source: Where it came from, for the report.
        prefix: As of :func:`load_backbone`.
        ema: As of :func:`load_backbone`.
        head: Whether a classifier's norm and head must be filled too, as for a model that is not trained any more.

    Raises:
        CheckpointMismatch: As of :func:`load_backbone`, or the head is not filled.
    """
    found = choose_backbone(checkpoint, source, prefix, ema)
    shapes = dict(model.named_parameters())  # a sharded model's state is empty in all processes but the first
    own = {name.removeprefix('backbone.'): shapes.get(name, tensor) for name, tensor in model.state_dict().items()}
    report, filled = compare(own, found, source)
    if report.missing or report.mismatched or report.unexpected:
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
    in_classifier = 'head.weight' in own
    model.load_state_dict({_place(name, in_classifier): tensor for name, tensor in filled.items()}, strict=False)
    print_log(str(report), logger='current')
    return report


def load_model(
    model: nn.Module, checkpoint: dict, source: str, strict: bool = True, revise_keys: list = REVISE_KEYS
) -> None:
    """Fill a model from a checkpoint of its own names, as training runs write them.

    Args:
        model: Detector, segmentor or classifier.
        checkpoint: What :func:`.read_state` returned.
        source: Where it came from, for errors.
        strict: Every tensor must be filled, and none be left over. If False, the backbones' must: the heads of another
            data set may differ.
        revise_keys: Pairs of a pattern and its replacement in names, as of mmengine.

    Raises:
        CheckpointMismatch: The checkpoint does not fit.
    """
    stored = checkpoint.get('state_dict', checkpoint)
    weights = OrderedDict(stored)
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


def compare(own: dict[str, Tensor], found: FoundBackbone, source: str) -> tuple[LoadReport, dict[str, Tensor]]:
    """Says what becomes of a checkpoint's tensors.

    Args:
        own: The tensors of a backbone.
        found: The backbone in the file.
        source: The file, for the report.

    Returns:
        The report, and what fills the backbone.
    """
    arch = Architecture.of(found.tensors)
    report = LoadReport(source, found.dialect.name, str(arch), arch.in_channels, arch.classes, found.weights)
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
        (report.dropped if _unused(name, stages) else report.unexpected).append(name)
    report.dropped += found.outside
    return report, filled


def _place(canonical: str, in_classifier: bool) -> str:
    """The name in a model of a tensor: a classifier has the backbone below ``backbone.``, norm and head beside it."""
    return canonical if not in_classifier or canonical.startswith(('norm.', 'head.')) else f'backbone.{canonical}'


def adapt_stem(weight: Tensor, in_channels: int) -> Tensor:
    """The stem for another number of input channels, by timm's rule (``adapt_input_conv``).

    Args:
        weight: (C, 3, 4, 4).
        in_channels: 1 sums over the colours; more repeat them in turn, scaled so that the sum stays what it was.

    Returns:
        (C, in_channels, 4, 4).
    """
    if in_channels == 1:
        return weight.sum(dim=1, keepdim=True)
    turns = -(-in_channels // 3)
    return weight.repeat(1, turns, 1, 1)[:, :in_channels] * (3 / in_channels)


def _unused(name: str, stages: int) -> bool:
    """Whether a backbone of so many stages has no use for a tensor: heads, norms of other maps, later stages."""
    later = _STAGE.match(name)
    return int(later[1]) >= stages if later else re.match(r'head\.|norm\d?\.', name) is not None
