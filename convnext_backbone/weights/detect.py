"""Detection of the ConvNeXts in a checkpoint: where they are, in which weights format, and which one is meant."""

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..utils.errors import CheckpointMismatch, printable, shorten
from .key_maps import KEY_MAPS, KeyMap
from .plain_tensors import check_plain

_AVERAGED = re.compile(r'(?:^|[._])ema[._]|teacher\.')
# What torch.compile, FSDP and activation checkpointing put into the names of the parts that they wrap.
_WRAPPERS = re.compile(r'(?<![^.])_(?:orig_mod|fsdp_wrapped_module|checkpoint_wrapped_module)\.')
_LONGEST_NAME = 300  # characters; no library comes near it
_BLOCK = '.dwconv.weight'  # which every block has once
CLASSIFIER = ('norm.', 'head.')  # what may belong to a module around the backbone


@dataclass(frozen=True)
class FoundBackbone:
    """A backbone that was found in a file."""

    key_map: KeyMap  # its weights format
    weights: str  # 'plain' or 'averaged'
    tensors: dict[str, Tensor]  # by canonical names, with a classifier's norm and head
    outside: list[str]  # other names of the same state dict


def find_backbones(names: Iterable[str], wanted: str = '') -> dict[str, KeyMap]:
    """Find the ConvNeXts among tensors by their names: the prefix of each, often ``''``, and its weights format.

    With ``wanted``, those whose prefix ends with that.
    """
    names = list(names)
    matches: dict[KeyMap, Counter] = {}  # number of names by prefix, and by whether they may belong to a classifier
    blocks: Counter = Counter()
    for key_map in KEY_MAPS:
        hits = [hit for hit in map(key_map.split, names) if hit]
        matches[key_map] = Counter((prefix, own.startswith(CLASSIFIER)) for prefix, own in hits)
        blocks |= Counter(prefix for prefix, own in hits if own.endswith(_BLOCK))  # the larger of each
    counts = {prefix: count for prefix, count in blocks.items() if prefix.endswith(wanted)}
    most = max(counts.values(), default=0)

    def best(prefix: str) -> KeyMap:
        around = [prefix[:end] for end in range(len(prefix) + 1) if not end or prefix[end - 1] == '.']
        return max(KEY_MAPS, key=lambda of: matches[of][prefix, False] + sum(matches[of][one, True] for one in around))

    return {prefix: best(prefix) for prefix, count in counts.items() if count > most / 2}


def to_canonical(
    tensors: dict[str, Tensor], prefix: str, key_map: KeyMap, source: str
) -> tuple[dict[str, Tensor], list[str]]:
    """Translate the tensors of one backbone, and of the classifier around it, to canonical names and layout.

    Returns:
        The tensors, unknown ones by their own names, and the names outside of the backbone.

    Raises:
        CheckpointMismatch: A tensor does not hold plain finite numbers; the error names the ``source``.
    """
    inside, outside = {}, []
    for name, tensor in tensors.items():
        hit = key_map.split(name)
        if hit and (hit[0] == prefix or (hit[1].startswith(CLASSIFIER) and prefix.startswith(hit[0]))):
            own = hit[1]
        elif name.startswith(prefix):
            own = name.removeprefix(prefix)
        else:
            outside.append(name)
            continue
        if own:
            check_plain(name, tensor, source)
            inside[own] = _canonical_layout(own, _from_sparse(tensor) if name.endswith('.kernel') else tensor)
    return inside, outside


def _canonical_layout(name: str, tensor: Tensor) -> Tensor:
    """Remove dimensions of 1: from vectors as (C, 1, 1) or (1, 1, 1, C), and linear layers as 1x1 convolutions."""
    if name.endswith(('.gamma', '.beta', '.bias')) and tensor.numel() == max(tensor.shape, default=1):
        return tensor.flatten()
    if '.pwconv' in name and tensor.ndim == 4 and tensor.shape[2:] == (1, 1):
        return tensor.flatten(1)
    return tensor


