"""Plain forms of modules that torch.onnx cannot export as they are: the same function of the same weights."""

import copy
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ..models.backbone import Backbone
from ..models.layers import PatchConv2d


class PlainBackbone(nn.Module):
    """A ConvNeXt or an isotropic one, layer by layer, with patch convolutions as convolutions.

    Args:
        backbone: Trained; its modules are those of this one, too.
    """

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self.trained = backbone

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """The feature maps of the chosen stages, (N, C_i, H // stride_i, W // stride_i)."""
        backbone, maps = self.trained, {}
        for i, (downsample, blocks) in enumerate(backbone.stage_modules()):
            x = _run_downsampling(downsample, x)
            for block in blocks:
                x = _run_block(block, x)
            if i in backbone.out_indices:
                maps[i] = getattr(backbone, f'norm{i}')(x) if backbone.out_norm else x
        return tuple(maps[i] for i in backbone.out_indices)


def _run_downsampling(layer: nn.Module, x: Tensor) -> Tensor:
    for part in layer if isinstance(layer, nn.Sequential) else [layer]:
        x = F.conv2d(x, part.weight, part.bias, part.stride) if isinstance(part, PatchConv2d) else part(x)
    return x


def _run_block(block: Any, x: Tensor) -> Tensor:
    branch = F.gelu(block.pwconv1(block.norm(block.dwconv(x).permute(0, 2, 3, 1))))
    branch = block.pwconv2(branch if block.grn is None else block.grn(branch))
    return x + (branch if block.gamma is None else block.gamma * branch).permute(0, 3, 1, 2)


class PlainPool(nn.Module):
    """Adaptive average pooling as two matrix products, of a map of any size.

    The exporter's own form is right at sizes with the divisors of the example's alone, and says nothing at others.
    """

    def __init__(self, bins: Any) -> None:
        super().__init__()
        self.bins = bins

    def forward(self, x: Tensor) -> Tensor:
        """Pool (N, C, H, W) to (N, C, bins, bins)."""
        return self._weights(x.shape[2], x) @ x @ self._weights(x.shape[3], x).T

    def _weights(self, length: int, x: Tensor) -> Tensor:
        bins, places = torch.arange(self.bins, device=x.device)[:, None], torch.arange(length, device=x.device)
        inside = (places >= bins * length // self.bins) & (places < -((bins + 1) * -length // self.bins))
        return inside.to(x.dtype) / inside.sum(1, keepdim=True)


def make_plain(network: nn.Module) -> nn.Module:
    """A copy of a network with the same tensors, whose modules have their plain forms."""
    plain = copy.deepcopy(network, {id(one): one for one in (*network.parameters(), *network.buffers())})
    for module in list(plain.modules()):
        for name, child in module.named_children():
            if isinstance(child, Backbone):
                setattr(module, name, PlainBackbone(child))
            elif isinstance(child, nn.AdaptiveAvgPool2d):
                setattr(module, name, PlainPool(child.output_size))
    if any(isinstance(module, _BatchNorm) for module in plain.modules()):
        from mmcv.cnn import fuse_conv_bn  # which no classifier needs

        fuse_conv_bn(plain)
    return plain
