"""ConvNeXt by those who offer it, each as a model from images to the maps of its four stages, as it comes."""

import importlib.util
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from convnext_backbone import ARCHS, ConvNeXt
from convnext_backbone.utils.errors import UserError

OURS = 'ours'


class Maps(nn.Module):
    """Runs a model and takes the maps out of what it returns."""

    def __init__(self, model: nn.Module, take: Callable) -> None:
        super().__init__()
        self.model, self.take = model, take

    def forward(self, images: Tensor) -> list[Tensor]:
        """The maps."""
        return self.take(self.model, images)


def ours(arch: str, drop_path: float, **arguments: bool) -> nn.Module:
    """That of this project, without the norms on its maps, which not all others have."""
    return ConvNeXt(arch, drop_path_rate=drop_path, out_norm=False, **arguments)


def timm(arch: str, drop_path: float) -> nn.Module:
    """That of timm."""
    import timm

    return timm.create_model(f'convnext_{arch}', features_only=True, drop_path_rate=drop_path)


def torchvision(arch: str, drop_path: float) -> nn.Module:
    """That of torchvision."""
    import torchvision

    def take(features: nn.Sequential, images: Tensor) -> list[Tensor]:
        maps = [images]
        for part in features:
            maps.append(part(maps[-1]))
        return maps[2::2]  # each second part is a stage; before it, the stem or a downsampling layer

    return Maps(torchvision.models.get_model(f'convnext_{arch}', stochastic_depth_prob=drop_path).features, take)


def transformers(arch: str, drop_path: float) -> nn.Module:
    """That of transformers."""
    from transformers import ConvNextBackbone, ConvNextConfig

    depths, channels = (list(numbers) for numbers in ARCHS[arch])
    names = [f'stage{i}' for i in range(1, 5)]
    config = ConvNextConfig(depths=depths, hidden_sizes=channels, drop_path_rate=drop_path, out_features=names)
    return Maps(ConvNextBackbone(config), lambda model, images: model(images).feature_maps)


def mmpretrain(arch: str, drop_path: float) -> nn.Module:
    """That of mmpretrain."""
    from mmpretrain.models import ConvNeXt as Theirs

    return Theirs(arch, drop_path_rate=drop_path, out_indices=(0, 1, 2, 3), gap_before_final_norm=False)


def official(arch: str, drop_path: float) -> nn.Module:
    """That of the official repository, whose folder PYTHONPATH names."""
    from models.convnext import ConvNeXt as Theirs

    def take(model: nn.Module, images: Tensor) -> list[Tensor]:
        maps = [images]
        for downsample, stage in zip(model.downsample_layers, model.stages, strict=True):
            maps.append(stage(downsample(maps[-1])))
        return maps[1:]

    depths, channels = ARCHS[arch]
    return Maps(Theirs(depths=depths, dims=channels, drop_path_rate=drop_path), take)


CONTENDERS = {
    OURS: ours,
    'ours-plain': partial(ours, fused=False),
    'timm': timm,
    'torchvision': torchvision,
    'transformers': transformers,
    'mmpretrain': mmpretrain,
    'official': official,
}
MODULES = {'official': 'models.convnext'}  # what is imported, where it is not the name
LACKS = {'timm': ('huge',), 'torchvision': ('atto', 'femto', 'pico', 'nano', 'xlarge', 'huge')}
# What --peers takes beside these is ours-plain, the layers one by one.
PEERS = tuple(name for name in CONTENDERS if not name.startswith(OURS))
COMPILED = ', compiled'


def has(peer: str, arch: str) -> bool:
    """Whether a peer can be imported here and offers an arch."""
    if arch in LACKS.get(peer, ()):
        return False
    try:
        return importlib.util.find_spec(MODULES.get(peer, peer)) is not None
    except ModuleNotFoundError:  # of the package above
        return False


def choose_contenders(peers: str | None, arch: str, compiled: bool) -> list[str]:
    """Ours, and the peers that are named (comma-separated), or all that are installed.

    Raises:
        UserError: A named one is unknown, is not installed, or does not offer the arch.
    """
    names = peers.split(',') if peers else [peer for peer in PEERS if has(peer, arch)]
    for name in names:
        if name not in CONTENDERS:
            raise UserError(f'--peers names {name!r}, which is none of {", ".join(PEERS)}.')
        if name in PEERS and not has(name, arch):
            raise UserError(f'The peer {name} is not installed here or has no {arch}: leave it out of --peers.')
    return [OURS, *names, *(name + COMPILED for name in names if compiled)]


def build(contender: str, arch: str, drop_path: float, device: torch.device) -> nn.Module:
    """A contender's model with random weights, in the layout that is fastest for it.

    Raises:
        UserError: A peer's package fails.
    """
    torch.manual_seed(0)
    name = contender.removesuffix(COMPILED)
    try:
        model = CONTENDERS[name](arch, drop_path).to(device, memory_format=torch.channels_last)
    except Exception as error:  # a package beside versions that it was not made for can fail in any way
        if name not in PEERS:
            raise
        raise UserError(f'The peer {name} does not work here ({error!r}): leave it out of --peers.') from error
    return torch.compile(model, dynamic=False) if contender.endswith(COMPILED) else model
