"""Weights formats: for each library, a table between its parameter names and the canonical ones.

Canonical are the official names, which are those of :mod:`.convnext` and :mod:`.isotropic`. A row pairs a module's name
in a format with its canonical name: ``{i}`` is a stage, ``{j}`` a block, ``{k}`` an index in a Sequential; the rest of
a name (``.weight``, ``.bias``) is kept. The same rows serve to read and to write.

Names are those of the official code (facebookresearch/ConvNeXt and ConvNeXt-V2), timm 1.0, torchvision 0.28,
transformers 5, mmpretrain 1.2 (mmcls has the same) and facebookresearch/dinov3.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property, lru_cache

Rows = list[tuple[str, str]]
_PLACEHOLDER = re.compile(r'\{(\w)\}')
_BLOCK = ('dwconv', 'norm', 'pwconv1', 'pwconv2', 'gamma', 'grn.gamma', 'grn.beta')
_HEAD: Rows = [('norm', 'norm'), ('head', 'head')]
_DOWNSAMPLE: Rows = [('downsample_layers.{i}.{k}', 'downsample_layers.{i}.{k}')]


def _block(theirs: str, *names: str, ours: str = 'stages.{i}.{j}') -> Rows:
    """The rows of a block, from the names of its parts in the order of the canonical ones."""
    return [(f'{theirs}.{name}', f'{ours}.{part}') for name, part in zip(names, _BLOCK, strict=False)]


@dataclass(frozen=True, eq=False)
class KeyMap:
    """Parameter names of a weights format.

    The first row that matches a name translates it. The canonical name ``''`` marks the second copy of a tensor.
    """

    name: str
    rows: Rows
    views: dict[str, tuple[int, ...]] = field(default_factory=dict)  # shapes of vectors, by the part of a block

    @cached_property
    def split(self) -> Callable[[str], tuple[str, str] | None]:
        """Function that splits a name in a file into the backbone's prefix and the canonical name."""
        patterns = [_compile(theirs, ours) for theirs, ours in self.rows]

        @lru_cache(maxsize=10_000)  # each name of a file is split several times
        def split(name: str) -> tuple[str, str] | None:
            for pattern, template in patterns:
                if match := pattern.fullmatch(name):
                    return match['prefix'], match.expand(template)
            return None

        return split

    @cached_property
    def _reversed(self) -> 'KeyMap':
        return KeyMap(self.name, [(ours, theirs) for theirs, ours in self.rows if ours])

    def name_of(self, canonical: str) -> str | None:
        """The name of a tensor in this format; None if there is no such tensor in it."""
        prefix, name = self._reversed.split(canonical) or ('', None)
        return None if prefix else name


def _compile(given: str, wanted: str) -> tuple[re.Pattern, str]:
    """A pattern of names, and the template of their translations."""
    module = _PLACEHOLDER.sub(r'(?P<\1>\\d{1,3})', given.replace('.', r'\.'))
    tail = '' if given.endswith(('.kernel', '.weight', '.bias')) else r'(?:\.(?:weight|bias))?'
    template = _PLACEHOLDER.sub(r'\\g<\1>', wanted) + r'\g<tail>'
    return re.compile(rf'(?P<prefix>(?:.*\.)?){module}(?P<tail>{tail})'), template


def _torchvision(features: str) -> Rows:
    """Stem and downsampling at even indices of ``features``, stages at odd ones."""
    rows = [(f'{features}{2 * i}.{{k}}', f'downsample_layers.{i}.{{k}}') for i in range(4)]
    for i in range(4):
        names = ('block.0', 'block.2', 'block.3', 'block.5', 'layer_scale')
        rows += _block(f'{features}{2 * i + 1}.{{j}}', *names, ours=f'stages.{i}.{{j}}')
    return rows


def _timm(joint: str) -> Rows:
    """Its ``features_only`` models, which the encoders of segmentation_models_pytorch contain, join names by ``_``."""
    names = ('conv_dw', 'norm', 'mlp.fc1', 'mlp.fc2', 'gamma', 'mlp.grn.weight', 'mlp.grn.bias')
    return [
        (f'stem{joint}{{k}}', 'downsample_layers.0.{k}'),
        (f'stages{joint}{{i}}.downsample.{{k}}', 'downsample_layers.{i}.{k}'),
        *_block(f'stages{joint}{{i}}.blocks.{{j}}', *names),
    ]


