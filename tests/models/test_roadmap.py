"""The steps from ResNet to ConvNeXt: the first equals torchvision's, the last ours; costs of all match the paper."""

import json
import re
from collections.abc import Sequence

import pytest
import torch
from conftest import REPOSITORY, refusal, run_tool
from families import randomized
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from PIL import Image
from test_parity import TOLERANCE, relative_error
from torch import Tensor
from torchvision.models.resnet import Bottleneck, ResNet

from convnext_backbone import (
    ArgumentError,
    CheckpointMismatch,
    ConvNeXt,
    ImageClassifier,
    ModernizedResNet,
    load_backbone,
)
from convnext_backbone.analysis.complexity import count_complexity
from convnext_backbone.analysis.roadmap import count_step, read_published
from convnext_backbone.models.modernized_resnet import DESIGNS, REGIMES, STEPS

PUBLISHED = read_published(REPOSITORY / 'configs')
ENDS = dict(r50=((3, 4, 6, 3), 'tiny'), r200=((3, 24, 36, 3), 'base'))
# torchvision's names, and ours.
IN_TORCHVISION = (
    ('conv1', 'downsample_layers.0.0'),
    ('bn1', 'downsample_layers.0.1'),
    (r'layer(\d)\.(\d+)\.downsample', r'stages.\1.\2.shortcut'),
    (r'layer(\d)\.(\d+)\.conv1', r'stages.\1.\2.pwconv1'),
    (r'layer(\d)\.(\d+)\.conv2', r'stages.\1.\2.dwconv'),
    (r'layer(\d)\.(\d+)\.conv3', r'stages.\1.\2.pwconv2'),
    (r'layer(\d)\.(\d+)\.bn1', r'stages.\1.\2.norm1'),
    (r'layer(\d)\.(\d+)\.bn2', r'stages.\1.\2.norm'),
    (r'layer(\d)\.(\d+)\.bn3', r'stages.\1.\2.norm2'),
)


