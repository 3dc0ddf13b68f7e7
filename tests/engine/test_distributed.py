"""Data parallelism with gloo on the CPU: every parameter that is not frozen has a gradient. Exact."""

import pytest
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from convnext_backbone import ConvNeXt

SMALL = dict(arch=dict(depths=[1, 1, 1, 1], channels=[8, 16, 24, 32]), drop_path_rate=0.5, layer_scale_init_value=1.0)


CASES = [{}, dict(frozen_stages=2), dict(frozen_stages=4), dict(out_indices=(1, 2))]
CASES += [dict(out_indices=(-1,), use_grn=True)]


def train_every_case(rank: int, folder: str) -> None:
    """All cases in one process, as a process takes seconds to start."""
    dist.init_process_group('gloo', init_method=f'file://{folder}/meeting', rank=rank, world_size=2)
    torch.save([train_two_steps(rank, arguments) for arguments in CASES], f'{folder}/{rank}.pth')
    dist.destroy_process_group()


def train_two_steps(rank: int, arguments: dict) -> dict[str, torch.Tensor]:
    """The final weights; DistributedDataParallel raises at the second step where a gradient was missing."""
    torch.manual_seed(0)
    model = DistributedDataParallel(ConvNeXt(**SMALL, **arguments).train())
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    torch.manual_seed(rank)  # each process drops and sees something else
    for _ in range(2):
        sum((out * torch.randn_like(out)).mean() for out in model(torch.randn(4, 3, 64, 64))).backward()
        optimizer.step()
        optimizer.zero_grad()
    return model.module.state_dict()


@pytest.fixture(scope='module')
def trained(tmp_path_factory) -> list[tuple[dict[str, torch.Tensor], ...]]:
    """The weights of each case in the first and the second process."""
    folder = tmp_path_factory.mktemp('trained')
    torch.multiprocessing.spawn(train_every_case, (str(folder),), nprocs=2)
    return [*zip(*(torch.load(folder / f'{rank}.pth') for rank in range(2)), strict=True)]


@pytest.mark.parametrize('case', range(len(CASES)), ids=[str(arguments) for arguments in CASES])
def test_no_unused_parameters(case, trained):
    """Without `find_unused_parameters`, whatever the frozen stages and outputs."""
    first, second = trained[case]
    assert [name for name in first if not torch.equal(first[name], second[name])] == []
    torch.manual_seed(0)
    before = ConvNeXt(**SMALL, **CASES[case])
    still = {name for name, value in before.state_dict().items() if torch.equal(value, first[name])}
    frozen = {name for name, parameter in before.named_parameters() if not parameter.requires_grad}
    assert still == frozen
