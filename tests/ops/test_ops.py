"""Our operators give what mmcv's compiled ones give, forward and backward.

Compared with what those of mmcv 2.1.0 were recorded to give (tests/golden/make_ops.py), on the CPU and on CUDA, and
with the compiled ones themselves where they are installed. Indices exactly; fp32 to 1e-5 of the largest number of an
output or gradient, or of 1 where that is larger: sums of many terms are taken in another order. Independent of
everybody's: gradients against finite differences in float64.
"""

import ast
import importlib.util
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

import convnext_backbone.ops
from convnext_backbone.ops import ext
from convnext_backbone.ops.status import is_compiled
from convnext_backbone.ops.workloads import using

convnext_backbone.ops.provide()  # before mmcv.ops, which needs an mmcv._ext

from ops_cases import CASES, LARGE, Arrays, Case, evaluate, load, signed  # noqa: E402

GOLDEN = Path(__file__).parents[1] / 'golden'
RECORDED = {device: load(GOLDEN / f'ops_{device}.npz') for device in ('cpu', 'cuda')}
DEVICES = ['cpu', 'cuda'] if torch.cuda.is_available() else ['cpu']
PRECISION = {torch.float32: 1e-5, torch.float16: 8e-3, torch.bfloat16: 3e-2}

INSTALLED = importlib.import_module('mmcv._ext')

# No derivative: at the clamps of saturated losses and where nothing is sampled; two of them: on pixels. And mmcv.ops
# refuses carafe_naive's backward on the CPU, for which there is a test below.
UNCHECKED = ('saturated', 'no_offsets', 'on_pixels', 'no_area', 'roi_align-none', 'carafe_naive')
DIFFERENTIABLE = [
    case for case in CASES.values() if case.gradients and not any(word in case.name for word in UNCHECKED)
]


@pytest.fixture
def ours() -> Iterator[None]:
    with using(ext):
        yield


def check_equal(results: Arrays, expected: Arrays, precision: float) -> None:
    """Whole numbers exactly, others to a precision; not a number only where that is expected."""
    assert results.keys() == expected.keys()
    for key, want in expected.items():
        got = results[key]
        assert got.shape == want.shape and got.dtype == want.dtype, key
        if not want.size or want.dtype.kind != 'f':
            np.testing.assert_array_equal(got, want, key)
            continue
        largest = np.abs(want[np.isfinite(want)], dtype=np.float64).max(initial=1)
        if want.dtype == np.float16 and np.isfinite(got).all() and np.isfinite(want).all():
            # The originals compute in fp16 where they sample, too, and one place in hundreds is rounded to another
            # side of a pixel, where its gradient jumps.
            assert np.mean(np.abs(got.astype(np.float64) - want) > precision * largest) < 0.01, key
            continue
        np.testing.assert_allclose(got.astype(np.float64), want, rtol=0, atol=precision * largest, err_msg=key)


def recorded() -> Iterator[pytest.param]:
    """Each recorded result with each device that it is compared on."""
    for origin, results in RECORDED.items():
        for name in results:
            case, dtype = name.rsplit(' ', 1)
            for device in DEVICES:
                yield pytest.param(
                    origin, name, CASES[case], device, getattr(torch, dtype), id=f'{origin}-{name}-{device}'
                )


@pytest.mark.parametrize('origin, name, case, device, dtype', [*recorded()])
def test_equals_the_recorded_compiled_operator(origin, name, case, device, dtype, ours):
    results, expected = evaluate(case, device, dtype), RECORDED[origin][name]
    if case.family == 'carafe_naive' and device == 'cpu':  # mmcv.ops refuses its backward; see below
        expected = {key: array for key, array in expected.items() if 'output' in key}
    check_equal(results, expected, PRECISION[dtype])


@pytest.mark.parametrize('device', RECORDED)
def test_every_case_is_recorded(device):
    """A case that the originals refuse would otherwise be left out of the comparison unseen."""
    names = {f'{case.name} {dtype}'.replace('torch.', '') for case in CASES.values() for dtype in case.dtypes(device)}
    assert set(RECORDED[device]) == names