def renamed(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Weights of torchvision's ResNet by our names."""
    ours = {}
    for name, tensor in state.items():
        for pattern, replacement in IN_TORCHVISION:
            if match := re.match(pattern, name):
                name = match.expand(replacement) + name[match.end() :]
                break
        name = re.sub(r'stages\.(\d)', lambda found: f'stages.{int(found[1]) - 1}', name)
        ours[name] = tensor.flatten(1) if 'pwconv' in name else tensor
    return ours


def assert_close(maps: Sequence[Tensor], others: Sequence[Tensor]) -> None:
    for one, other in zip(maps, others, strict=True):
        assert relative_error(one, other) < TOLERANCE


@pytest.mark.parametrize('regime', ['r50', pytest.param('r200', marks=pytest.mark.slow)])
def test_the_first_step_is_torchvisions_resnet(regime):
    """Maps and the gradient of the stem, in training and evaluation mode of the batch norms."""
    theirs = randomized(ResNet(Bottleneck, ENDS[regime][0])).double()
    ours = ModernizedResNet(regime, 'original', out_norm=False).double()
    state = {name: tensor for name, tensor in renamed(theirs.state_dict()).items() if not name.startswith('fc')}
    ours.load_state_dict(state)
    images = torch.randn(2, 3, 64, 96, dtype=torch.float64)
    for training in (True, False):
        ours.train(training)
        theirs.train(training)
        x, maps = theirs.maxpool(theirs.relu(theirs.bn1(theirs.conv1(images)))), []
        for layer in (theirs.layer1, theirs.layer2, theirs.layer3, theirs.layer4):
            x = layer(x)
            maps.append(x)
        own = ours(images)
        assert_close(own, maps)
        stems = (ours.downsample_layers[0][0].weight, own[-1]), (theirs.conv1.weight, maps[-1])
        found, expected = (torch.autograd.grad(out.square().mean(), weight)[0] for weight, out in stems)
        assert relative_error(found, expected) < TOLERANCE


@pytest.mark.parametrize('regime', ['r50', pytest.param('r200', marks=pytest.mark.slow)])
def test_the_last_step_is_convnext_and_loads_its_checkpoints(regime, tmp_path):
    convnext = randomized(ConvNeXt(ENDS[regime][1]))
    torch.save(convnext.state_dict(), tmp_path / 'convnext.pth')
    ours = ModernizedResNet(regime, 'separate_downsampling')
    report = load_backbone(ours, tmp_path / 'convnext.pth')
    assert len(report.loaded) == len(convnext.state_dict()) == len(ours.state_dict()) and not report.new
    images = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        assert_close(ours(images), convnext(images))


# The last two rows of table 10 differ from ours; table 11 agrees on both steps. A LayerNorm has no more multiply-adds
# than a batch norm, and 4.46 is the value of the last model, a row early.
ODD = {('r50', 'layer_norm'): 4.146, ('r50', 'separate_downsampling'): 4.456}


@pytest.mark.parametrize('step', STEPS)
@pytest.mark.parametrize('regime', REGIMES)
def test_costs_of_every_step_match_the_paper(regime, step):
    gflops, paper = count_step(regime, step).multiply_adds / 1e9, PUBLISHED[regime][step].gflops
    if (regime, step) in ODD:
        assert gflops == pytest.approx(ODD[regime, step], abs=5e-4)
    else:
        assert gflops == pytest.approx(paper, abs=0.0055)  # the paper's own rounding


def test_the_rows_of_the_paper_that_differ():
    """They differ by what our last step changes: the layers between the stages."""
    before, last = (count_step('r50', step).multiply_adds for step in ('layer_norm', 'separate_downsampling'))
    assert count_step('r50', 'fewer_norms').multiply_adds == before
    # A 2x2 convolution replaces the 1x1 shortcut; the 7x7 and the first 1x1 convolution get all channels, not half.
    by_hand = 0
    for channels, side in ((192, 28), (384, 14), (768, 7)):
        half = channels // 2
        new = 4 * half * channels + 49 * channels + 4 * channels * channels
        old = half * channels + 49 * half + 4 * half * channels
        by_hand += side**2 * (new - old)
    assert last - before == by_hand
    assert round(last / 1e9, 2) == PUBLISHED['r50']['layer_norm'].gflops == 4.46


def test_each_step_is_one_change_of_the_design():
    """Apart from the kernel size, which returns to 7, and layer scale, which the paper's final models have."""
    designs = [vars(design) for design in DESIGNS.values()]
    changed = [
        {key for key in after if after[key] != before[key]} for before, after in zip(designs, designs[1:], strict=False)
    ]
    expected = [{'swin_depths'}, {'patchify'}, {'depthwise'}, {'swin_width'}, {'inverted'}, {'spatial_first'}]
    expected += [{'kernel_size'}] * 4 + [{'kernel_size', 'activation'}, {'one_activation'}, {'one_norm'}]
    assert changed == [*expected, {'layer_norm'}, {'separate_downsampling', 'layer_scale'}]
    assert [set(change) for change in STEPS.values()][1:] == changed
    assert list(PUBLISHED['r50']) == list(PUBLISHED['r200']) == list(STEPS)


@pytest.mark.parametrize('step', STEPS)
def test_every_step_works_as_a_backbone(step):
    """Four maps of strides 4 to 32, a gradient for every weight, frozen stages unchanged."""
    model = ModernizedResNet('r50', step, width_factor=0.125, drop_path_rate=0.1, frozen_stages=1)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    maps = model.train()(torch.randn(2, 3, 64, 96))
    assert [tuple(one.shape) for one in maps] == [
        (2, c, 64 // s, 96 // s) for c, s in zip(model.out_channels, (4, 8, 16, 32), strict=True)
    ]
    sum(one.square().sum() for one in maps).backward()
    for name, parameter in model.named_parameters():
        frozen = name.startswith(('downsample_layers.0', 'stages.0'))
        assert (parameter.grad is None) == frozen, name
        if frozen:
            assert parameter.equal(before[name])
    for name, buffer in model.named_buffers():
        assert buffer.equal(before[name]) == name.startswith(('downsample_layers.0', 'stages.0')), name


def test_maps_are_the_same_in_either_memory_format_and_with_activation_checkpointing():
    model = randomized(ModernizedResNet('r50', 'layer_norm', width_factor=0.125))
    again = ModernizedResNet('r50', 'layer_norm', width_factor=0.125, with_cp=True)
    again.load_state_dict(model.state_dict())
    images = torch.randn(2, 3, 64, 64)
    plain = model(images)
    assert all(one.is_contiguous() for one in plain)
    assert_close(model(images.contiguous(memory_format=torch.channels_last)), plain)
    recomputed = again(images)
    assert_close(recomputed, plain)
    for maps in (plain, recomputed):
        sum(one.square().sum() for one in maps).backward()
    for (name, one), other in zip(model.named_parameters(), again.parameters(), strict=True):
        assert (one.grad - other.grad).norm() <= 1e-5 * one.grad.norm(), name


@pytest.mark.parametrize('step', ['original', 'kernel_7', 'layer_norm'])
def test_a_backbone_loads_a_checkpoint_of_a_classifier(step, tmp_path):
    """With statistics and counters of batch norms; before the last step there is no norm after pooling."""
    classifier = ImageClassifier(dict(type='ModernizedResNet', step=step, width_factor=0.125), num_classes=3)
    classifier.train()(torch.randn(2, 3, 64, 64))
    assert isinstance(classifier.norm, torch.nn.Identity)
    torch.save(classifier.state_dict(), tmp_path / 'classifier.pth')
    backbone = ModernizedResNet('r50', step, width_factor=0.125, out_norm=False)
    backbone.init_cfg = dict(type='Pretrained', checkpoint=str(tmp_path / 'classifier.pth'))
    backbone.init_weights()
    expected = classifier.backbone.state_dict()
    assert backbone.state_dict().keys() == expected.keys()
    assert all(tensor.equal(expected[name]) for name, tensor in backbone.state_dict().items())


def test_a_checkpoint_of_another_step_is_refused(tmp_path):
    torch.save(ModernizedResNet('r50', 'move_up', width_factor=0.125).state_dict(), tmp_path / 'move_up.pth')
    with pytest.raises(CheckpointMismatch, match='ModernizedResNet of') as caught:
        load_backbone(ModernizedResNet('r50', 'kernel_5', width_factor=0.125), tmp_path / 'move_up.pth')
    assert 'config line' not in str(caught.value)  # which would be one of a ConvNeXt


@pytest.mark.parametrize(
    ('arguments', 'named'),
    [
        (dict(step='width_'), ["'width_'", ', '.join(STEPS)]),
        (dict(regime='r101'), ["'r101'", 'r50, r200']),
        (dict(width_factor=0.3), ['0.3', '28.8']),
        (dict(width_factor=0), ['width_factor=0']),
        (dict(out_indices=(4,)), ['out_indices']),
    ],
)
def test_invalid_arguments_raise(arguments, named):
    with pytest.raises(ArgumentError) as caught:
        ModernizedResNet(**arguments)
    assert all(word in str(caught.value) for word in named)


@pytest.mark.parametrize('name', ['mask_rcnn_convnext_t_coco', 'upernet_convnext_t_ade20k'])
def test_a_step_works_in_a_detector_and_a_segmentor(name):
    """Counting multiply-adds runs the whole model."""
    cfg = Config.fromfile(REPOSITORY / f'configs/{name}.py')
    convnext = count_complexity(cfg, (256, 256))
    cfg.model.backbone = dict(type='ModernizedResNet', regime='r50', step='separate_downsampling')
    assert count_complexity(cfg, (256, 256)).total == convnext.total
    cfg.model.backbone.step = 'kernel_7'
    assert count_complexity(cfg, (256, 256)).total.multiply_adds < convnext.total.multiply_adds


@pytest.mark.parametrize('regime', REGIMES)
def test_configs_are_the_imagenet_recipe_without_averaged_weights(regime):
    published = {'r50': ('pretrain_convnext_t_imagenet', 0.1), 'r200': ('pretrain_convnext_b_imagenet', 0.5)}
    name, drop_path = published[regime]
    recipe = Config.fromfile(REPOSITORY / f'configs/{name}.py')
    assert recipe.model.backbone.drop_path_rate == drop_path
    folder = REPOSITORY / f'configs/roadmap/{regime}'
    assert {path.stem for path in folder.glob('*.py')} == set(STEPS)
    for step in STEPS:
        cfg = Config.fromfile(folder / f'{step}.py')
        assert cfg.model.backbone == dict(type='ModernizedResNet', regime=regime, step=step, drop_path_rate=drop_path)
        assert 'AveragedWeightsHook' not in {hook.type for hook in cfg.custom_hooks}
        assert [*cfg.custom_hooks, recipe.custom_hooks[-1]] == recipe.custom_hooks
        for key in ('train_cfg', 'optim_wrapper', 'param_scheduler', 'train_dataloader', 'val_dataloader'):
            assert cfg[key] == recipe[key], key
        assert {**cfg.model, 'backbone': None} == {**recipe.model, 'backbone': None}
        first = (folder / f'{step}.py').read_text().partition('\n')[0]
        assert first.endswith(f'Published: {PUBLISHED[regime][step].top1:.2f} top-1.')


@pytest.mark.parametrize('step', STEPS)
def test_small_configs_have_a_quarter_of_the_width(step):
    cfg = Config.fromfile(REPOSITORY / f'configs/roadmap/small/{step}.py')
    init_default_scope('mmengine')
    with torch.device('meta'):
        model = MODELS.build(cfg.model)
        full = ModernizedResNet('r50', step)
    assert [4 * c for c in model.backbone.channels] == list(full.channels) and model.backbone.depths == full.depths
    assert cfg.model.num_classes == 10


def test_the_tool_prints_and_draws_the_steps(tmp_path, call_tool):
    result = call_tool('roadmap.py', '--repeat', 0, '--json', '--out', 'road.png', cwd=tmp_path)
    rows = json.loads(result.stdout)['rows']
    assert [row['step'] for row in rows] == list(STEPS)
    assert rows[1]['change'] == 'stages of (3, 3, 9, 3) blocks, 64 channels' and rows[-1]['parameters'] == 28_589_128
    assert Image.open(tmp_path / 'road.png').size[0] > 800


def test_two_steps_are_compared_side_by_side(tmp_path, call_tool):
    result = call_tool('roadmap.py', '--describe', 'layer_norm', 'separate_downsampling', cwd=tmp_path)
    lines = result.stdout.splitlines()
    assert lines[0].split() == ['layer_norm', 'separate_downsampling']
    # A layer norm and a convolution of stride 2 between the stages, and no stride in the block that follows.
    assert any(re.fullmatch(r' +> +2x2 conv, 96 -> 192, stride 2', line) for line in lines)
    assert any('7x7 depthwise conv, 96 -> 96, stride 2' in line and '192 -> 192' in line for line in lines)


def test_an_unknown_step_is_one_sentence(tmp_path, call_tool):
    sentence = refusal(call_tool('roadmap.py', '--describe', 'original', 'kernel_8', cwd=tmp_path))
    assert "'kernel_8'" in sentence and ', '.join(STEPS) in sentence
    assert '--data-root' in refusal(call_tool('roadmap.py', '--train-small', cwd=tmp_path))


@pytest.mark.slow
def test_small_runs_are_trained_once(tmp_path, call_tool):
    """The second call finds all runs done."""
    for i in range(90):
        path = tmp_path / f'data/{"val" if i < 20 else "train"}/{i % 10}/{i}.png'
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new('RGB', (32, 32), (i, 25 * (i % 10), 0)).save(path)
    command = ['roadmap.py', '--train-small', '--data-root', 'data', '--steps', 'gelu', '--seeds', 1]
    first = run_tool(*command, '--json', cwd=tmp_path)
    assert first.returncode == 0, first.stderr[-2000:]
    rows = json.loads(first.stdout)['rows']
    assert [row['step'] for row in rows] == ['gelu'] and 0 <= rows[0]['mean'] <= 100
    checkpoint = tmp_path / 'work_dirs/roadmap_small/gelu/seed_0/epoch_12.pth'
    written = checkpoint.stat().st_mtime_ns
    again = call_tool(*command, '--out', 'road.png', cwd=tmp_path)
    assert again.stdout.splitlines()[-1].split() == ['gelu', f'{rows[0]["mean"]:.1f}', '0.0', f'{rows[0]["mean"]:.1f}']
    assert checkpoint.stat().st_mtime_ns == written and Image.open(tmp_path / 'road.png').size[0] > 400


def test_a_failed_small_run_names_its_log(tmp_path, call_tool):
    result = call_tool(
        'roadmap.py', '--train-small', '--data-root', tmp_path / 'none', '--steps', 'gelu', '--seeds', 1, cwd=tmp_path
    )
    assert 'gelu/seed_0/output.log' in refusal(result) and 'none' in refusal(result)
