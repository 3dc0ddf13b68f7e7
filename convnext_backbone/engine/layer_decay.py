"""Layer-wise learning-rate decay for ConvNeXt (papers' fine-tuning), numbered as in the official code of V1 and V2.

Layer ids come from the backbone found inside the model, wherever it is and however deep, not from the config.
"""

import math
import re
from collections.abc import Sequence
from typing import Any

from mmengine.dist import is_main_process
from mmengine.logging import print_log
from mmengine.optim import DefaultOptimWrapperConstructor
from mmengine.registry import OPTIM_WRAPPER_CONSTRUCTORS
from torch import nn

from ..models.backbone import Backbone
from ..utils.errors import ArgumentError
from ..utils.validation import NOT_NEGATIVE, numbers

DECAY_TYPES = ('layer_wise', 'stage_wise', 'single', 'group')


def layer_id(name: str | None, depths: Sequence[int], decay_type: str = 'layer_wise') -> int:
    """The layer of a parameter, from the stem's to ``num_layers(depths, decay_type) + 1`` for heads and output norms.

    Args:
        name: The parameter's name within the backbone; None for one outside of it.
        depths: Blocks of each stage.
        decay_type: ``'layer_wise'``: groups of three blocks in the third stage; the stem is 0. ``'group'``: the same,
            as ConvNeXt V2's code calls it. ``'stage_wise'``: one id for each stage, and 0 for every downsampling layer,
            even the last (as in the official code, and its results). ``'single'`` (V2): each block is a layer of its
            own from 1 on, with the stem or the downsampling layer that precedes it.
    """
    last = num_layers(depths, decay_type)
    place = re.match(r'(downsample_layers|stages)\.(\d+)\.(\d+)', name or '')
    if place is None:
        return last + 1
    kind, stage, block = place[1], int(place[2]), int(place[3])
    if decay_type == 'stage_wise':
        return stage + 1 if kind == 'stages' else 0
    if decay_type == 'single':
        return 1 + sum(depths[:stage]) + (block if kind == 'stages' else 0)
    if kind == 'downsample_layers':
        return (0, 2, 3, last)[stage]
    return (1, 2, 3 + block // 3, last)[stage]


def num_layers(depths: Sequence[int], decay_type: str = 'layer_wise') -> int:
    """The id of the last block: 6 for T, 12 for S to XL, and of type ``'single'`` the number of blocks.

    0 for isotropic models, which have one stage.
    """
    if len(depths) == 1:
        return 0
    if decay_type == 'single':
        return sum(depths)
    return 3 + math.ceil(depths[2] / 3)


def lr_scale(name: str | None, depths: Sequence[int], decay_rate: float, decay_type: str = 'layer_wise') -> float:
    """The factor on the learning rate of a parameter: 1 at the head, smaller towards the stem, never above 1.

    Args:
        name: The parameter's name within the backbone; None for one outside of it.
        depths: Blocks of each stage.
        decay_rate: The factor between one layer and the next; 1 for isotropic models, for which none is defined.
        decay_type: As of :func:`layer_id`.
    """
    if len(depths) == 1 and decay_rate != 1:
        raise ArgumentError(f'decay_rate={decay_rate!r} is not defined for an isotropic ConvNeXt: set it to 1.')
    return decay_rate ** (num_layers(depths, decay_type) + 1 - layer_id(name, depths, decay_type))


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class LayerDecayOptimWrapperConstructor(DefaultOptimWrapperConstructor):
    """Builds parameter groups with a learning rate that decays from the head to the stem.

    ``paramwise_cfg`` takes ``decay_rate``, ``decay_type`` (of :data:`DECAY_TYPES`, ``'layer_wise'`` by default) and
    mmengine's ``custom_keys`` (``lr_mult`` and ``decay_mult`` by a part of the parameter's name). Biases, 1-D
    parameters and GRN's have no weight decay.

    Raises:
        ArgumentError: A setting is unknown or out of range.
    """

    def _validate_cfg(self) -> None:
        settings = self.paramwise_cfg
        unknown = sorted(set(settings) - {'decay_rate', 'decay_type', 'custom_keys'})
        if unknown:
            raise ArgumentError(
                f'paramwise_cfg has {unknown}, but takes decay_rate, decay_type and custom_keys (layer ids come from '
                f'the model itself): remove it.'
            )
        self._rate = settings.get('decay_rate')
        self._type = settings.get('decay_type', DECAY_TYPES[0])
        self._custom_keys = settings.get('custom_keys') or {}
        rates = numbers(lambda rate: 0 < rate <= 1, 'above 0 and up to 1')
        rates.check('paramwise_cfg.decay_rate', self._rate)
        if self._type not in DECAY_TYPES:
            raise ArgumentError(f'paramwise_cfg has decay_type={self._type!r}: it is one of {", ".join(DECAY_TYPES)}.')
        NOT_NEGATIVE.check('optimizer.lr', self.base_lr)
        for key, factors in self._custom_keys.items():
            if not isinstance(factors, dict) or set(factors) - {'lr_mult', 'decay_mult'}:
                raise ArgumentError(
                    f'paramwise_cfg has custom_keys={{{key!r}: {factors!r}}}: it takes, for a part of the names of '
                    f'parameters, dict(lr_mult=..., decay_mult=...).'
                )
            for name, factor in factors.items():
                NOT_NEGATIVE.check(f'paramwise_cfg.custom_keys[{key!r}].{name}', factor)
        super()._validate_cfg()

    def add_params(self, params: list[dict], module: nn.Module, **kwargs: Any) -> None:
        """Add the groups of all trainable parameters of ``module`` to ``params``, those of the head first."""
        places = {}  # id of a parameter -> its name in its backbone, and the backbone's depths
        for backbone in (m for m in module.modules() if isinstance(m, Backbone)):
            places.update({id(p): (name, backbone.depths) for name, p in backbone.named_parameters()})
        if not places:
            raise ArgumentError(
                f'{type(self).__name__} found no ConvNeXt in {type(module).__name__}: use it with a ConvNeXt backbone.'
            )
        some_depths = next(iter(places.values()))[1]
        groups: dict[tuple, dict] = {}
        for name, param in module.named_parameters():
            if not param.requires_grad:
                continue
            place, depths = places.get(id(param), (None, some_depths))
            layer = layer_id(place, depths, self._type)
            # As in mmengine: the longest key within the name, the first by the alphabet of two.
            longest = max((key for key in sorted(self._custom_keys) if key in name), key=len, default=None)
            custom = self._custom_keys.get(longest, {})
            scale = lr_scale(place, depths, self._rate, self._type) * custom.get('lr_mult', 1.0)
            exempt = param.ndim <= 1 or name.endswith('.bias') or '.grn.' in name
            weight_decay = 0.0 if exempt else (self.base_wd or 0.0) * custom.get('decay_mult', 1.0)
            group_name = f'layer_{layer}_{"no_decay" if exempt else "decay"}'
            settings = dict(lr_scale=scale, lr=self.base_lr * scale, weight_decay=weight_decay, group_name=group_name)
            group = groups.setdefault((-scale, -layer, weight_decay), dict(params=[], param_names=[], **settings))
            group['params'].append(param)
            group['param_names'].append(name)
        # The head first: mmengine logs the learning rate of the first group.
        params.extend(groups[key] for key in sorted(groups))
        if is_main_process():
            print_log(f'Layer decay: {self._type}, rate {self._rate}\n{_group_table(params)}', logger='current')


def _group_table(groups: list[dict]) -> str:
    lines = [
        f'{"group":20}{"lr scale":>10}{"lr":>12}{"weight decay":>14}{"tensors":>9}{"parameters":>13}  first tensor'
    ]
    for group in groups:
        count = sum(p.numel() for p in group['params'])
        lines.append(
            f'{group["group_name"]:<20}{group["lr_scale"]:>10.4f}{group["lr"]:>12.3e}{group["weight_decay"]:>14g}'
            f'{len(group["params"]):>9}{count:>13,}  {group["param_names"][0]}'
        )
    return '\n'.join(lines)
