"""The dialects of ConvNeXt checkpoints: for each, one table between its names and the official ones.

The official names are the canonical ones (:mod:`.convnext`). A row of a table pairs a module's name in a dialect with
its canonical name: ``{i}`` is a stage, ``{j}`` a block, ``{k}`` a place in a Sequential; what follows a module's name
(``.weight``, ``.bias``) is kept.

Names are those of the official code (facebookresearch/ConvNeXt and ConvNeXt-V2), timm 1.0, torchvision 0.28,
transformers 5, mmpretrain 1.2 (mmcls has the same) and facebookresearch/dinov3.
"""

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from torch import Tensor

from .errors import CheckpointMismatch

Rows = list[tuple[str, str]]
STEM = 'downsample_layers.0.0.weight'
_AVERAGED = re.compile(r'(?:^|[._])ema[._]|teacher\.')
_PLACEHOLDER = re.compile(r'\{(\w)\}')
_BLOCK = ('dwconv', 'norm', 'pwconv1', 'pwconv2', 'gamma', 'grn.gamma', 'grn.beta')
_HEAD: Rows = [('norm', 'norm'), ('head', 'head')]
_DOWNSAMPLE: Rows = [('downsample_layers.{i}.{k}', 'downsample_layers.{i}.{k}')]


def _block(theirs: str, *names: str, ours: str = 'stages.{i}.{j}') -> Rows:
    """The rows of a block: its parts' names in the dialect, in the order of the canonical ones."""
    return [(f'{theirs}.{name}', f'{ours}.{part}') for name, part in zip(names, _BLOCK, strict=False)]


@dataclass(frozen=True, eq=False)
class Dialect:
    """One way of naming a ConvNeXt's tensors.

    Attributes:
        name: For reports.
        rows: Pairs of names, the dialect's first; of two rows that could translate a name, the first does. The second
            copy of a tensor has the canonical name ``''``.
    """

    name: str
    rows: Rows

    @cached_property
    def _patterns(self) -> list[tuple[re.Pattern, str]]:
        return [_compile(theirs, ours) for theirs, ours in self.rows]

    def split(self, name: str) -> tuple[str, str] | None:
        """Splits a tensor's name into what stands before the backbone's names, and the canonical name."""
        for pattern, template in self._patterns:
            match = pattern.fullmatch(name)
            if match:
                return match['prefix'], match.expand(template)
        return None


def _compile(theirs: str, ours: str) -> tuple[re.Pattern, str]:
    """A row as a pattern of names and the template of their translations."""
    module = _PLACEHOLDER.sub(r'(?P<\1>\\d+)', theirs.replace('.', r'\.'))
    tail = '' if theirs.endswith(('.kernel', '.weight', '.bias')) else r'(?:\.(?:weight|bias))?'
    template = _PLACEHOLDER.sub(r'\\g<\1>', ours) + r'\g<tail>'
    return re.compile(rf'(?P<prefix>(?:.*\.)?){module}(?P<tail>{tail})'), template


def _torchvision() -> Rows:
    """Stem and downsampling at even places of ``features``, stages at odd ones."""
    rows = [(f'features.{2 * i}.{{k}}', f'downsample_layers.{i}.{{k}}') for i in range(4)]
    for i in range(4):
        names = ('block.0', 'block.2', 'block.3', 'block.5', 'layer_scale')
        rows += _block(f'features.{2 * i + 1}.{{j}}', *names, ours=f'stages.{i}.{{j}}')
    return rows


