"""Whole models by every door of mmengine: no part of a backbone lacks, and only plain finite numbers come in."""

import copy
from collections.abc import Callable

import pytest
import torch
from conftest import REPOSITORY
from families import SMALL, TINY, assert_equal, mmpretrain, randomized, timm_features, timm_model, written
from mmengine.config import Config
from mmengine.model import BaseModel, BaseTTAModel
from mmengine.registry import MODELS, init_default_scope
from mmengine.runner import Runner, load_checkpoint, load_state_dict
from torch import Tensor, nn

from convnext_backbone import ArgumentError, CheckpointMismatch, ConvNeXt
from convnext_backbone.apis.builders import build_detector, build_segmentor
from convnext_backbone.weights.load_model import check_weights, load_model
from convnext_backbone.weights.safe_load import read_state


class Model(BaseModel):
    """A backbone and a head, with every kind of buffer that detectors and segmentors have."""

    def __init__(
        self, arch: dict = TINY, classes: int = 2, init_cfg: dict | None = None, out_norm: bool = True
    ) -> None:
        super().__init__(init_cfg=init_cfg)
        self.backbone = ConvNeXt(arch, out_norm=out_norm)
        self.norm = nn.BatchNorm2d(arch['channels'][-1])
        self.head = nn.Conv2d(arch['channels'][-1], classes, 1)
        self.register_buffer('project', torch.arange(3))
        self.register_buffer('valid', torch.tensor([True, False]))
        self.register_buffer('mask', torch.tensor([[0.0, float('-inf')], [0.0, 0.0]]))
        self.register_buffer('rotation', torch.ones(2, dtype=torch.complex64))

    def forward(self, inputs: Tensor, *_: object, mode: str = 'tensor') -> Tensor:
        return self.head(self.backbone(inputs)[-1])


def strictly(model: nn.Module, path: str) -> None:
    load_model(model, read_state(path), path)


def loosely(model: nn.Module, path: str) -> None:
    load_model(model, read_state(path), path, strict=False)


def by_init_cfg(model: nn.Module, path: str) -> None:
    model.init_cfg = dict(type='Pretrained', checkpoint=path)
    model.init_weights()


def by_runner(model: nn.Module, path: str) -> None:
    """mmengine's own, as in the training tools of mmdet and mmseg."""
    runner = Runner(model, work_dir=path + '_run', load_from=path, experiment_name=path)
    runner.load_or_resume()


DOORS = [strictly, loosely, by_init_cfg, by_runner, load_checkpoint]


def change(name: str, value: Callable[[Tensor], object]) -> Callable[[dict], None]:
    return lambda state: state.update({name: value(state[name])})


def overlap(tensor: Tensor) -> Tensor:
    """One number in the place of all, in a storage that would hold them all."""
    return torch.zeros(tensor.numel())[:1].expand(tensor.shape)


NOT_PLAIN = {
    'NaN': (lambda t: t * float('nan'), 'are not finite'),
    'one infinity': (lambda t: torch.cat([t.flatten()[1:], torch.tensor([float('inf')])]).view(t.shape), 'not finite'),
    'NaN in bf16': (lambda t: (t * float('nan')).bfloat16(), 'are not finite'),
    'int64': (lambda t: torch.ones_like(t).long(), 'torch.int64'),
    'bool': (lambda t: torch.ones_like(t).bool(), 'torch.bool'),
    'complex': (lambda t: t.to(torch.complex64), 'torch.complex64'),
    'float8': (lambda t: t.to(torch.float8_e4m3fn), 'float8_e4m3fn'),
    'sparse': (lambda t: t.to_sparse(), 'sparse_coo'),
    'stretched': (lambda t: torch.ones(1).expand(t.shape), 'as few numbers stretched'),
    'stretched within its storage': (overlap, 'as few numbers stretched'),
    'overlapping': (lambda t: torch.ones(t.numel()).as_strided(t.shape, [1] * t.ndim), 'as few numbers stretched'),
    'meta': (lambda t: t.to('meta'), 'as shapes without numbers'),
    'a list': (lambda t: t.tolist(), 'as list'),
}


@pytest.mark.parametrize('door', DOORS, ids=lambda door: door.__name__)
@pytest.mark.parametrize('kind', NOT_PLAIN)
def test_weights_that_are_not_plain_finite_numbers_are_refused_by_name(kind, door, tmp_path):
    spoil, says = NOT_PLAIN[kind]
    for name in ('backbone.stages.2.0.pwconv1.weight', 'head.weight'):
        state = Model().state_dict()
        state[name] = spoil(state[name])
        path = str(tmp_path / f'{name}.pth')
        torch.save(dict(state_dict=state, meta={}), path)
        with pytest.raises(CheckpointMismatch) as raised:
            door(Model(), path)
        text = str(raised.value)
        assert f'The checkpoint {path}' in text and name in text and says in text and '\n' not in text


