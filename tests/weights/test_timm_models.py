"""Every ConvNeXt that timm registers loads and computes the same, or is refused by its right name: docs/weights.md.

``PYTHONPATH=tests python tests/weights/test_timm_models.py`` prints the table of that page.
"""

import re
from collections import defaultdict
from unittest import mock

import pytest
import timm
import torch
from conftest import REPOSITORY
from families import IMAGES, randomized
from mmengine.registry import MODELS
from timm.models.convnext import ConvNeXt as TimmConvNeXt

from convnext_backbone import CheckpointMismatch
from convnext_backbone.weights import detect
from convnext_backbone.weights.infer_arch import Architecture
from convnext_backbone.weights.load import fill_backbone

NAMES = timm.list_models('*convnext*')
# These have another eps in their norms, and all but the first another activation; neither is written in a file.
OTHER_FUNCTION = {'convnext_xxlarge': 1e-4, 'test_convnext': 3e-4, 'test_convnext2': 3e-4}


def load(name: str) -> tuple[str, dict]:
    """What becomes of a model's weights, and the arguments that build it here; without memory for them."""
    with torch.device('meta'):
        state = timm.create_model(name).state_dict()
        with mock.patch.object(detect, 'check_plain'):
            arch = Architecture.of(detect.choose_backbone(state, name).tensors)
            model = MODELS.build(dict(type=arch.model, **(arch.arguments() or dict(arch='atto')), out_norm=False))
            try:
                fill_backbone(model, state, name)
            except CheckpointMismatch as error:
                assert str(error).endswith(f'\nNo backbone of this package has {arch.unlike}.')
                return f'refused: {arch.unlike}', {}
    return f'`{", ".join(f"{key}={value!r}" for key, value in arch.arguments().items())}`', arch.arguments()


def table() -> str:
    models = defaultdict(list)
    for name in NAMES:
        models[load(name)[0]].append(f'`{name}`')
    rows = [f'| {", ".join(names)} | {outcome} |' for outcome, names in models.items()]
    return '\n'.join(['| model of timm | here |', '| --- | --- |', *rows])


@pytest.mark.parametrize('name', NAMES)
def test_a_model_loads_or_is_refused_as_the_table_says(name):
    rows = re.findall(r'^\| (`.*`) \| (.*) \|$', (REPOSITORY / 'docs/weights.md').read_text(), re.MULTILINE)
    (outcome,) = [outcome for names, outcome in rows if f'`{name}`' in names.split(', ')]
    assert outcome == load(name)[0]


@pytest.mark.parametrize(
    'name', ['convnext_pico', 'convnext_tiny_hnf', 'convnextv2_atto', 'test_convnext', 'test_convnext2']
)
def test_what_loads_computes_the_same(name):
    """Of each kind one; tests/models/test_parity.py has all sizes."""
    _, arguments = load(name)
    theirs = randomized(timm.create_model(name))
    model = MODELS.build(dict(type='ConvNeXt', **arguments, out_norm=False)).eval()
    fill_backbone(model, theirs.state_dict(), name)
    with torch.no_grad():
        assert_close(model(IMAGES), theirs.forward_intermediates(IMAGES, intermediates_only=True), name)


def test_another_eps_is_hardly_seen():
    """convnext_xxlarge takes minutes: a small one in its place."""
    sizes = dict(depths=(1, 1, 2, 1), channels=(8, 16, 24, 32))
    theirs = randomized(TimmConvNeXt(depths=sizes['depths'], dims=sizes['channels'], norm_eps=1e-5))
    model = MODELS.build(dict(type='ConvNeXt', arch=sizes, out_norm=False)).eval()
    fill_backbone(model, theirs.state_dict(), 'x')
    with torch.no_grad():
        assert_close(model(IMAGES), theirs.forward_intermediates(IMAGES, intermediates_only=True), 'convnext_xxlarge')


def assert_close(ours, theirs, name: str) -> None:
    for own, other in zip(ours, theirs, strict=True):
        assert (own - other).norm() <= OTHER_FUNCTION.get(name, 1e-5) * other.norm()


if __name__ == '__main__':
    print(table())
