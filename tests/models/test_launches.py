"""How many kernels a fused block launches on a GPU, counted on meta tensors, which take the same path."""

from collections import Counter

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from convnext_backbone import ConvNeXtBlock
from convnext_backbone.models import fused_block

# Operators that launch nothing; the output of a convolution is copied where its memory is of another format.
FREE = {'view', 'permute', 'empty', 'empty_like', 'new_empty', 'slice', 'select', 't', 'transpose', 'detach', 'expand'}
FREE |= {
    'as_strided',
    'unsqueeze',
    'squeeze',
    '_unsafe_view',
    'split_with_sizes',
    'promote_types',
    'clone',
    'alias',
    'unbind',
}


class Launches(TorchDispatchMode):
    """Counts operators that launch a kernel."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.__name__.split('.')[0]
        self.counts[name] += name not in FREE
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    ('use_grn', 'dtype', 'most'),
    [
        (False, torch.float32, 29),
        (False, torch.bfloat16, 36),
        (False, torch.float16, 43),  # seven for the units of its gradients
        (True, torch.bfloat16, 57),
        (True, torch.float16, 60),
    ],
)
def test_a_block_launches_few_kernels(use_grn, dtype, most, monkeypatch):
    monkeypatch.setattr(fused_block, 'map_dtype', lambda weight: dtype)  # autocast, which meta tensors lack
    block = ConvNeXtBlock(96, use_grn=use_grn).to('meta')
    x = torch.empty(2, 96, 50, 76, device='meta').to(memory_format=torch.channels_last).requires_grad_()
    with Launches() as launches:
        out = block(x)
        torch.autograd.grad(out, [x, *block.parameters()], torch.empty_like(out))
    # Before torch 2.8 there is no product of half precision in fp32, and three are converted.
    most += 3 * (dtype.itemsize == 2 and not hasattr(torch.ops.aten.mm, 'dtype'))
    assert 20 < launches.counts.total() <= most, (launches.counts.total(), launches.counts)
