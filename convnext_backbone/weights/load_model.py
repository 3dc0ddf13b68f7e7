"""Strict loading of whole models: no part of a backbone of this package is left out, whatever else the file lacks.

Importing this module puts :func:`load_state_dict` in the place of mmengine's, which serves its runner, its
``load_checkpoint`` and so the inferencers of mmdet and mmseg.
"""

import contextlib
import re
from collections import OrderedDict
from collections.abc import Collection, Iterator, Mapping
from typing import Any

import mmengine.runner
from mmengine.model import BaseTTAModel, is_model_wrapper
from torch import Tensor, nn

from ..models.backbone import Backbone
from ..utils.errors import CheckpointMismatch, printable, shorten
from .detect import find_backbones, to_canonical
from .load import fill_backbone
from .plain_tensors import check_plain

REVISE_KEYS = [(r'^module\.', '')]  # as in mmengine: the prefix of data-parallel wrappers
_fill = mmengine.runner.load_state_dict


def load_model(
    model: nn.Module, checkpoint: dict, source: str, strict: bool = True, revise_keys: list = REVISE_KEYS
) -> None:
    """Load a model from a checkpoint with the model's own names, as training runs write them.

    A backbone of this package may have the names of any format in :mod:`.key_maps`, as mmdet's and mmseg's zoos do.

    Args:
        model: Detector, segmentor or classifier.
        checkpoint: What :func:`.read_state` returned.
        source: Path or address, for errors.
        strict: Every tensor must be filled and none left over. If False, only those of backbones must: the heads of
            another data set may differ.
        revise_keys: Pairs of a pattern and its replacement in names, as in mmengine.

    Raises:
        CheckpointMismatch: The checkpoint does not fit, or holds anything but plain finite numbers.
    """
    weights, metadata = _weights(checkpoint, revise_keys)
    with _explain_mismatch(source) if strict else contextlib.nullcontext():
        _load(model, weights, metadata, source, strict)


def load_all_but(
    model: nn.Module, checkpoint: dict, source: str, fresh: Collection[str], revise_keys: list = REVISE_KEYS
) -> list[str]:
    """Load a model from the weights of another; errors as of :func:`load_model`.

    Args:
        model: As of :func:`load_model`.
        checkpoint: As of :func:`load_model`.
        source: Path or address, for errors.
        fresh: The names of tensors that keep their values; all others must be filled.
        revise_keys: As of :func:`load_model`.

    Returns:
        What was left in the file: the names of those tensors, and of parts that the model does not have, such as a mask
        head. Of backbones nothing is left.
    """
    weights, metadata = _weights(checkpoint, revise_keys)
    weights, lacking = _translate_backbones(model, weights, source)
    _check_backbones(lacking, source)
    own = own_tensors(model)
    backbones = tuple(prefix for prefix, module in named_modules(model) if isinstance(module, Backbone))
    left = {name for name in weights if name in fresh or (name not in own and not name.startswith(backbones))}
    taken = {name: value for name, value in weights.items() if name not in left}
    kept = {name: getattr(own[name], 'full_tensor', lambda own=own[name]: own)() for name in fresh}
    with _explain_mismatch(source):
        _load(model, taken | kept, metadata, source, strict=True)
    return [name for name in weights if name in left]


def _weights(checkpoint: dict, revise_keys: list) -> tuple[dict, Mapping]:
    stored = checkpoint.get('state_dict', checkpoint)
    weights = dict(stored)
    for pattern, replacement in revise_keys:
        weights = {re.sub(pattern, replacement, name): value for name, value in weights.items()}
    return weights, getattr(stored, '_metadata', {})


@contextlib.contextmanager
def _explain_mismatch(source: str) -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        details = printable(' '.join(line.strip() for line in str(error).splitlines()[1:]))
        raise CheckpointMismatch(
            f'The checkpoint {printable(source)} does not fit the model of the config ({details}): use the config that '
            f'it was trained with.'
        ) from error