_OFFICIAL = _DOWNSAMPLE + _block('stages.{i}.{j}', *_BLOCK)
OFFICIAL = Dialect('official', _OFFICIAL + _HEAD)
CANONICAL = Dialect('canonical', [*_OFFICIAL, ('norm{i}', 'norm{i}'), *_HEAD])
FCMAE = Dialect(
    'fcmae',
    [
        ('downsample_layers.0.{k}', 'downsample_layers.0.{k}'),
        ('downsample_layers.{i}.0.ln', 'downsample_layers.{i}.0'),
        ('downsample_layers.{i}.1.kernel', 'downsample_layers.{i}.1.weight'),
        ('downsample_layers.{i}.1.bias', 'downsample_layers.{i}.1.bias'),
        ('stages.{i}.{j}.dwconv.kernel', 'stages.{i}.{j}.dwconv.weight'),
        *_block('stages.{i}.{j}', 'dwconv', 'norm.ln', 'pwconv1.linear', 'pwconv2.linear', *_BLOCK[4:]),
    ],
)
TIMM = Dialect(
    'timm',
    [
        ('stem.{k}', 'downsample_layers.0.{k}'),
        ('stages.{i}.downsample.{k}', 'downsample_layers.{i}.{k}'),
        *_block(
            'stages.{i}.blocks.{j}', 'conv_dw', 'norm', 'mlp.fc1', 'mlp.fc2', 'gamma', 'mlp.grn.weight', 'mlp.grn.bias'
        ),
        ('head.norm', 'norm'),
        ('norm_pre', 'norm'),
        ('head.fc', 'head'),
    ],
)
TORCHVISION = Dialect(
    'torchvision',
    [*_torchvision(), ('classifier.0', 'norm'), ('classifier.2', 'head')],
)
_HF_BLOCK = ('dwconv', 'layernorm', 'pwconv1', 'pwconv2', 'layer_scale_parameter', 'grn.weight', 'grn.bias')
TRANSFORMERS = Dialect(
    'transformers',
    [
        ('embeddings.patch_embeddings', 'downsample_layers.0.0'),
        ('embeddings.layernorm', 'downsample_layers.0.1'),
        ('encoder.stages.{i}.downsampling_layer.{k}', 'downsample_layers.{i}.{k}'),
        *_block('encoder.stages.{i}.layers.{j}', *_HF_BLOCK),
        *((f'hidden_states_norms.stage{i + 1}', f'norm{i}') for i in range(4)),
        ('layernorm', 'norm'),
        ('classifier', 'head'),
    ],
)
_DINOV3_HF_BLOCK = ('depthwise_conv', 'layer_norm', 'pointwise_conv1', 'pointwise_conv2', 'gamma')
TRANSFORMERS_DINOV3 = Dialect(
    'transformers-dinov3',
    [
        ('stages.{i}.downsample_layers.{k}', 'downsample_layers.{i}.{k}'),
        *_block('stages.{i}.layers.{j}', *_DINOV3_HF_BLOCK),
        ('layer_norm', 'norm'),
    ],
)
MMPRETRAIN = Dialect(
    'mmpretrain',
    [
        *_DOWNSAMPLE,
        *_block('stages.{i}.{j}', 'depthwise_conv', 'norm', 'pointwise_conv1', 'pointwise_conv2', *_BLOCK[4:]),
        ('norm{i}', 'norm{i}'),
    ],
)
DINOV3 = Dialect('dinov3', [*_OFFICIAL, ('norms.{i}.weight', ''), ('norms.{i}.bias', ''), *_HEAD])
# Of dialects that know equally many names of a file, the first is meant.
DIALECTS = (OFFICIAL, CANONICAL, DINOV3, FCMAE, TIMM, TORCHVISION, TRANSFORMERS, TRANSFORMERS_DINOV3, MMPRETRAIN)


def find_backbones(names: Iterable[str]) -> dict[str, Dialect]:
    """Finds the ConvNeXts among tensors by their names alone.

    Returns:
        For each, what stands before its tensors' names (``'module.backbone.'``, often ``''``), and its dialect.
    """
    names = list(names)
    known: dict[Dialect, Counter] = {}
    blocks: Counter = Counter()
    for dialect in DIALECTS:
        found = [hit for hit in map(dialect.split, names) if hit]
        known[dialect] = Counter(prefix for prefix, _ in found)
        for prefix, count in Counter(prefix for prefix, name in found if name.startswith('stages.')).items():
            blocks[prefix] = max(blocks[prefix], count)
    most = max(blocks.values(), default=0)
    prefixes = [prefix for prefix, count in blocks.items() if count > most / 2]
    return {prefix: max(DIALECTS, key=lambda dialect: known[dialect][prefix]) for prefix in prefixes}


def to_canonical(tensors: dict[str, Tensor], prefix: str, dialect: Dialect) -> tuple[dict[str, Tensor], list[str]]:
    """Translates the tensors of one backbone.

    Returns:
        The tensors by their canonical names and in canonical layout (what no table knows stays as it is), and the names
        outside of the backbone.
    """
    inside, outside = {}, []
    for name, tensor in tensors.items():
        if not name.startswith(prefix):
            outside.append(name)
            continue
        hit = dialect.split(name.removeprefix(prefix))
        own = hit[1] if hit and hit[0] == '' else name.removeprefix(prefix)
        if own:
            inside[own] = _layout(own, _dense(tensor) if name.endswith('.kernel') else tensor)
    return inside, outside


