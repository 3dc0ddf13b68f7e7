"""Conversion between all weights formats: bit-exact round trips, and strict loading by the libraries themselves."""

import json
import pickle
import re
import resource

import pytest
import torch
from conftest import refusal, run_tool
from families import FAMILIES, IMAGES, WRITTEN, Code, randomized, transformers_model, written
from torch import Tensor, nn

from convnext_backbone import (
    ArgumentError,
    CheckpointError,
    CheckpointMismatch,
    ConvNeXt,
    load_backbone,
    read_checkpoint,
)
from convnext_backbone.weights.convert import TARGETS, check_target, convert_checkpoint, write_checkpoint
from convnext_backbone.weights.detect import choose_backbone


def convert(source, target, to: str, **arguments) -> dict[str, Tensor]:
    """Convert a file to another, and read that."""
    tensors, _ = convert_checkpoint(source, to, **arguments)
    write_checkpoint(tensors, target, to)
    stored = read_checkpoint(target)
    return stored.get('model', stored.get('state_dict', stored))


def assert_same(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    assert one.keys() == other.keys()
    assert [name for name in one if not torch.equal(one[name], other[name])] == []


def make(family: str) -> nn.Module:
    """A library's own model with random weights."""
    if family == 'ConvNextV2Backbone':
        return transformers_model(family)[0]
    _, maker, arguments = FAMILIES[family]
    return maker(**arguments)[0]


@pytest.mark.parametrize('suffix', ['.pth', '.safetensors'])
@pytest.mark.parametrize(
    'family',
    [
        'timm V1',
        'timm V2',
        'timm norm first',
        'torchvision',
        'ConvNextModel',
        'ConvNextForImageClassification',
        'ConvNextBackbone',
        'ConvNextV2Model',
        'ConvNextV2ForImageClassification',
        'ConvNextV2Backbone',
    ],
)
def test_round_trip_of_a_librarys_file_is_bit_exact_and_loads_strictly(family, suffix, tmp_path):
    library = next(name for name in ('timm', 'torchvision', 'transformers') if name in family or name == 'transformers')
    model = make(family)
    torch.save(model.state_dict(), tmp_path / 'theirs.pth')
    canonical = convert(tmp_path / 'theirs.pth', tmp_path / f'canonical{suffix}', 'canonical')
    assert canonical.keys().isdisjoint(model.state_dict())
    back = convert(tmp_path / f'canonical{suffix}', tmp_path / f'back{suffix}', library)
    assert_same(back, model.state_dict())
    make(family).load_state_dict(back, strict=True)


@pytest.mark.parametrize('to', TARGETS)
@pytest.mark.parametrize('family', [*FAMILIES, *WRITTEN])
def test_conversion_between_all_weights_formats(family, to, tmp_path):
    source = tmp_path / 'source.pth'
    torch.save(written(family)[1] if family in WRITTEN else make(family).state_dict(), source)
    if ('V2' in family and to in ('torchvision', 'dinov3')) or (
        family == 'timm norm first' and to not in ('timm', 'canonical')
    ):
        with pytest.raises(CheckpointMismatch, match=f'{to} has no such ConvNeXt'):
            convert_checkpoint(source, to)
        return
    convert(source, tmp_path / 'other.pth', to)
    before = choose_backbone(read_checkpoint(source), 'source').tensors
    after = choose_backbone(read_checkpoint(tmp_path / 'other.pth'), 'other').tensors
    if to == 'mmpretrain' and 'norm.weight' in before and 'head.weight' not in before:
        # Without a head, its names do not distinguish the norm after pooling from that of the last stage.
        after = {name.replace('norm3.', 'norm.'): tensor for name, tensor in after.items()}
    lost = {name.split('.')[0] for name in before.keys() - after.keys()}
    allowed = {'head'} if to == 'dinov3' else set()
    if family in ('ConvNextBackbone', 'canonical'):
        allowed |= {f'norm{i}' for i in range(4)}
    assert lost <= allowed
    assert_same(after, {name: before[name] for name in after})


def timm_classifier(name: str):
    import timm

    return randomized(timm.create_model(name))


@pytest.mark.parametrize(
    'name',
    [f'convnext{version}_{arch}' for version in ('', 'v2') for arch in ('atto', 'femto', 'pico', 'nano')],
)
def test_converted_files_fit_timms_models(name, tmp_path):
    """Some of them have 1x1 convolutions instead of linear layers."""
    import timm

    source = timm_classifier(name)
    torch.save(source.state_dict(), tmp_path / 'a.pth')
    convert(tmp_path / 'a.pth', tmp_path / 'b.safetensors', 'official')
    target = timm.create_model(name)
    target.load_state_dict(convert(tmp_path / 'b.safetensors', tmp_path / 'c.safetensors', 'timm'), strict=True)
    assert_same(target.state_dict(), source.state_dict())


@torch.no_grad()
def test_a_classifier_gives_the_same_logits_in_each_library(tmp_path):
    from torchvision.models import convnext_tiny
    from transformers import ConvNextConfig, ConvNextForImageClassification

    source = timm_classifier('convnext_tiny')
    torch.save(source.state_dict(), tmp_path / 'timm.pth')
    others = dict(
        torchvision=convnext_tiny(), transformers=ConvNextForImageClassification(ConvNextConfig(num_labels=1000))
    )
    for to, model in others.items():
        model.load_state_dict(convert(tmp_path / 'timm.pth', tmp_path / f'{to}.pth', to), strict=True)
        logits = model.eval()(IMAGES)
        logits, expected = getattr(logits, 'logits', logits), source(IMAGES)
        assert (logits - expected).norm() <= 1e-5 * expected.norm()


def classifier(use_grn: bool) -> dict[str, Tensor]:
    """A classifier in canonical names and layout."""
    backbone = written('official V2' if use_grn else 'official')[0].state_dict()
    return backbone | {
        'norm.weight': torch.randn(32), 'norm.bias': torch.randn(32),
        'head.weight': torch.randn(5, 32), 'head.bias': torch.randn(5),
    }  # fmt: skip


def as_official(name: str, tensor: Tensor) -> tuple[str, Tensor]:
    """facebookresearch/ConvNeXt and ConvNeXt-V2: GRN's vectors are (1, 1, 1, 4C)."""
    return name, tensor[None, None, None] if '.grn.' in name else tensor


def as_mmpretrain(name: str, tensor: Tensor) -> tuple[str, Tensor]:
    """An ImageClassifier of mmpretrain: models/backbones/convnext.py, LinearClsHead."""
    if name.startswith('head.'):
        return name.replace('head.', 'head.fc.'), tensor
    name = re.sub(r'^norm\.', 'norm3.', name)
    return 'backbone.' + name.replace('dwconv', 'depthwise_conv').replace('pwconv', 'pointwise_conv'), tensor


@pytest.mark.parametrize('use_grn', [False, True])
@pytest.mark.parametrize(('to', 'write'), [('official', as_official), ('mmpretrain', as_mmpretrain)])
def test_names_and_shapes_match_libraries_that_are_not_installed(to, write, use_grn, tmp_path):
    own = classifier(use_grn)
    torch.save(own, tmp_path / 'own.pth')
    theirs = convert(tmp_path / 'own.pth', tmp_path / 'theirs.pth', to)
    assert_same(theirs, dict(write(name, tensor) for name, tensor in own.items()))
    assert_same(convert(tmp_path / 'theirs.pth', tmp_path / 'back.pth', 'canonical'), own)


def test_a_dinov3_file_has_two_copies_of_the_norm_and_no_head(tmp_path):
    """facebookresearch/dinov3, models/convnext.py: `norms.3` is `norm`; the head is an identity."""
    own = classifier(use_grn=False)
    torch.save(own, tmp_path / 'own.pth')
    expected = {name: tensor for name, tensor in own.items() if not name.startswith('head.')}
    expected |= {f'norms.3.{kind}': own[f'norm.{kind}'] for kind in ('weight', 'bias')}
    assert_same(convert(tmp_path / 'own.pth', tmp_path / 'theirs.safetensors', 'dinov3'), expected)
    _, report = convert_checkpoint(tmp_path / 'own.pth', 'dinov3')
    assert report.dropped == ['head.bias', 'head.weight'] and report.classes == 5


@pytest.mark.parametrize('to', ['mmpretrain', 'official', 'transformers'])
def test_the_backbone_of_a_detector_keeps_its_norms(to, tmp_path):
    own = randomized(ConvNeXt('atto')).state_dict()
    stored = {f'backbone.{name}': tensor for name, tensor in own.items()} | {'neck.weight': torch.ones(1)}
    torch.save(dict(state_dict=stored), tmp_path / 'detector.pth')
    tensors, report = convert_checkpoint(tmp_path / 'detector.pth', to)
    write_checkpoint(tensors, tmp_path / 'theirs.pth', to)
    assert report.dropped == ['neck.weight'] and report.classes is None
    backbone = ConvNeXt('atto')
    assert not load_backbone(backbone, tmp_path / 'theirs.pth').new
    assert_same(backbone.state_dict(), own)


def test_averaged_weights_are_converted_on_request(tmp_path):
    own = classifier(use_grn=False)
    averaged = {name: 2 * tensor for name, tensor in own.items()}
    torch.save(dict(model=own, model_ema=averaged), tmp_path / 'both.pth')
    for ema, expected in ((False, own), (True, averaged)):
        assert_same(convert_checkpoint(tmp_path / 'both.pth', ema=ema)[0], expected)
    assert_same(convert_checkpoint(tmp_path / 'both.pth', prefix='model.')[0], own)


def test_conversion_to_half_precision_rounds_and_refuses_overflow(tmp_path):
    own = classifier(use_grn=False)
    torch.save(own, tmp_path / 'own.pth')
    tensors, report = convert_checkpoint(tmp_path / 'own.pth', half=True)
    assert report.dtype == 'float16'
    assert_same(tensors, {name: tensor.half() for name, tensor in own.items()})
    own['stages.0.0.norm.weight'][3] = 1e5
    torch.save(own, tmp_path / 'large.pth')
    with pytest.raises(CheckpointMismatch, match='stages.0.0.norm.weight has values beyond the range of fp16'):
        convert_checkpoint(tmp_path / 'large.pth', half=True)


@pytest.mark.parametrize('name', ['stages.2.1.pwconv1.bias', 'downsample_layers.1.0.weight'])
def test_an_incomplete_file_is_not_converted(name, tmp_path):
    own = classifier(use_grn=False)
    del own[name]
    torch.save(own, tmp_path / 'own.pth')
    with pytest.raises(CheckpointMismatch, match=rf'(?s)not complete; nothing was converted.*missing: {name}'):
        convert_checkpoint(tmp_path / 'own.pth')


@pytest.mark.parametrize('change', ['removed', 'empty'])
@pytest.mark.parametrize('name', ['downsample_layers.0.0.weight', 'stages.2.0.dwconv.weight'])
def test_a_file_without_the_width_of_a_stage_is_not_converted(name, change, tmp_path):
    """An empty tensor may claim any width."""
    own = classifier(use_grn=False)
    del own[name]
    if change == 'empty':
        own[name] = torch.empty(2**40, 3, 0, 0)
    torch.save(own, tmp_path / 'own.pth')
    with pytest.raises(CheckpointMismatch, match=r'V1\) is not a complete ConvNeXt: convert one that is'):
        convert_checkpoint(tmp_path / 'own.pth')


def test_an_unknown_suffix_is_refused():
    with pytest.raises(ArgumentError, match=r'x.onnx names no file format: take one of .safetensors, .pth'):
        check_target('x.onnx')


@pytest.fixture
def own(tmp_path):
    torch.save(classifier(use_grn=False), tmp_path / 'own.pth')
    return tmp_path / 'own.pth'


def test_the_tool_converts_and_prints_a_report(own, tmp_path):
    report = run_tool('convert_checkpoint.py', 'own.pth', 'out/theirs.safetensors', '--to', 'timm', cwd=tmp_path)
    assert report.returncode == 0, report.stderr
    lines = report.stdout.splitlines()
    assert lines[0].startswith(
        'Checkpoint own.pth (depths [1, 1, 2, 1], channels [8, 16, 24, 32], V1, 3 input channels, '
    )
    assert lines[-2].endswith(
        "backbone=dict(type='ConvNeXt', arch={'depths': [1, 1, 2, 1], 'channels': [8, 16, 24, 32]})"
    )
    assert 'as timm: ' in report.stdout and lines[-1] == 'Written: out/theirs.safetensors'
    assert 'stem.0.weight' in read_checkpoint(tmp_path / 'out/theirs.safetensors')
    again = run_tool('convert_checkpoint.py', 'own.pth', 'out/theirs.safetensors', cwd=tmp_path)
    assert 'out/theirs.safetensors exists already' in refusal(again)


def test_a_dry_run_writes_nothing_and_prints_json(own, tmp_path):
    result = run_tool('convert_checkpoint.py', own, 'new.pth', '--dry-run', '--json', '--half', cwd=tmp_path)
    report = json.loads(result.stdout)
    assert report['dtype'] == 'float16' and report['classes'] == 5 and report['dialect'] == 'official'
    assert report['parameters'] == sum(tensor.numel() for tensor in classifier(use_grn=False).values())
    assert [path.name for path in tmp_path.iterdir()] == ['own.pth']


@pytest.mark.parametrize('suffix', [pytest.param('.pth', marks=pytest.mark.slow), '.safetensors'])
def test_a_full_disk_leaves_nothing_behind(own, tmp_path, suffix):
    def small_files_only() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))

    result = run_tool('convert_checkpoint.py', own, f'new{suffix}', cwd=tmp_path, preexec_fn=small_files_only)
    assert f'new{suffix} cannot be written' in refusal(result)
    assert [path.name for path in tmp_path.iterdir()] == ['own.pth']