def load_state_dict(module: nn.Module, state_dict: Mapping, strict: bool = False, logger: Any = None) -> None:
    """The function of mmengine of this name, strict for the backbones of this package.

    Raises:
        CheckpointMismatch: As of :func:`load_model`, where the model contains such a backbone.
    """
    metadata = getattr(state_dict, '_metadata', {})
    source = getattr(metadata, 'source', 'that is loaded')
    if isinstance(module, Backbone) and not strict:  # which may lack output norms
        fill_backbone(module, state_dict, source)
    elif any(isinstance(part, Backbone) for part in module.modules()):
        _load(module, dict(state_dict), metadata, source, strict, logger)
    else:
        _fill(module, state_dict, strict, logger)


def _load(
    model: nn.Module, weights: dict, metadata: Mapping, source: str, strict: bool, logger: Any = 'current'
) -> None:
    weights, lacking = _translate_backbones(model, weights, source)
    check_weights(model, weights, source)
    if not strict:
        _check_backbones(lacking, source)
    ordered: Any = OrderedDict(weights)  # with an attribute, as torch's state dicts have
    ordered._metadata = metadata  # modules convert those of older versions by it
    _fill(model, ordered, strict, logger)


def _translate_backbones(model: nn.Module, weights: dict, source: str) -> tuple[dict, list[str]]:
    """Weights with the own names of the backbones of this package, and those of their tensors that it does not fill."""
    own = own_tensors(model)
    lacking: list[str] = []
    for prefix, module in named_modules(model):
        if isinstance(module, Backbone):
            parts = {name: tensor for name, tensor in own.items() if name.startswith(prefix)}
            if _lacking(parts, weights):
                weights = _translate(weights, prefix, source)
            lacking += _lacking(parts, weights)
    return weights, lacking


def _check_backbones(lacking: list[str], source: str) -> None:
    if lacking:
        raise CheckpointMismatch(
            f'The checkpoint {printable(source)} does not fill the backbone of the config: tensors are missing or of '
            f'another shape ({shorten(lacking)}). Use the config that it was trained with, or name it in init_cfg of '
            f'the backbone, which knows all names.'
        )


def _lacking(own: Mapping[str, Tensor], weights: Mapping[str, Any]) -> list[str]:
    return [name for name, tensor in own.items() if getattr(weights.get(name), 'shape', None) != tensor.shape]


def _translate(weights: dict, prefix: str, source: str) -> dict:
    """Give the tensors of a backbone its own names, if they have those of another library."""
    theirs = {name: value for name, value in weights.items() if name.startswith(prefix) and isinstance(value, Tensor)}
    found = find_backbones(theirs)
    if len(found) != 1:
        return weights
    ((where, key_map),) = found.items()
    translated, _ = to_canonical(theirs, where, key_map, source)
    return {name: value for name, value in weights.items() if name not in theirs} | {
        prefix + name: value for name, value in translated.items()
    }


def check_weights(model: nn.Module, weights: Mapping[str, Any], source: str) -> None:
    """Check whatever of a file would fill a tensor of a model, by the model's names.

    Raises:
        CheckpointMismatch: As of :func:`check_plain`.
    """
    for name, own in own_tensors(model).items():
        if name in weights:
            check_plain(name, weights[name], source, own)


def own_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers by the names that mmengine saves and loads them by; whole ones of a sharded model, too."""
    return {
        prefix + name: tensor
        for prefix, module in named_modules(model)
        for tensors in (module._parameters, module._buffers)
        for name, tensor in tensors.items()
        if tensor is not None
    }


def named_modules(module: Any, prefix: str = '') -> Iterator[tuple[str, nn.Module]]:
    """The modules of a model with their prefixes (``'backbone.'``), which wrappers have no part in."""
    while is_model_wrapper(module) or isinstance(module, BaseTTAModel):
        module = module.module
    yield prefix, module
    for name, child in module._modules.items():
        if child is not None:
            yield from named_modules(child, f'{prefix}{name}.')


mmengine.runner.load_state_dict = mmengine.runner.checkpoint.load_state_dict = load_state_dict
