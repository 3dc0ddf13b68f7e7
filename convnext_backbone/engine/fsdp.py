"""Fully sharded training (FSDP): each process holds a part of the weights, the gradients and the optimizer's state.

It is torch's ``fully_shard``. What goes in and out stays whole: a sharded model and its optimizer give and take the
state dicts of an unsharded one, so a checkpoint does not tell how many processes wrote it.
"""

import torch
from mmengine.device import get_device
from mmengine.dist import get_world_size, is_main_process
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, Replicate

from ..models.backbone import Backbone

WRAPPER = 'fully_shard'  # the type of a model_wrapper_cfg that asks for it


def shard(model: nn.Module) -> nn.Module:
    """Shards a model that has its first weights, in place.

    The blocks of its backbones are gathered and let go one by one, all the rest together.

    Args:
        model: The same on all processes, on the device where it is to be trained.
    """
    mesh = init_device_mesh(get_device(), (get_world_size(),))
    for backbone in [module for module in model.modules() if isinstance(module, Backbone)]:
        for block in backbone.iter_blocks():
            fully_shard(block, mesh=mesh)
    fully_shard(model, mesh=mesh)
    model.register_state_dict_post_hook(_gather_full_state_dict)
    model.register_load_state_dict_pre_hook(_shard_state_dict)
    return model


def is_sharded(model: nn.Module) -> bool:
    """Whether a model went through :func:`shard`."""
    return isinstance(model, FSDPModule)


def use_full_optimizer_state(optimizer: torch.optim.Optimizer) -> None:
    """Makes the optimizer of a sharded model give and take whole states."""
    optimizer.register_state_dict_post_hook(_gather_full_optimizer_state)
    optimizer.register_load_state_dict_pre_hook(_shard_optimizer_state)


def local(tensor: Tensor) -> Tensor:
    """What this process holds of a tensor."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def _gather_full_state_dict(model: nn.Module, state: dict, prefix: str, metadata: object) -> None:
    for name, value in state.items():
        state[name] = _whole(value)


def _shard_state_dict(model: nn.Module, state: dict, prefix: str, *_: object) -> None:
    parameters = dict(model.named_parameters())
    for name, value in state.items():
        state[name] = _part(value, parameters.get(name.removeprefix(prefix)))


def _gather_full_optimizer_state(optimizer: torch.optim.Optimizer, state: dict) -> dict:
    """All processes gather, tensor by tensor; the first one keeps what it gathers."""
    whole = {
        number: {name: _whole(value) for name, value in values.items()} for number, values in state['state'].items()
    }
    return {**state, 'state': whole}


def _shard_optimizer_state(optimizer: torch.optim.Optimizer, state: dict) -> dict:
    numbers = [number for group in state['param_groups'] for number in group['params']]
    parameters = [parameter for group in optimizer.param_groups for parameter in group['params']]
    owner = dict(zip(numbers, parameters, strict=False))  # that their numbers agree is for the optimizer to check
    parts = {
        number: {name: _part(value, owner.get(number)) for name, value in values.items()}
        for number, values in state['state'].items()
    }
    return {**state, 'state': parts}


def _whole(value: object) -> object:
    """A tensor that is sharded in one piece, in the first process; the others have an empty one in its place."""
    if not isinstance(value, DTensor):
        return value
    whole = value.full_tensor()  # by all processes together
    return whole.detach().cpu() if is_main_process() else whole.new_empty(0)


def _part(value: object, parameter: nn.Parameter | None) -> object:
    """What this process keeps of a whole tensor that belongs to a parameter: the same part as of the parameter."""
    if not isinstance(parameter, DTensor) or not isinstance(value, Tensor) or value.shape != parameter.shape:
        return value
    whole = value.to(parameter.device, parameter.dtype)
    everywhere = DTensor.from_local(whole, parameter.device_mesh, [Replicate()], run_check=False)
    return everywhere.redistribute(placements=parameter.placements)  # each process cuts it, and none sends anything


def unwrap_model(runner: Runner) -> nn.Module:
    """The model of a run, without the wrapper of distributed training."""
    return runner.model.module if is_model_wrapper(runner.model) else runner.model
