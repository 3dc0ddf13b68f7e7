"""Parity with timm: maps, logits and gradients of every architecture, V1 and V2, to a relative error of 1e-5."""

import pytest
import timm.models.convnext
import torch
from torch import Tensor, nn

from convnext_backbone import ARCHS, ConvNeXt, ImageClassifier

TOLERANCE = 1e-5
IN_TIMM = [
    ('downsample_layers.0.', 'stem.'),
    ('downsample_layers.', 'stages.'),
    ('dwconv', 'conv_dw'),
    ('pwconv1', 'mlp.fc1'),
    ('pwconv2', 'mlp.fc2'),
    ('grn.gamma', 'mlp.grn.weight'),
    ('grn.beta', 'mlp.grn.bias'),
]


def timm_name(name: str) -> str:
    """timm's name of a parameter of our classifier."""
    name = name.removeprefix('backbone.')
    if name.startswith(('norm.', 'head.')):
        return name.replace('head.', 'head.fc.').replace('norm.', 'head.norm.')
    parts = name.split('.')
    if parts[0] == 'stages':
        parts.insert(2, 'blocks')
    elif parts[1] != '0':
        parts.insert(2, 'downsample')
    name = '.'.join(parts)
    for ours, theirs in IN_TIMM:
        name = name.replace(ours, theirs)
    return name


def random_state(model: nn.Module) -> dict[str, Tensor]:
    """Random weights, with layer scale and norms of order one, so that every part of a block counts."""
    torch.manual_seed(0)
    state = {}
    for name, tensor in model.state_dict().items():
        value = torch.empty(tensor.shape).normal_(std=0.02)
        if tensor.ndim == 1 and not name.endswith('bias'):
            value = value * 10 + 0.5
        state[name] = value
    return state


def relative_error(ours: Tensor, theirs: Tensor) -> float:
    return float(((ours - theirs).norm() / theirs.norm()).detach())


def is_slow(arch: str) -> bool:
    """Those above 89 million parameters have the blocks of base, only more and wider ones."""
    return arch in ('large', 'xlarge', 'huge')


@pytest.mark.parametrize(
    ('arch', 'use_grn'),
    [
        pytest.param(arch, use_grn, id=f'{arch}-{version}', marks=[pytest.mark.slow] * is_slow(arch))
        for arch in ARCHS
        for version, use_grn in (('V1', False), ('V2', True))
    ],
)
def test_outputs_and_gradients_equal_timm(arch: str, use_grn: bool):
    depths, channels = ARCHS[arch]
    with torch.device('meta'):
        ours = ImageClassifier(dict(type='ConvNeXt', arch=arch, use_grn=use_grn), num_classes=10)
        theirs = timm.models.convnext.ConvNeXt(
            depths=depths, dims=channels, use_grn=use_grn, ls_init_value=None if use_grn else 1e-6, num_classes=10
        )
    state = random_state(ours)
    assert not ours.load_state_dict(state, assign=True).missing_keys
    state = {timm_name(name): tensor for name, tensor in state.items()}
    theirs.load_state_dict(state, assign=True)

    images = torch.randn(2, 3, 64, 64)
    maps = []
    ours.backbone.register_forward_hook(lambda module, inputs, outputs: maps.extend(outputs))
    logits = ours.train()(images)
    last, features = theirs.train().forward_intermediates(images)
    maps, features = [*maps, logits], [*features, theirs.forward_head(last)]
    weights = [torch.randn_like(feature) for feature in features]
    for map_, feature in zip(maps, features, strict=True):
        assert relative_error(map_, feature) < TOLERANCE
    our_loss = sum((w * m).sum() for w, m in zip(weights, maps, strict=True))
    their_loss = sum((w * f).sum() for w, f in zip(weights, features, strict=True))
    our_gradients = dict(
        zip(dict(ours.named_parameters()), torch.autograd.grad(our_loss, [*ours.parameters()]), strict=True)
    )
    names = [timm_name(name) for name in our_gradients]
    parameters = dict(theirs.named_parameters())
    their_gradients = torch.autograd.grad(their_loss, [parameters[name] for name in names])
    errors = {
        name: relative_error(ours, theirs)
        for (name, ours), theirs in zip(our_gradients.items(), their_gradients, strict=True)
    }
    assert max(errors.values()) < TOLERANCE, max(errors, key=errors.get)


def test_output_norms_are_layer_norms_over_the_channels():
    torch.manual_seed(0)
    backbone = ConvNeXt('atto').double()
    for i in range(4):
        nn.init.normal_(getattr(backbone, f'norm{i}').weight)
        nn.init.normal_(getattr(backbone, f'norm{i}').bias)
    images = torch.randn(2, 3, 96, 64, dtype=torch.float64)
    normed = backbone(images)
    backbone.out_norm = False
    for i, (out, raw) in enumerate(zip(normed, backbone(images), strict=True)):
        norm = getattr(backbone, f'norm{i}')
        mean, variance = raw.mean(1, keepdim=True), raw.var(1, keepdim=True, unbiased=False)
        expected = (raw - mean) / (variance + 1e-6).sqrt() * norm.weight[:, None, None] + norm.bias[:, None, None]
        torch.testing.assert_close(out, expected)
