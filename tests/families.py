"""Small models and their checkpoints in every weights format.

The files are made by the libraries themselves; where one is not installed (the official code, mmpretrain, DINOv3's),
by its names, written down from its source.
"""

import os
import re

import torch
from mmengine.optim import build_optim_wrapper
from torch import Tensor, nn

from convnext_backbone import ConvNeXt

DEPTHS, CHANNELS = (1, 1, 2, 1), (8, 16, 24, 32)
SMALL = dict(depths=DEPTHS, channels=CHANNELS)
IMAGES = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
TINY = dict(depths=(1, 1, 1, 1), channels=(4, 4, 4, 4))


def tiny() -> dict[str, Tensor]:
    """Weights of the smallest backbone."""
    torch.manual_seed(0)
    return ConvNeXt(TINY).state_dict()


class Code:
    """Creates a folder when unpickled: the payload of crafted files."""

    def __init__(self, path: object) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return os.mkdir, (str(self.path),)


def randomized(model: nn.Module) -> nn.Module:
    """Make every weight random, so that a missing one is noticed."""
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.2)
    return model.eval()


def timm_model(**arguments):
    from timm.models.convnext import ConvNeXt as TimmConvNeXt

    model = randomized(TimmConvNeXt(depths=DEPTHS, dims=CHANNELS, **{'num_classes': 5, **arguments}))
    return model, model.forward_intermediates(IMAGES, intermediates_only=True)


def timm_features():
    """What segmentation_models_pytorch and others use as an encoder."""
    import timm

    model = timm.create_model('convnext_tiny', features_only=True, depths=DEPTHS, dims=CHANNELS)
    return randomized(model), model(IMAGES)


def torchvision_features():
    """As in torchvision's detectors, below `backbone.body.` with an FPN."""
    model, maps = torchvision_model()
    return model.features, maps


def torchvision_model():
    from torchvision.models.convnext import CNBlockConfig
    from torchvision.models.convnext import ConvNeXt as TorchvisionConvNeXt

    blocks = [CNBlockConfig(*sizes) for sizes in zip(CHANNELS, [*CHANNELS[1:], None], DEPTHS, strict=True)]
    model = randomized(TorchvisionConvNeXt(blocks, num_classes=5))
    maps, x = [], IMAGES
    for i, layer in enumerate(model.features):
        x = layer(x)
        if i % 2:
            maps.append(x)
    return model, maps


def transformers_model(name: str):
    import transformers

    family = re.match(r'ConvNextV2|ConvNext|DINOv3ConvNext', name)[0]
    config = getattr(transformers, f'{family}Config')(depths=list(DEPTHS), hidden_sizes=list(CHANNELS))
    if name.endswith('Backbone'):
        config.out_features = ['stage1', 'stage2', 'stage3', 'stage4']
    model = randomized(getattr(transformers, name)(config))
    return model, model(IMAGES, output_hidden_states=True).hidden_states[1:]


FAMILIES = {
    'timm V1': ('timm', timm_model, {}),
    'timm V2': ('timm', timm_model, dict(use_grn=True, ls_init_value=None)),
    'timm conv_mlp': ('timm', timm_model, dict(conv_mlp=True)),
    'timm without head': ('timm', timm_model, dict(num_classes=0)),  # DINOv3's, and CLIP's below `visual.trunk.`
    'timm norm first': ('timm', timm_model, dict(head_norm_first=True)),
    'timm features_only': ('timm', timm_features, {}),
    'torchvision': ('torchvision', torchvision_model, {}),
    'torchvision features': ('torchvision', torchvision_features, {}),
    **{
        name: ('transformers-dinov3' if 'DINO' in name else 'transformers', transformers_model, dict(name=name))
        for name in (
            'ConvNextModel',
            'ConvNextForImageClassification',
            'ConvNextBackbone',
            'ConvNextV2Model',
            'ConvNextV2ForImageClassification',
            'DINOv3ConvNextModel',
        )
    },
}


def sparse(name: str, tensor: Tensor) -> tuple[str, Tensor]:
    """MinkowskiEngine's layout: facebookresearch/ConvNeXt-V2, models/convnextv2_sparse.py, read by its utils.py."""
    name = re.sub(r'(downsample_layers\.[123]\.0|norm)\.(\w+)$', r'\1.ln.\2', name)
    name = re.sub(r'(pwconv\d)\.', r'\1.linear.', name)
    if tensor.ndim == 4 and 'downsample_layers.0' not in name:
        flat = tensor.transpose(2, 3).flatten(2)  # x before y
        return name.replace('.weight', '.kernel'), flat[:, 0].t() if 'dwconv' in name else flat.permute(2, 1, 0)
    convolution = re.search(r'dwconv|downsample_layers\.[123]\.1|grn', name)
    return name, tensor[None] if convolution else tensor


def mmpretrain(name: str, tensor: Tensor) -> tuple[str, Tensor]:
    """mmpretrain/models/backbones/convnext.py."""
    return name.replace('dwconv', 'depthwise_conv').replace('pwconv', 'pointwise_conv'), tensor


def official_v2(name: str, tensor: Tensor) -> tuple[str, Tensor]:
    """facebookresearch/ConvNeXt-V2, models/utils.py: GRN."""
    return name, tensor[None, None, None] if '.grn.' in name else tensor


WRITTEN = {
    'canonical': (lambda name, tensor: (name, tensor), 'backbone.', 'canonical'),
    'official': (lambda name, tensor: (name, tensor), '', 'official'),
    'official V2': (official_v2, '', 'official'),
    'fcmae V2': (sparse, 'encoder.', 'fcmae'),
    'mmpretrain': (mmpretrain, 'backbone.', 'mmpretrain'),
    'mmpretrain V2': (mmpretrain, 'backbone.', 'mmpretrain'),
    'dinov3': (lambda name, tensor: (name, tensor), '', 'dinov3'),
}
# facebookresearch/dinov3, models/convnext.py: `norms.3` is a second copy of `norm`.
ALIAS = {'norms.3.weight': torch.ones(32), 'norms.3.bias': torch.zeros(32)}
LEFT_OVER = {'head.weight': torch.ones(5, 32), 'norm.weight': torch.ones(32)}


def blank(family: str) -> ConvNeXt:
    """A backbone that a file of the family fills; only this project's own files have output norms."""
    return ConvNeXt(SMALL, use_grn='V2' in family, out_norm=family == 'canonical')


def written(family: str) -> tuple[ConvNeXt, dict[str, Tensor]]:
    """A backbone, and its checkpoint in a weights format, with the other tensors of such files."""
    write, prefix, _ = WRITTEN[family]
    backbone = randomized(blank(family))
    state = dict(write(name, tensor) for name, tensor in backbone.state_dict().items())
    alias = ALIAS if family == 'dinov3' else {}
    return backbone, {prefix + name: tensor.clone() for name, tensor in state.items()} | LEFT_OVER | alias


def optimizer_groups(model: nn.Module, base_lr: float = 1e-4, weight_decay: float = 0.05, **paramwise) -> list[dict]:
    """The parameter groups that layer decay makes of a model."""
    optimizer = dict(type='AdamW', lr=base_lr, weight_decay=weight_decay)
    constructor = 'LayerDecayOptimWrapperConstructor'
    cfg = dict(constructor=constructor, paramwise_cfg=paramwise, optimizer=optimizer)
    return build_optim_wrapper(model, cfg).optimizer.param_groups


def assert_equal(one: nn.Module, other: nn.Module) -> None:
    one, other = one.state_dict(), other.state_dict()
    assert [name for name in one if not torch.equal(one[name], other[name])] == []
