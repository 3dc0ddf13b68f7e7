"""torch.compile takes the fused block: one graph, the numbers of eager mode, and no more kept than there."""

import copy

import pytest
import torch
from torch import Tensor, library, nn

from convnext_backbone import ConvNeXt, ConvNeXtBlock
from convnext_backbone.models.compiled_block import fused_block

VERSIONS = pytest.mark.parametrize('use_grn', [False, True], ids=['V1', 'V2'])
# torch 2.6 does not tell compilation from export, so that compiled blocks run layer by layer there.
FUSES = pytest.mark.skipif(not hasattr(torch.compiler, 'is_exporting'), reason='this torch compiles the plain block')
SMALL = dict(depths=(1, 2, 1, 1), channels=(8, 16, 24, 32))


@pytest.fixture(autouse=True)
def fresh_compiler():
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()


def run(model: nn.Module, images: Tensor, dtype: torch.dtype | None = None) -> tuple[list[Tensor], int]:
    """Maps and all gradients; and the bytes that are kept for the backward pass, without those of weights."""
    model.zero_grad()
    weights = {one.untyped_storage().data_ptr() for one in model.parameters()}
    kept = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = len(storage)
        return tensor

    torch.manual_seed(1)  # of stochastic depth
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        with torch.autocast('cpu', dtype=dtype or torch.bfloat16, enabled=dtype is not None):
            maps = model(images)
    torch.manual_seed(2)
    sum((one.float() * torch.randn(one.shape)).sum() for one in maps).backward()
    return [*(one.detach() for one in maps), *(one.grad for one in model.parameters())], sum(kept.values())


@FUSES
@VERSIONS
@pytest.mark.parametrize('rate', [0.0, 0.5])
@pytest.mark.parametrize('dtype', [None, torch.bfloat16], ids=['fp32', 'bf16'])
def test_compiled_results_are_those_of_eager_mode(use_grn, rate, dtype):
    torch.manual_seed(0)
    model = ConvNeXt(SMALL, use_grn=use_grn, drop_path_rate=rate, layer_scale_init_value=0.5).train()
    images = torch.randn(4, 3, 64, 64)
    expected, _ = run(model, images, dtype)
    compiled = torch.compile(model, fullgraph=True, backend='aot_eager')
    for one, other in zip(run(compiled, images, dtype)[0], expected, strict=True):
        assert torch.equal(one, other)


@FUSES
@VERSIONS
def test_compiled_inference_is_that_of_eager_mode(use_grn):
    torch.manual_seed(0)
    model = ConvNeXt(SMALL, use_grn=use_grn, drop_path_rate=0.5).eval()
    images = torch.randn(2, 3, 64, 96)
    with torch.no_grad():
        for one, other in zip(
            torch.compile(model, fullgraph=True, backend='aot_eager')(images), model(images), strict=True
        ):
            assert torch.equal(one, other)


@FUSES
@pytest.mark.parametrize('use_grn', [False, pytest.param(True, marks=pytest.mark.slow)], ids=['V1', 'V2'])
def test_a_compiled_model_keeps_a_third_of_the_plain_one(use_grn):
    torch.manual_seed(0)
    deep = dict(depths=(3, 3, 9, 3), channels=(8, 16, 24, 32))  # as ConvNeXt-T
    model = ConvNeXt(deep, use_grn=use_grn, layer_scale_init_value=0.5).train()
    plain = copy.deepcopy(model)
    for block in plain.modules():
        if isinstance(block, ConvNeXtBlock):
            block.fused = False
    images = torch.randn(2, 3, 128, 128)
    (_, kept), (_, by_plain) = (run(torch.compile(one, backend='aot_eager'), images) for one in (model, plain))
    assert 0 < kept <= 0.35 * by_plain


@VERSIONS
@pytest.mark.parametrize('kept', [None, [True, False, True]])
@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16])
def test_the_operator_keeps_what_torch_expects_of_one(use_grn, kept, dtype):
    """Its schema, the shapes that are known before it runs, and that its gradients can be compiled."""
    torch.manual_seed(0)
    block = ConvNeXtBlock(8, use_grn=use_grn, layer_scale_init_value=0.5)
    layers = (block.dwconv, block.norm, block.pwconv1, block.pwconv2)
    weights = [one for layer in layers for one in (layer.weight, layer.bias)]
    weights += [block.grn.gamma, block.grn.beta] if use_grn else [block.gamma]
    x = torch.randn(3, 6, 5, 8, requires_grad=True)
    mask = None if kept is None else torch.tensor(kept)
    with torch.no_grad():
        weights = [one.detach().requires_grad_() for one in weights]
    library.opcheck(fused_block, (x, mask, dtype, 1e-6, True, weights))


@pytest.mark.slow
def test_a_model_of_changing_sizes_is_compiled_once_more_only():
    """The second size makes sizes variables."""
    model = ConvNeXt(SMALL).eval()
    compiled = torch.compile(model, fullgraph=True, backend='aot_eager')
    with torch.no_grad():
        for side in (64, 96, 128, 160):
            compiled(torch.randn(1, 3, side, side))
    assert torch._dynamo.utils.counters['stats']['unique_graphs'] <= 2
