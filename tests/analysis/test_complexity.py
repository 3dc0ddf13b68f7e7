"""Exact: counts equal formulas, other libraries' models and real inference.

Those of the zoo are the papers', within 1 percent of the multiply-adds and half a million of the parameters.
"""

import importlib.metadata
import json
import re

import pytest
import torch
from conftest import REPOSITORY, refusal
from mmengine.config import Config
from mmengine.registry import MODELS
from torch.utils.flop_counter import FlopCounterMode

from convnext_backbone import ARCHS
from convnext_backbone.analysis import complexity
from convnext_backbone.analysis.complexity import Cost, count_complexity, input_shape
from convnext_backbone.analysis.zoo import MARKDOWN_HEAD, count_published, markdown_row, read_zoo
from convnext_backbone.config.load import load_config

CONFIGS = REPOSITORY / 'configs'
PAGE = re.search(r'<!-- zoo -->\n(.*?)\n<!-- /zoo -->', (REPOSITORY / 'docs/zoo.md').read_text(), re.S)[1]
ZOO = read_zoo(CONFIGS)
ONEDL = 'onedl-mmdetection' in importlib.metadata.packages_distributions()['mmdet']
# Half a second each: those that no paper counts run with the slow tests.
ROWS = [pytest.param(model, id=model.name, marks=() if model.gflops else pytest.mark.slow) for model in ZOO]


@pytest.mark.parametrize('model', ROWS)
def test_each_model_costs_what_its_paper_and_the_docs_say(model):
    entry = count_published(model, CONFIGS)
    if model.parameters:
        assert entry.cost.total.parameters / 1e6 == pytest.approx(model.parameters, abs=0.5)
    if model.gflops:
        assert entry.cost.total.multiply_adds / 1e9 == pytest.approx(model.gflops, rel=0.01)
        assert abs(entry.difference) <= 1
    if not (ONEDL and model.name.startswith('dino')):  # whose queries know boxes by twice the numbers
        assert markdown_row(entry) in PAGE.splitlines()


def test_the_zoo_is_all_configs():
    assert len({model.name for model in ZOO}) == len(ZOO)
    assert [model.config for model in ZOO] == [f'configs/{model.name}.py' for model in ZOO]
    assert {REPOSITORY / model.config for model in ZOO} == {*CONFIGS.glob('*.py')}


def test_what_no_paper_scores_or_counts_is_ours_or_pretraining_on_22k_or_without_labels():
    """But for fine-tuning of T and S at 384 pixels, of which no multiply-adds are published."""
    ours = {model.name for model in ZOO if model.ours}
    pretraining = {path.stem for name in ('*_imagenet22k', 'fcmae_*') for path in CONFIGS.glob(f'{name}.py')}
    assert {model.name for model in ZOO if not model.score} == ours | pretraining
    assert {model.name for model in ZOO if not model.parameters} == ours | pretraining
    small = {f'finetune_convnext_{size}_22k_384_imagenet' for size in 'ts'}
    assert {model.name for model in ZOO if not model.gflops} == ours | pretraining | small


def test_the_docs_have_the_zoo_in_its_order_and_nothing_else():
    head, rows = PAGE.splitlines()[:2], PAGE.splitlines()[2:]
    assert '\n'.join(head) == MARKDOWN_HEAD
    assert [re.match(r'\| \[(\w+)\]', row)[1] for row in rows] == [model.name for model in ZOO]


def classifier(size: int, **backbone) -> complexity.Complexity:
    model = dict(type='ImageClassifier', backbone=dict(type='ConvNeXt', **backbone))
    return count_complexity(Config(dict(default_scope='mmengine', model=model)), (size, size))


@pytest.mark.parametrize('arch', ['tiny', 'atto'])
def test_a_classifier_costs_what_the_formula_says(arch):
    depths, channels = ARCHS[arch]
    side, before, multiply_adds = 224 // 4, 3 * (4 // 2) ** 2, 0  # the stem is a 2x2 patch of 2x2 patches of colours
    for depth, c in zip(depths, channels, strict=True):
        multiply_adds += side**2 * (before * 2 * 2 * c + depth * (7 * 7 * c + c * 4 * c + 4 * c * c))
        side, before = side // 2, c
    cost = classifier(224, arch=arch)
    assert cost.total.multiply_adds == multiply_adds + channels[-1] * 1000
    assert cost.parts['head'] == Cost((channels[-1] + 1) * 1000, channels[-1] * 1000)