@pytest.mark.parametrize('door', DOORS, ids=lambda door: door.__name__)
def test_buffers_of_other_kinds_pass(door, tmp_path):
    """Integers, truth values, complex numbers, and a mask of infinities that the model has itself."""
    source = randomized(Model())
    source.norm.num_batches_tracked.fill_(7)
    torch.save(dict(state_dict=source.state_dict()), tmp_path / 'x.pth')
    model = Model()
    door(model, str(tmp_path / 'x.pth'))
    assert_equal(model, source)


def test_huge_finite_numbers_pass():
    """Whose sum is beyond the range of the data type."""
    state = Model().state_dict()
    state['head.weight'] = torch.full_like(state['head.weight'], 3e38)
    check_weights(Model(), state, 'x.pth')


def test_half_precision_passes(tmp_path):
    source = randomized(Model()).half()
    torch.save(source.state_dict(), tmp_path / 'x.pth')
    model = Model()
    loosely(model, str(tmp_path / 'x.pth'))
    assert torch.equal(model.head.weight, source.head.weight.float())


@pytest.mark.parametrize('door', DOORS[1:], ids=lambda door: door.__name__)
@pytest.mark.parametrize(
    'spoil',
    [
        lambda state: {'foo.weight': torch.ones(3)},
        lambda state: {name: value for name, value in state.items() if not name.startswith('backbone.')},
        lambda state: {name: value for name, value in state.items() if name != 'backbone.stages.1.0.gamma'},
        lambda state: state | {'backbone.stages.1.0.gamma': torch.ones(5)},
        lambda state: {name.removeprefix('backbone.'): value for name, value in state.items()},
    ],
    ids=['of something else', 'heads alone', 'one missing', 'one of another shape', 'the backbone alone'],
)
def test_a_file_that_leaves_out_a_part_of_a_backbone_is_refused(spoil, door, tmp_path):
    path = str(tmp_path / 'x.pth')
    torch.save(dict(state_dict=spoil(Model().state_dict())), path)
    model = Model()
    before = copy.deepcopy(model)
    with pytest.raises(CheckpointMismatch, match=f'The checkpoint {path} does not fill the backbone of the config'):
        door(model, path)
    assert_equal(model, before)


@pytest.mark.parametrize('door', DOORS[1:], ids=lambda door: door.__name__)
def test_heads_of_other_classes_may_differ(door, tmp_path):
    source = randomized(Model(classes=3))
    torch.save(dict(state_dict=source.state_dict()), tmp_path / 'x.pth')
    model = Model()
    door(model, str(tmp_path / 'x.pth'))
    assert_equal(model.backbone, source.backbone)


def test_a_bare_backbone_loads_through_mmengine_as_by_init_cfg(tmp_path):
    """In any format, without the output norms that only dense prediction has; and no part else may lack."""
    source, state = written('official')
    torch.save(dict(model=state), tmp_path / 'x.pth')
    backbone = ConvNeXt(SMALL)
    load_checkpoint(backbone, str(tmp_path / 'x.pth'))
    assert torch.equal(backbone.stages[2][1].pwconv1.weight, source.stages[2][1].pwconv1.weight)
    del state['stages.2.1.gamma']
    torch.save(dict(model=state), tmp_path / 'x.pth')
    with pytest.raises(CheckpointMismatch, match=r'(?s)x.pth.*missing: stages.2.1.gamma'):
        load_checkpoint(backbone, str(tmp_path / 'x.pth'))


def test_models_without_a_backbone_of_this_package_are_mmengines(tmp_path):
    torch.save(dict(weight=torch.ones(2, 2)), tmp_path / 'x.pth')
    model = nn.Linear(2, 2)
    load_checkpoint(model, str(tmp_path / 'x.pth'))
    assert torch.equal(model.weight, torch.ones(2, 2))


class Wrapper(BaseModel):
    """As of semi-supervised training or distillation."""

    def __init__(self, inner: nn.Module, init_cfg: dict | None = None) -> None:
        super().__init__(init_cfg=init_cfg)
        self.student = inner

    def forward(self, inputs: Tensor, *_: object, mode: str = 'tensor') -> Tensor:
        return self.student(inputs)


@pytest.mark.parametrize('where', ['outer', 'inner'])
def test_init_cfg_is_strict_at_any_depth(where, tmp_path):
    source = randomized(Model())
    weights = {('student.' if where == 'outer' else '') + name: value for name, value in source.state_dict().items()}
    torch.save(weights, tmp_path / 'x.pth')
    torch.save({'foo.weight': torch.ones(3)}, tmp_path / 'other.pth')
    for path, fits in (('x.pth', True), ('other.pth', False)):
        init_cfg = dict(type='Pretrained', checkpoint=str(tmp_path / path))
        model = Wrapper(Model(init_cfg=init_cfg if where == 'inner' else None), init_cfg if where == 'outer' else None)
        if fits:
            model.init_weights()
            assert_equal(model.student, source)
        else:
            with pytest.raises(CheckpointMismatch, match='does not fill the backbone'):
                model.init_weights()