def _layout(name: str, tensor: Tensor) -> Tensor:
    """Takes away dimensions of 1: vectors as (C, 1, 1) or (1, 1, 1, C), linear layers as 1x1 convolutions."""
    if name.endswith(('.gamma', '.beta', '.bias')) and tensor.numel() == max(tensor.shape, default=1):
        return tensor.flatten()
    if '.pwconv' in name and tensor.ndim == 4 and tensor.shape[2:] == (1, 1):
        return tensor.flatten(1)
    return tensor


def _dense(kernel: Tensor) -> Tensor:
    """A convolution's weight from MinkowskiEngine's kernel, (k * k, C) or (k * k, in, out), x before y."""
    side = math.isqrt(kernel.shape[0]) if kernel.ndim in (2, 3) else 0
    if side * side != kernel.shape[:1].numel():
        return kernel
    weight = kernel.t()[:, None] if kernel.ndim == 2 else kernel.permute(2, 1, 0)
    return weight.unflatten(2, (side, side)).transpose(2, 3)


@dataclass(frozen=True)
class Found:
    """A backbone that was found in a file.

    Attributes:
        dialect: Whose names it had.
        weights: ``'plain'`` or ``'averaged'``.
        tensors: By canonical names.
        outside: The other names of the state dict that it stood in.
    """

    dialect: Dialect
    weights: str
    tensors: dict[str, Tensor]
    outside: list[str]


def state_dicts(checkpoint: Any, path: str = '', depth: int = 4) -> dict[str, dict[str, Tensor]]:
    """Every dict of a file that holds tensors, by its path (``'model.'``), the state of optimizers left out."""
    if not isinstance(checkpoint, Mapping) or depth == 0:
        return {}
    items = [(name, value) for name, value in checkpoint.items() if isinstance(name, str)]
    own = {path + name: value for name, value in items if isinstance(value, Tensor)}
    found = {path: own} if own else {}
    for name, value in items:
        if not name.startswith(('optim', 'message_hub', 'param_sched', 'lr_sched')):
            found |= state_dicts(value, f'{path}{name}.', depth - 1)
    return found


def choose_backbone(checkpoint: Any, source: str, prefix: str | None = None, ema: bool = False) -> Found:
    """Finds the backbone that is meant among those of a checkpoint; arguments as of :func:`.load_backbone`.

    Raises:
        CheckpointMismatch: There is none, there are several, or there are no averaged weights.
    """
    found = state_dicts(checkpoint)
    tensors = {name: tensor for own in found.values() for name, tensor in own.items()}
    backbones = find_backbones(tensors)
    if prefix is not None:
        wanted = prefix if not prefix or prefix.endswith('.') else f'{prefix}.'
        backbones = {where: dialect for where, dialect in backbones.items() if where.endswith(wanted)}
    # mmengine's EMAHook stores the averaged weights as `state_dict` and the plain ones as `ema_state_dict`.
    exchanged = 'ema_state_dict.steps' in tensors
    averaged = [where for where in backbones if bool(_AVERAGED.search(where)) != exchanged]
    chosen = averaged if ema else [where for where in backbones if where not in averaged]
    if ema and not averaged:
        raise CheckpointMismatch(f'The checkpoint {source} holds no averaged weights: load it with ema=False.')
    chosen = chosen or averaged
    if not chosen:
        under = '' if prefix is None else f' under prefix={prefix!r}'
        shown = ', '.join(sorted(tensors)[:3]) or 'no tensors'
        raise CheckpointMismatch(
            f'The checkpoint {source} is not a ConvNeXt of a known dialect{under}: it holds {shown}, ...; '
            f'known are {", ".join(dialect.name for dialect in DIALECTS)}.'
        )
    if len(chosen) > 1:
        raise CheckpointMismatch(
            f'The checkpoint {source} holds several backbones: choose one with prefix=, out of {", ".join(chosen)}.'
        )
    (where,) = chosen
    home = max((path for path in found if where.startswith(path)), key=len)
    inside, outside = to_canonical(found[home], where, backbones[where])
    weights = 'averaged' if where in averaged else 'plain'
    return Found(backbones[where], weights, inside, [name.removeprefix(home) for name in outside])