def _from_sparse(kernel: Tensor) -> Tensor:
    """Convolution weight from MinkowskiEngine's kernel, (k * k, C) or (k * k, in, out), x before y."""
    side = math.isqrt(kernel.shape[0]) if kernel.ndim in (2, 3) else 0
    if side * side != kernel.shape[:1].numel():
        return kernel
    weight = kernel.t()[:, None] if kernel.ndim == 2 else kernel.permute(2, 1, 0)
    return weight.unflatten(2, (side, side)).transpose(2, 3)


def state_dicts(checkpoint: Any) -> dict[str, dict[str, Tensor]]:
    """Every dict of a checkpoint that holds tensors, by its path (``'model.'``), without the state of optimizers."""
    found: dict[str, dict[str, Tensor]] = {}
    seen: set[int] = set()

    def visit(node: Any, path: str, depth: int) -> None:
        if not isinstance(node, Mapping) or depth == 0 or id(node) in seen:
            return
        seen.add(id(node))  # a dict may occur many times in a file, and in itself
        items = [(name, value) for name, value in node.items() if isinstance(name, str) and len(name) <= _LONGEST_NAME]
        # A new view: attributes that a file gives to a tensor could shadow its methods.
        tensors = [(name, _from_numpy(value)) for name, value in items]
        own = {
            path + _WRAPPERS.sub('', name): Tensor.detach(value) for name, value in tensors if isinstance(value, Tensor)
        }
        if own:
            found[path] = own
        for name, value in items:
            if not name.startswith(('optim', 'message_hub', 'param_sched', 'lr_sched')):
                visit(value, f'{path}{name}.', depth - 1)

    visit(checkpoint, '', 4)
    return found


def _from_numpy(value: Any) -> Any:
    """The tensor of an array of floats, as detectron2 stores them; anything else as it is."""
    floats = isinstance(value, np.ndarray) and value.dtype in (np.float16, np.float32, np.float64)
    return torch.from_numpy(np.array(value)) if floats else value


def choose_backbone(checkpoint: Any, source: str, prefix: str | None = None, ema: bool = False) -> FoundBackbone:
    """Find the backbone in a checkpoint that is meant; arguments as of :func:`.load_backbone`.

    Raises:
        CheckpointMismatch: There is none, there are several, no averaged weights, or tensors that are no weights.
    """
    source = printable(source)
    found = state_dicts(checkpoint)
    tensors = {name: tensor for own in found.values() for name, tensor in own.items()}
    wanted = _WRAPPERS.sub('', f'{prefix.rstrip(".")}.') if prefix else ''
    backbones = find_backbones(tensors, wanted)
    # mmengine's EMAHook stores the averaged weights as `state_dict` and the plain ones as `ema_state_dict`.
    exchanged = 'ema_state_dict.steps' in tensors
    averaged = [where for where in backbones if bool(_AVERAGED.search(where)) != exchanged]
    chosen = averaged if ema else [where for where in backbones if where not in averaged]
    if ema and not averaged:
        raise CheckpointMismatch(f'The checkpoint {source} holds no averaged weights: load it with ema=False.')
    chosen = chosen or averaged
    if not chosen:
        under = '' if prefix is None else f' under prefix={prefix!r}'
        shown = shorten(sorted(tensors)) or 'no tensors'
        known = dict.fromkeys(key_map.name for key_map in KEY_MAPS)
        raise CheckpointMismatch(
            f'The checkpoint {source} is not a ConvNeXt in a known weights format{under}: it holds {shown}; '
            f'known are {", ".join(known)}.'
        )
    if len(chosen) > 1:
        raise CheckpointMismatch(
            f'The checkpoint {source} holds several backbones: choose one with prefix=, out of {shorten(chosen)}.'
        )
    (where,) = chosen
    home = max((path for path in found if where.startswith(path)), key=len)
    inside, outside = to_canonical(found[home], where, backbones[where], source)
    weights = 'averaged' if where in averaged else 'plain'
    return FoundBackbone(backbones[where], weights, inside, [name.removeprefix(home) for name in outside])