_GRN_OF_NHWC: dict[str, tuple[int, ...]] = {'grn.gamma': (1, 1, 1, -1), 'grn.beta': (1, 1, 1, -1)}
_ISOTROPIC = [('stem', 'stem'), *_block('blocks.{j}', *_BLOCK, ours='blocks.{j}')]
_OFFICIAL = _DOWNSAMPLE + _block('stages.{i}.{j}', *_BLOCK) + _ISOTROPIC
OFFICIAL = KeyMap('official', _OFFICIAL + _HEAD, _GRN_OF_NHWC)
CANONICAL = KeyMap('canonical', [*_OFFICIAL, ('norm{i}', 'norm{i}'), *_HEAD])
FCMAE = KeyMap(
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
TIMM = KeyMap(
    'timm',
    [
        *_timm('.'),
        *_timm('_'),
        ('head.norm', 'norm'),
        ('norm_pre', 'norm3'),  # of models that normalize before pooling
        ('head.fc', 'head'),
    ],
)
TORCHVISION = KeyMap(
    'torchvision',
    # Its detectors and segmentors contain what is in `features` under a name of their own.
    [*_torchvision('features.'), *_torchvision(''), ('classifier.0', 'norm'), ('classifier.2', 'head')],
    {'gamma': (-1, 1, 1)},
)
_HF_BLOCK = ('dwconv', 'layernorm', 'pwconv1', 'pwconv2', 'layer_scale_parameter', 'grn.weight', 'grn.bias')
TRANSFORMERS = KeyMap(
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
    _GRN_OF_NHWC,
)
_DINOV3_HF_BLOCK = ('depthwise_conv', 'layer_norm', 'pointwise_conv1', 'pointwise_conv2', 'gamma')
TRANSFORMERS_DINOV3 = KeyMap(
    'transformers-dinov3',
    [
        ('stages.{i}.downsample_layers.{k}', 'downsample_layers.{i}.{k}'),
        *_block('stages.{i}.layers.{j}', *_DINOV3_HF_BLOCK),
        ('layer_norm', 'norm'),
    ],
)
_MMPRETRAIN = [
    *_DOWNSAMPLE,
    *_block('stages.{i}.{j}', 'depthwise_conv', 'norm', 'pointwise_conv1', 'pointwise_conv2', *_BLOCK[4:]),
]
MMPRETRAIN = KeyMap('mmpretrain', [*_MMPRETRAIN, ('norm{i}', 'norm{i}')])
# Its classifiers call the norm after pooling norm3, as dense prediction calls that of the last stage.
MMPRETRAIN_CLASSIFIER = KeyMap('mmpretrain', [*_MMPRETRAIN, ('norm3', 'norm'), ('head.fc', 'head')])
DINOV3 = KeyMap(
    'dinov3',
    [
        *_DOWNSAMPLE,
        *_block('stages.{i}.{j}', *_BLOCK[:5]),
        ('norm', 'norm'),
        ('norms.{i}.weight', ''),
        ('norms.{i}.bias', ''),
    ],
)
# Those to read; of formats that match equally many names of a file, the first is meant.
KEY_MAPS = (
    OFFICIAL, CANONICAL, DINOV3, FCMAE, TIMM, TORCHVISION, TRANSFORMERS, TRANSFORMERS_DINOV3, MMPRETRAIN,
    MMPRETRAIN_CLASSIFIER,
)  # fmt: skip
# Those to write.
_OFFICIAL_WITH_NORMS = KeyMap('official', CANONICAL.rows, OFFICIAL.views)  # as in its detectors
_TARGETS = (CANONICAL, _OFFICIAL_WITH_NORMS, TIMM, TORCHVISION, TRANSFORMERS, MMPRETRAIN, DINOV3)
TARGETS = {key_map.name: key_map for key_map in _TARGETS}