def test_init_cfg_of_a_model_takes_a_prefix_but_no_ema(tmp_path):
    source = randomized(Model())
    torch.save({f'teacher.{name}': value for name, value in source.state_dict().items()}, tmp_path / 'x.pth')
    init_cfg = dict(type='Pretrained', checkpoint=str(tmp_path / 'x.pth'), prefix='teacher.')
    model = Model(init_cfg=init_cfg)
    model.init_weights()
    assert_equal(model, source)
    with pytest.raises(ArgumentError, match='init_cfg of Model has ema=True, which only backbones and classifiers'):
        Model(init_cfg=init_cfg | dict(ema=True)).init_weights()


def test_wrappers_for_testing_have_no_part_in_names(tmp_path):
    class Averaged(BaseTTAModel):
        def merge_preds(self, data_samples_list: list) -> list:
            return data_samples_list

    source = randomized(Model())
    torch.save(source.state_dict(), tmp_path / 'x.pth')
    model = Averaged(Model())
    for door in (strictly, loosely):
        door(model, str(tmp_path / 'x.pth'))
        assert_equal(model.module, source)
    torch.save(source.head.state_dict(), tmp_path / 'x.pth')
    with pytest.raises(CheckpointMismatch):
        loosely(model, str(tmp_path / 'x.pth'))


@pytest.mark.parametrize('door', DOORS, ids=lambda door: door.__name__)
@pytest.mark.parametrize('library', ['mmpretrain', 'timm', 'timm features_only'])
def test_a_backbone_with_the_names_of_another_library_loads_in_a_whole_model(library, door, tmp_path):
    """As in the zoos of mmdet and mmseg, whose ConvNeXt is mmpretrain's, and with mmpretrain's TIMMBackbone."""
    source = randomized(Model(SMALL, out_norm=library == 'mmpretrain'))
    state = source.state_dict()
    if library == 'mmpretrain':
        state = {mmpretrain(name, value)[0]: value for name, value in state.items()}
    else:
        theirs, _ = timm_features() if library == 'timm features_only' else timm_model(num_classes=0)
        source.backbone.load_state_dict(by_name(theirs.state_dict(), tmp_path))
        state = {name: value for name, value in state.items() if not name.startswith('backbone.')}
        names = {name: value for name, value in theirs.state_dict().items() if not name.startswith('head.')}
        state |= {f'backbone.timm_model.{name}': value for name, value in names.items()}
    torch.save(dict(state_dict=state), tmp_path / 'x.pth')
    model = Model(SMALL, out_norm=library == 'mmpretrain')
    door(model, str(tmp_path / 'x.pth'))
    assert_equal(model, source)


@pytest.mark.parametrize('config', ['cascade_convnext_atto_shapes', 'upernet_convnext_atto_camvid'])
def test_a_model_of_the_zoos_of_mmdet_and_mmseg_is_built_for_prediction(config, tmp_path):
    """Which have mmpretrain's names of the backbone, and no classes in the place where mmengine stores them."""
    cfg = Config.fromfile(REPOSITORY / f'configs/demo/{config}.py')
    init_default_scope(cfg.default_scope)
    build, source = (build_detector if 'cascade' in config else build_segmentor), MODELS.build(cfg.model)
    theirs = {mmpretrain(name, value)[0]: value for name, value in source.state_dict().items()}
    torch.save(dict(state_dict=theirs), tmp_path / 'theirs.pth')
    assert_equal(build(cfg, str(tmp_path / 'theirs.pth')), source)
    theirs['backbone.stages.1.0.depthwise_conv.weight'][0] = float('inf')
    torch.save(dict(state_dict=theirs), tmp_path / 'theirs.pth')
    with pytest.raises(CheckpointMismatch, match='numbers in backbone.stages.1.0.depthwise_conv.weight that are not'):
        build(cfg, str(tmp_path / 'theirs.pth'))


def by_name(state: dict[str, Tensor], tmp_path) -> dict[str, Tensor]:
    """The weights of a bare backbone, as load_backbone reads them."""
    torch.save(state, tmp_path / 'bare.pth')
    init_cfg = dict(type='Pretrained', checkpoint=str(tmp_path / 'bare.pth'))
    backbone = ConvNeXt(SMALL, out_norm=False, init_cfg=init_cfg)
    backbone.init_weights()
    return backbone.state_dict()


def test_the_source_is_unknown_to_a_dict_from_elsewhere():
    with pytest.raises(CheckpointMismatch, match='The checkpoint that is loaded does not fill the backbone'):
        load_state_dict(Model(), {'foo.weight': torch.ones(3)})