@pytest.mark.parametrize(
    ('arch', 'use_grn', 'name'), [('tiny', False, 'convnext_tiny'), ('atto', True, 'convnextv2_atto')]
)
def test_a_classifier_costs_what_timms_does(arch, use_grn, name):
    import timm

    with torch.device('meta'):
        model = timm.create_model(name).eval()
        with FlopCounterMode(display=False) as counter:
            model(torch.empty(1, 3, 256, 192))
    model_cfg = dict(type='ImageClassifier', backbone=dict(type='ConvNeXt', arch=arch, use_grn=use_grn))
    total = count_complexity(Config(dict(default_scope='mmengine', model=model_cfg)), (256, 192)).total
    assert total == Cost(sum(p.numel() for p in model.parameters()), counter.get_total_flops() // 2)


COLOURS = 3 + 3  # buffers: mean and standard deviation of each


def test_the_activation_memory_of_a_classifier_is_what_the_formula_says():
    """A norm keeps its input and two statistics, a block its input and the output of its depthwise convolution.

    The downsampling layers keep a copy of their weights, channels last, for a batch of two images.
    """
    depths, channels = ARCHS['tiny']
    kept, statistics = 3 * 224**2, 2
    for i, (depth, c) in enumerate(zip(depths, channels, strict=True)):
        area = (224 // 4 // 2**i) ** 2
        stem_or_downsampling = area * (c + statistics) if i == 0 else 4 * area * (c // 2 + c // 2 + statistics)
        kept += stem_or_downsampling + depth * area * (c + c)
        kept += 0 if i == 0 else 2 * 2 * c // 2 * c // 2
    cost = classifier(224, arch='tiny')
    kept += channels[-1] + statistics + channels[-1]  # the norm and the input of the linear layer
    assert cost.memory == ((224, 224), 4 * (4 * cost.total.parameters + COLOURS), 4 * kept)


def test_frozen_stages_need_no_activation_memory():
    learning, frozen = classifier(64, arch='atto'), classifier(64, arch='atto', frozen_stages=4)
    assert frozen.memory.image < learning.memory.image / 50
    learnt = learning.parts['head'].parameters + learning.parts['norm'].parameters
    assert frozen.memory.model == 4 * (learning.total.parameters + 3 * learnt + COLOURS)


def small_segmentor() -> Config:
    options = {'model.backbone.arch': 'atto', 'model.backbone.init_cfg': None, 'model.decode_head.channels': 32}
    options |= {'model.decode_head.in_channels': [40, 80, 160, 320], 'model.auxiliary_head.in_channels': 160}
    return load_config(CONFIGS / 'upernet_convnext_t_ade20k.py', cfg_options=options)


def test_the_activation_memory_of_a_segmentor_is_that_of_real_training():
    """On two crops, not on the image that is tested."""
    cfg = small_segmentor()
    cfg.model.data_preprocessor.size = (64, 96)
    cfg.model.backbone.drop_path_rate = 0.0  # what is dropped is not kept
    with MODELS.switch_scope_and_registry('mmseg') as registry:
        model = registry.build(cfg.model).train()
    kept = {}
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.setdefault(t.data_ptr(), t), lambda t: t):
        maps = model.backbone(torch.zeros(2, 3, 64, 96))
        outputs = model.decode_head(maps), model.auxiliary_head(maps)
    own = {tensor.data_ptr() for tensor in (*model.parameters(), *model.buffers())}
    nbytes = sum(tensor.untyped_storage().nbytes() for address, tensor in kept.items() if address not in own)
    memory = count_complexity(cfg).memory
    assert outputs and memory.shape == (64, 96) and memory.image == pytest.approx(nbytes / 2, rel=0.01)


def test_the_activation_memory_of_a_cascade_is_that_of_the_regions_that_it_samples():
    """512 an image for each box head, at most a quarter of them for each mask head."""
    cfg = load_config(CONFIGS / 'cascade_convnext_t_coco.py')
    whole = count_complexity(cfg, (64, 64)).memory.image
    for stage in cfg.model.train_cfg.rcnn:
        stage.sampler.num //= 2
    # Four convolutions keep their input, that of their norm, and the first linear layer its activation; those of the
    # mask head, without a norm, their input, the last one upsampled.
    box, mask = 7 * 7 * 256 * (1 + 2 * 4) + 1024, 256 * (14 * 14 * (1 + 4) + 28 * 28)
    assert whole - count_complexity(cfg, (64, 64)).memory.image == 4 * 3 * (256 * box + 64 * mask)


def test_images_have_the_channels_that_the_backbone_takes():
    colours, grey = (classifier(64, arch='atto', in_channels=channels).total for channels in (3, 1))
    assert colours.multiply_adds - grey.multiply_adds == 16 * 16 * 2 * 4 * 4 * 40


def test_a_cascade_costs_what_the_formulas_say():
    """Neck and heads of the paper's detectors at 1280x800, with 1000 proposals and 100 detections."""
    cfg = load_config(CONFIGS / 'cascade_convnext_t_coco.py')
    cost, width = count_complexity(cfg), 256
    maps = [200 * 320, 100 * 160, 50 * 80, 25 * 40, 13 * 20]
    lateral = sum(area * c * width for area, c in zip(maps, (96, 192, 384, 768), strict=False))
    convolution = 3 * 3 * width * width
    box_head = 7 * 7 * 4 * convolution + 7 * 7 * width * 1024 + 1024 * (81 + 4 * 80)
    mask_head = 14 * 14 * (4 * convolution + 2 * 2 * width * width) + 28 * 28 * width * 80
    assert cost.shape == (800, 1280)
    assert {name: part.multiply_adds for name, part in cost.parts.items() if name != 'backbone'} == {
        'neck': lateral + sum(maps[:4]) * convolution,
        'rpn_head': sum(maps) * (convolution + width * 3 * (1 + 4)),
        'roi_head.bbox_head': 3 * 1000 * box_head,
        'roi_head.mask_head': 3 * 100 * mask_head,
    }
    assert cost.total == Cost(*(sum(numbers) for numbers in zip(*cost.parts.values(), strict=True)))
    cfg.model.test_cfg.rpn.max_per_img, cfg.model.test_cfg.rcnn.max_per_img = 300, 50
    fewer = count_complexity(cfg, (64, 64)).parts
    assert fewer['roi_head.bbox_head'].multiply_adds == 3 * 300 * box_head
    assert fewer['roi_head.mask_head'].multiply_adds == 3 * 50 * mask_head


def test_a_segmentor_costs_what_real_inference_does():
    cfg = small_segmentor()
    cost = count_complexity(cfg, (64, 96))
    with MODELS.switch_scope_and_registry('mmseg') as registry:
        model = registry.build(cfg.model).eval()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(torch.zeros(1, 3, 64, 96), mode='tensor')
    assert cost.total == Cost(sum(p.numel() for p in model.parameters()), counter.get_total_flops() // 2)
    assert cost.parts['auxiliary_head'].parameters > 0 == cost.parts['auxiliary_head'].multiply_adds


RETINANET = """
_base_ = ['mmdet::_base_/models/retinanet_r50_fpn.py', 'mmdet::_base_/default_runtime.py']
model = dict(
    backbone=dict(_delete_=True, type='ConvNeXt', arch='atto', out_indices=(1, 2, 3)),
    neck=dict(in_channels=[80, 160, 320], start_level=0),
)
"""


def test_a_detector_of_one_stage_costs_what_real_inference_does(tmp_path):
    (tmp_path / 'retinanet.py').write_text(RETINANET)
    cfg = load_config(tmp_path / 'retinanet.py')
    with MODELS.switch_scope_and_registry('mmdet') as registry:
        model = registry.build(cfg.model).eval()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(torch.zeros(1, 3, 64, 96), mode='tensor')
    assert count_complexity(cfg, (64, 96)).total.multiply_adds == counter.get_total_flops() // 2


@pytest.mark.parametrize(
    ('config', 'shape'),
    [
        ('cascade_convnext_t_coco', (800, 1280)),
        ('demo/cascade_convnext_atto_shapes', (192, 256)),
        ('upernet_convnext_t_ade20k', (512, 2048)),
        ('upernet_convnext_b_22k_ade20k', (640, 2560)),
        ('pretrain_convnext_t_imagenet', (224, 224)),
        ('finetune_convnext_b_384_imagenet', (384, 384)),
    ],
)
def test_the_size_of_the_image_is_that_of_the_test_pipeline(config, shape):
    assert input_shape(load_config(CONFIGS / f'{config}.py')) == shape


def test_no_tensor_is_allocated(monkeypatch):
    tensors = []

    def spy(model, shape):
        tensors.extend([*model.parameters(), *model.buffers()])
        return count(model, shape)

    count = complexity.count_multiply_adds
    monkeypatch.setattr(complexity, 'count_multiply_adds', spy)
    count_complexity(load_config(CONFIGS / 'upernet_convnext_xl_22k_ade20k.py'))
    assert len(tensors) > 400 and {tensor.device.type for tensor in tensors} == {'meta'}


def test_the_tool_counts_from_anywhere_and_fetches_nothing(call_tool, tmp_path):
    config = CONFIGS / 'pretrain_convnext_t_imagenet.py'
    options = ['--shape', 64, 96, '--cfg-options', 'model.backbone.arch=atto', 'model.init_cfg.type=Pretrained']
    options.append(f'model.init_cfg.checkpoint={tmp_path}/missing.pth')
    result = call_tool('complexity.py', config, *options, '--json', cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    report = json.loads(result.stdout)
    assert report['shape'] == [64, 96] and set(report['parts']) == {'backbone', 'norm', 'head'}
    assert report['multiply_adds'] == sum(part['multiply_adds'] for part in report['parts'].values())
    table = call_tool('complexity.py', config, *options, cwd=tmp_path).stdout
    (line,) = re.findall(r'^all .*', table, re.M)
    assert line.split()[1:] == [f'{report["parameters"] / 1e6:.2f}', 'M', f'{report["multiply_adds"] / 1e9:.2f}']


@pytest.mark.parametrize('form', ['text', 'json', 'markdown'])
def test_the_tool_prints_the_zoo(call_tool, monkeypatch, tmp_path, form):
    rows = [m for m in ZOO if m.name in ('pretrain_isotropic_s_imagenet', 'finetune_convnext_v2_atto_imagenet')]
    monkeypatch.setattr('convnext_backbone.analysis.zoo.read_zoo', lambda configs: rows)
    flags = [] if form == 'text' else [f'--{form}']
    result = call_tool('complexity.py', '--zoo', *flags, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    if form == 'text':
        isotropic, atto = result.stdout.splitlines()[2:]
        assert isotropic.split() == ['pretrain_isotropic_s_imagenet', '22.31', '22', '4.29', '4.3', '-0.32', '%']
        assert atto.startswith('finetune_convnext_v2_atto_imagenet ')
    elif form == 'json':
        isotropic, atto = json.loads(result.stdout)
        assert isotropic['parameters'] == 22_308_712
        assert isotropic['published'] == dict(name='pretrain_isotropic_s_imagenet', parameters=22, gflops=4.3)
    else:
        assert result.stdout.splitlines() == [
            *MARKDOWN_HEAD.splitlines(),
            *(markdown_row(count_published(row, CONFIGS)) for row in rows),
        ]


ADE = CONFIGS / 'upernet_convnext_t_ade20k.py'
CASCADE = CONFIGS / 'demo/cascade_convnext_atto_shapes.py'


@pytest.mark.parametrize(
    ('arguments', 'named'),
    [
        ([ADE, '--shape', 0, 512], '--shape 0 512'),
        ([ADE, '--shape', 512, -1], '--shape 512 -1'),
        ([ADE, '--shape', 16, 64], '16x64'),
        ([ADE, '--cfg-options', 'model.decode_head.in_channels=[96,192,384,700]'], 'channel'),
        ([CONFIGS / '_base_/ade20k.py'], 'no model'),
        (['missing.py'], 'missing.py'),
        (['retinanet.py'], '--shape'),
        ([CASCADE, '--cfg-options', 'model.train_cfg=None'], 'train_cfg.rcnn'),
        (['yolact.py', '--shape', 64, 64], 'how mask_head'),
        ([], 'CONFIG or --zoo'),
        ([ADE, '--zoo'], 'CONFIG or --zoo'),
        (['--zoo', '--shape', 64, 64], '--shape'),
        ([ADE, '--markdown'], '--markdown'),
        (['--zoo', '--markdown', '--json'], '--markdown'),
    ],
    ids=lambda value: value if isinstance(value, str) else '',
)
def test_what_cannot_be_counted_is_one_sentence(call_tool, tmp_path, arguments, named):
    (tmp_path / 'retinanet.py').write_text(RETINANET)
    (tmp_path / 'yolact.py').write_text("_base_ = 'mmdet::yolact/yolact_r50_1xb8-55e_coco.py'")
    assert named in refusal(call_tool('complexity.py', *arguments, cwd=tmp_path))


def test_scale_has_the_memory_of_a_recipe_and_times_that_its_products_alone_would_take(call_tool, tmp_path):
    result = call_tool('analysis/scale.py', CONFIGS / 'cascade_convnext_t_coco.py', cwd=tmp_path)
    assert result.returncode == 0, result.stderr[-2000:]
    cost = count_complexity(load_config(CONFIGS / 'cascade_convnext_t_coco.py'))
    rows = [line.strip('| ').split(' | ') for line in result.stdout.splitlines() if line.startswith('| cascade')]
    memory, cards, times = rows
    parts = [float(number) for number in memory[2:]]
    assert memory[1] == '1280x800' and sum(parts[:3]) == pytest.approx(cost.memory.model / 1e9, abs=2e-3)
    assert parts[3] == pytest.approx(cost.memory.image / 1e9, abs=1e-3) and parts[3] > parts[4] > parts[5]
    assert int(cards[1]) == 2 and cards[2] == '5 / 11 / 13'  # (16 - 2 - 1.374) / 2.183 in fp32
    # A step on two images is six forward passes, at two operations a multiply-add; with half the regions of a test.
    least = 6 * 2 * cost.total.multiply_adds / 312e12 * 1e3
    assert 0.7 * least < float(times[1]) < 4 * least
