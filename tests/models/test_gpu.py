"""The backbone and masked pre-training on a GPU: as exact as elsewhere, eager and compiled, no waits for the device."""

import copy
from collections.abc import Callable, Sequence

import pytest
import torch
import torch.nn.functional as F
from families import randomized

from convnext_backbone import ConvNeXt, ConvNeXtBlock, MaskedAutoencoder
from convnext_backbone.models import gpu_kernels

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason='there is no GPU')]
VERSIONS = pytest.mark.parametrize('use_grn', [False, True], ids=['V1', 'V2'])
SMALL = dict(depths=(1, 2, 1, 1), channels=(32, 64, 96, 128))


@pytest.fixture(autouse=True, params=[False, True], ids=['torch', 'triton'])
def by_triton(request, monkeypatch):
    monkeypatch.setattr(gpu_kernels, 'ENABLED', request.param)


def gradients(block: torch.nn.Module, x: torch.Tensor, dout: torch.Tensor, dtype: torch.dtype) -> list[torch.Tensor]:
    """Gradients of the input and all weights, in float64."""
    x = x.clone().requires_grad_()
    block.zero_grad()
    torch.manual_seed(0)  # of stochastic depth
    with torch.autocast('cuda', dtype=dtype, enabled=dtype.itemsize == 2):
        out = block(x)
    out.backward(dout.to(out.dtype))
    return [one.grad.double() for one in (x, *block.parameters())]


@VERSIONS
@pytest.mark.parametrize('rate', [0.0, 0.5])
@pytest.mark.parametrize('gamma', [1e-6, 1.0])
@pytest.mark.parametrize('dtype', [torch.float32, torch.float16, torch.bfloat16])
def test_gradients_are_as_exact_as_those_of_the_plain_block(use_grn, rate, gamma, dtype):
    errors = torch.zeros(2)
    for seed in range(8):
        torch.manual_seed(seed)
        block = ConvNeXtBlock(96, rate, gamma, use_grn).cuda().train()
        plain, exact = copy.deepcopy(block), copy.deepcopy(block).double()
        plain.fused = exact.fused = False
        x = torch.randn(4, 96, 20, 24, device='cuda')
        dout = 65.536 * torch.randn_like(x)
        expected = gradients(exact, x.double(), dout.double(), torch.float64)
        for i, one in enumerate((block, plain)):
            found = gradients(one, x, dout, dtype)
            errors[i] += sum(float((a - b).norm() / b.norm()) for a, b in zip(found, expected, strict=True))
    assert errors[0] <= 1.2 * errors[1]


@pytest.mark.parametrize('shape', [(3, 13, 7, 33), (1, 1, 1, 8), (2, 56, 57, 200), (0, 4, 4, 96)])
@pytest.mark.parametrize(('dtype', 'tolerance'), [(torch.float32, 2e-6), (torch.float16, 1e-3), (torch.bfloat16, 8e-3)])
def test_depthwise_kernels_match_float64_and_repeat_themselves(shape, dtype, tolerance):
    triton_depthwise = pytest.importorskip('convnext_backbone.models.triton_depthwise', exc_type=ImportError)
    torch.manual_seed(0)
    x, dy = torch.randn(2, *shape, device='cuda').to(dtype)
    weight, bias = torch.randn(shape[-1], 1, 7, 7).to('cuda', dtype), torch.randn(shape[-1]).to('cuda', dtype)
    exact = [one.double().requires_grad_() for one in (x, weight, bias)]
    out = F.conv2d(exact[0].permute(0, 3, 1, 2), *exact[1:], padding=3, groups=shape[-1]).permute(0, 2, 3, 1)
    expected = [out, *torch.autograd.grad(out, exact, dy.double())]
    found, again = (
        [triton_depthwise.depthwise(x, weight, bias), *triton_depthwise.depthwise_gradients(x, dy, weight)]
        for _ in range(2)
    )
    for one, other, number in zip(found, again, expected, strict=True):
        assert torch.equal(one, other)
        assert (one.double() - number).norm() <= tolerance * number.norm()


@VERSIONS
def test_compiled_results_are_near_those_of_eager_mode(use_grn):
    torch.manual_seed(0)
    model = ConvNeXt(SMALL, use_grn=use_grn).cuda().eval()
    images = torch.randn(2, 3, 128, 128, device='cuda')
    with torch.no_grad():
        for one, other in zip(torch.compile(model, fullgraph=True)(images), model(images), strict=True):
            torch.testing.assert_close(one, other, rtol=1e-2, atol=1e-2)


def assert_never_waits(step: Callable[[], Sequence[torch.Tensor]]) -> None:
    """Run the forward pass of a step, and a backward pass from what it returns."""
    for mode in ('default', 'error'):  # once without, for what is set up at first use
        torch.cuda.set_sync_debug_mode(mode)
        try:
            with torch.autocast('cuda', dtype=torch.float16):
                maps = step()
            torch.autograd.backward(maps, [one.detach() for one in maps])
        finally:
            torch.cuda.set_sync_debug_mode('default')


@VERSIONS
def test_a_step_does_not_wait_for_the_device(use_grn):
    torch.manual_seed(0)
    model = ConvNeXt(SMALL, use_grn=use_grn, drop_path_rate=0.5).cuda().train()
    images = torch.randn(4, 3, 128, 128, device='cuda')
    assert_never_waits(lambda: model(images))


def test_nor_does_one_of_masked_pre_training():
    torch.manual_seed(0)
    model = MaskedAutoencoder(dict(type='ConvNeXt', arch=SMALL, use_grn=True)).cuda().train()
    images = torch.randn(4, 3, 128, 128, device='cuda')
    assert_never_waits(lambda: [model(images, mode='loss')['loss']])


@VERSIONS
def test_masked_images_have_the_features_and_gradients_that_they_have_on_a_cpu(use_grn, monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, 'allow_tf32', False)
    torch.manual_seed(0)
    backbone = dict(type='ConvNeXt', arch=SMALL, use_grn=use_grn, layer_scale_init_value=1.0)
    model = randomized(MaskedAutoencoder(backbone))
    images, mask = torch.randn(4, 3, 128, 160), torch.rand(4, 20) < 0.6
    expected = model.double().encode(images.double(), mask)
    gradient = torch.randn_like(expected)
    theirs = torch.autograd.grad(expected, [*model.backbone.parameters()], gradient)
    found = model.float().cuda().encode(images.cuda(), mask.cuda())
    ours = torch.autograd.grad(found, [*model.backbone.parameters()], gradient.float().cuda())
    for one, other in zip([found, *ours], [expected, *theirs], strict=True):
        assert (one.cpu() - other).norm() <= 1e-5 * other.norm()
