"""Detectors with a transformer, such as DINO and Mask2Former, on the meta device."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

_SAMPLING = 'mmcv.ops.multi_scale_deform_attn.multi_scale_deformable_attn_pytorch'


class _SizesHaveValues(TorchDispatchMode):
    """Leaves the sizes of maps, with which these models compute, on the CPU: on the meta device they have no values."""

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        """Run an operation, on the meta device if one of its operands is there."""
        kwargs = kwargs or {}
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        if any(tensor.is_meta for tensor in tensors):
            args, kwargs = tree_map_only(Tensor, lambda tensor: tensor.to('meta'), (args, kwargs))
        elif func is torch.ops.aten._to_copy.default and str(kwargs.get('device')) == 'meta':
            kwargs = {**kwargs, 'device': torch.device('cpu')}
        return func(*args, **kwargs)


class _Sampling(torch.autograd.Function):
    """What the operator of deformable attention keeps for the backward pass on a GPU, and the shape of its result."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, locations: Tensor, weights: Tensor) -> Tensor:
        ctx.save_for_backward(value, locations, weights)
        return value.new_empty(value.shape[0], locations.shape[1], value.shape[2] * value.shape[3])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        raise NotImplementedError


def _sampling() -> AbstractContextManager:
    def sample(value: Tensor, shapes: Tensor, locations: Tensor, weights: Tensor) -> Any:
        return _Sampling.apply(value, locations, weights)

    return mock.patch(_SAMPLING, sample)


def find_transformer(model: Any) -> Callable[..., Any] | None:
    """Return what runs the transformer and the head of a detector on maps and samples; None if it has none."""
    if hasattr(model, 'panoptic_head'):
        return model.panoptic_head
    if not hasattr(model, 'forward_transformer'):
        return None

    def run(maps: Any, samples: list) -> Any:
        outputs = model.forward_transformer(maps, samples)
        return model.bbox_head(**{key: outputs[key] for key in ('hidden_states', 'references') if key in outputs})

    return run


def run_transformer(run: Callable[..., Any], maps: Any, batch: int, shape: tuple[int, int]) -> None:
    """Run what :func:`find_transformer` found, on images with one object each, for which queries are denoised."""
    from mmdet.structures import DetDataSample
    from mmengine.structures import InstanceData

    samples = [DetDataSample(metainfo=dict(batch_input_shape=shape, img_shape=shape)) for _ in range(batch)]
    for sample in samples:
        box = torch.tensor([[0.0, 0.0, *shape[::-1]]], device='cpu')
        sample.gt_instances = InstanceData(labels=torch.zeros(1, dtype=torch.long, device='cpu'), bboxes=box)
    with _SizesHaveValues(), _sampling():
        run(maps, samples)