@pytest.mark.skipif(not is_compiled(INSTALLED), reason='mmcv has no compiled operators here')
@pytest.mark.parametrize(
    'case, device',
    [
        pytest.param(case, device, id=f'{case.name}-{device}')
        for device in DEVICES
        for case in LARGE.values()
        if case.dtypes(device)
    ],
)
def test_equals_the_installed_compiled_operator(case, device):
    with using(INSTALLED):
        expected = evaluate(case, device)
    with using(ext):
        check_equal(evaluate(case, device), expected, 1e-5)


@pytest.mark.parametrize('device', DEVICES)
@pytest.mark.parametrize('case', [case for case in CASES.values() if case.half], ids=lambda case: case.name)
def test_bf16_is_fp32_rounded(case, device, ours):
    """The same numbers, rounded to bf16 before: the result is that of fp32 to the precision of bf16."""

    def make(random):
        arrays = case.make(random)
        tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
        return {name: (t.bfloat16().float() if t.is_floating_point() else t).numpy() for name, t in tensors.items()}

    expected = evaluate(case._replace(make=make), device)
    results = evaluate(case, device, torch.bfloat16)
    check_equal(results, expected, PRECISION[torch.bfloat16])


@pytest.mark.parametrize('case', DIFFERENTIABLE, ids=lambda case: case.name)
def test_gradients_are_those_of_finite_differences(case: Case, ours):
    arrays = case.make(np.random.RandomState(0))
    tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
    tensors = {name: tensor.double() if tensor.is_floating_point() else tensor for name, tensor in tensors.items()}
    inputs = [tensors[name].requires_grad_() for name in case.gradients]

    def run(*inputs):
        return case.run(**{**tensors, **dict(zip(case.gradients, inputs, strict=True))})

    torch.manual_seed(0)  # of the directions
    assert torch.autograd.gradcheck(run, inputs, fast_mode=True)


def test_carafe_naive_has_the_gradients_of_carafe():
    """They are one function; mmcv.ops refuses the backward pass of the naive one on the CPU."""
    random = np.random.RandomState(0)
    features, masks = (torch.from_numpy(signed(random, *shape)) for shape in ((2, 4, 3, 2), (2, 18, 6, 4)))
    gradient = torch.from_numpy(signed(random, 2, 4, 6, 4))
    results = []
    for backward, buffers in (
        (ext.carafe_naive_backward, []),
        (ext.carafe_backward, [gradient] * 2 + [features, masks]),
    ):
        gradients = [torch.zeros_like(features), torch.zeros_like(masks)]
        backward(gradient, features, masks, *(torch.empty_like(b) for b in buffers), *gradients, 3, 2, 2)
        results.append(gradients)
    assert results[0][0].abs().min() > 0
    torch.testing.assert_close(results[0], results[1])


# The names


def names_that_mmcv_asks_for() -> set[str]:
    """The names in the calls of `load_ext` in mmcv's own files."""
    folder = Path(importlib.util.find_spec('mmcv').origin).parent / 'ops'
    names = set()
    for path in folder.glob('*.py'):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and getattr(node.func, 'attr', '') == 'load_ext':
                names |= set(ast.literal_eval(node.args[1]))
    return names


def test_every_name_exists():
    names = names_that_mmcv_asks_for()
    assert len(names) >= 112
    assert not {name for name in names if not callable(getattr(ext, name, None))}


IMPLEMENTED = """
    nms softnms nms_match bbox_overlaps roi_align_forward roi_align_backward roi_pool_forward roi_pool_backward
    deform_conv_forward deform_conv_backward_input deform_conv_backward_parameters modulated_deform_conv_forward
    modulated_deform_conv_backward sigmoid_focal_loss_forward sigmoid_focal_loss_backward softmax_focal_loss_forward
    softmax_focal_loss_backward ms_deform_attn_forward ms_deform_attn_backward masked_im2col_forward
    masked_col2im_forward carafe_forward carafe_backward carafe_naive_forward carafe_naive_backward psamask_forward
    psamask_backward line_nms_forward get_compiler_version get_compiling_cuda_version""".split()


@pytest.mark.parametrize('name', sorted(names_that_mmcv_asks_for() - {*IMPLEMENTED}))
def test_other_operators_say_what_to_do(name):
    with pytest.raises(NotImplementedError) as refusal:
        getattr(ext, name)(torch.zeros(1), keyword=1)
    sentence = str(refusal.value)
    assert name in sentence and '(for ' in sentence and 'install mmcv with its compiled operators' in sentence
    assert sentence.endswith('.') and '\n' not in sentence and '. ' not in sentence