def test_only_trust_unpickles_what_could_run_code(tmp_path):
    torch.save(classifier(use_grn=False) | dict(note=Code(tmp_path / 'harm')), tmp_path / 'own.pth')
    refused = run_tool('convert_checkpoint.py', 'own.pth', 'new.pth', cwd=tmp_path)
    assert 'mkdir' in refusal(refused) and '--trust' in refusal(refused)
    assert not (tmp_path / 'harm').exists() and not (tmp_path / 'new.pth').exists()
    trusted = run_tool('convert_checkpoint.py', 'own.pth', 'new.pth', '--trust', cwd=tmp_path)
    assert trusted.returncode == 0 and (tmp_path / 'harm').exists()
    assert_same(read_checkpoint(tmp_path / 'new.pth'), classifier(use_grn=False))


def test_only_trust_reads_a_plain_pickle(tmp_path):
    """As detectron2's model zoo has: arrays of numpy, which Python's pickle wrote."""
    arrays = {f'backbone.bottom_up.{name}': value.numpy() for name, value in classifier(use_grn=False).items()}
    with (tmp_path / 'x.pkl').open('wb') as file:
        pickle.dump(dict(model=arrays, __author__='nobody'), file)
    with pytest.raises(CheckpointError, match='it is a plain pickle, as of detectron2.*--trust'):
        convert_checkpoint(tmp_path / 'x.pkl')
    tensors, _ = convert_checkpoint(tmp_path / 'x.pkl', trust=True)
    assert_same(tensors, classifier(use_grn=False))
    torch.save(dict(model=arrays), tmp_path / 'x.pth')  # which the safe reader reads
    assert_same(convert_checkpoint(tmp_path / 'x.pth')[0], tensors)
