"""Fully sharded training (FSDP): each process holds a shard of the weights, gradients and optimizer state.

It is torch's ``fully_shard``. A sharded model and its optimizer read and write full (unsharded) state dicts, so a
checkpoint does not depend on the number of processes that wrote it.
"""

from typing import Any

import torch
from mmengine.device import get_device
from mmengine.dist import get_world_size, is_main_process
from mmengine.model import BaseModel, is_model_wrapper
from mmengine.runner import Runner
from mmengine.utils import apply_to
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, Replicate

from ..models.backbone import Backbone

WRAPPER = 'fully_shard'  # type of the model_wrapper_cfg that asks for it


def shard(model: nn.Module) -> nn.Module:
    """Shard an initialized model in place: each block of its backbones is a unit, the rest another.

    Args:
        model: The same in all processes, on its device.
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
    """Whether a model was sharded by :func:`shard`."""
    return isinstance(model, FSDPModule)


def use_full_optimizer_state(optimizer: torch.optim.Optimizer) -> None:
    """Make the optimizer of a sharded model read and write full state dicts."""
    optimizer.register_state_dict_post_hook(_gather_full_optimizer_state)
    optimizer.register_load_state_dict_pre_hook(_shard_optimizer_state)


def to_local(tensor: Tensor) -> Tensor:
    """This process's shard of a tensor; the tensor itself where it is not sharded."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def unwrap_model(runner: Runner) -> BaseModel:
    """The model of a run without its wrapper for distributed training."""
    return runner.model.module if is_model_wrapper(runner.model) else runner.model


def _gather_full_state_dict(model: nn.Module, state: dict, prefix: str, metadata: Any) -> None:
    state.update(apply_to(dict(state), _is_shard, _gather))


def _shard_state_dict(model: nn.Module, state: dict, prefix: str, *_: Any) -> None:
    parameters = dict(model.named_parameters())
    for name, value in state.items():
        state[name] = _shard_like(parameters.get(name.removeprefix(prefix)), value)


def _gather_full_optimizer_state(optimizer: torch.optim.Optimizer, state: dict) -> dict:
    return apply_to(state, _is_shard, _gather)


def _shard_optimizer_state(optimizer: torch.optim.Optimizer, state: dict) -> dict:
    numbers = [number for group in state['param_groups'] for number in group['params']]
    parameters = [parameter for group in optimizer.param_groups for parameter in group['params']]
    owner = dict(zip(numbers, parameters, strict=False))  # the optimizer itself checks that they are as many
    shards = {
        number: {name: _shard_like(owner.get(number), value) for name, value in values.items()}
        for number, values in state['state'].items()
    }
    return {**state, 'state': shards}


def _is_shard(value: Any) -> bool:
    return isinstance(value, DTensor)


def _gather(value: DTensor) -> Tensor:
    """The full tensor on the CPU of the main process; the other processes get an empty one."""
    full = value.full_tensor()  # a collective
    return full.detach().cpu() if is_main_process() else full.new_empty(0)


def _shard_like(parameter: nn.Parameter | None, value: Any) -> Any:
    """This process's shard of a full tensor, placed like its parameter; other values as they are."""
    if not isinstance(parameter, DTensor) or not isinstance(value, Tensor) or value.shape != parameter.shape:
        return value
    full = value.to(parameter.device, parameter.dtype)
    replicated = DTensor.from_local(full, parameter.device_mesh, [Replicate()], run_check=False)
    return replicated.redistribute(placements=parameter.placements)  # a local cut, without communication
