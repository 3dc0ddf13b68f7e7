"""ConvNeXt by several packages, each as a model from images to the feature maps of its four stages."""

import importlib.util
import tempfile
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from unittest.mock import patch

import torch
from torch import Tensor, nn

from convnext_backbone import ARCHS, ConvNeXt
from convnext_backbone.models import gpu_kernels
from convnext_backbone.utils.errors import UserError

OURS = 'ours'
BY_TRITON = f'{OURS}-triton'


class _Stages(nn.Module):
    """Stages that follow each other, each with its downsampling, for packages that return the last map alone."""

    def __init__(self, stages: Iterable[nn.Module]) -> None:
        super().__init__()
        self.stages = nn.ModuleList(stages)

    def forward(self, images: Tensor) -> list[Tensor]:
        maps = [images]
        for stage in self.stages:
            maps.append(stage(maps[-1]))
        return maps[1:]


def _ours(arch: str, drop_path: float, **arguments: bool) -> nn.Module:
    return ConvNeXt(arch, drop_path_rate=drop_path, out_norm=False, **arguments)  # not all others have these norms


def _ours_by_triton(arch: str, drop_path: float) -> nn.Module:
    model = _ours(arch, drop_path)
    model.by_triton = True  # as switch_kernels reads it
    return model


def switch_kernels(model: nn.Module) -> AbstractContextManager:
    """Context of a step of a contender, or of a detector with its backbone: with Triton's kernels if it is for them."""
    wanted = getattr(getattr(model, 'backbone', model), 'by_triton', gpu_kernels.ENABLED)
    return patch.object(gpu_kernels, 'ENABLED', wanted)


def _timm(arch: str, drop_path: float) -> nn.Module:
    import timm

    return timm.create_model(f'convnext_{arch}', features_only=True, drop_path_rate=drop_path)


def _torchvision(arch: str, drop_path: float) -> nn.Module:
    import torchvision

    features = torchvision.models.get_model(f'convnext_{arch}', stochastic_depth_prob=drop_path).features
    return _Stages(features[i : i + 2] for i in range(0, 8, 2))


def _transformers(arch: str, drop_path: float) -> nn.Module:
    from transformers import ConvNextBackbone, ConvNextConfig

    class Maps(ConvNextBackbone):
        def forward(self, images: Tensor) -> tuple[Tensor, ...]:
            return super().forward(images).feature_maps

    depths, channels = map(list, ARCHS[arch])
    names = [f'stage{i}' for i in range(1, 5)]
    return Maps(ConvNextConfig(depths=depths, hidden_sizes=channels, drop_path_rate=drop_path, out_features=names))


def _mmpretrain(arch: str, drop_path: float) -> nn.Module:
    from mmpretrain.models import ConvNeXt as Theirs

    return Theirs(arch, drop_path_rate=drop_path, out_indices=(0, 1, 2, 3), gap_before_final_norm=False)


class Exported(nn.Module):
    """Our model in another runtime, for inference on a CPU; exported for each size of images.

    Args:
        model: To export.
        start: Of a file and a number of threads the function that runs it, on an array.
        halves: Whether the runtime computes in bf16 where autocast asks for it.
    """

    def __init__(self, model: nn.Module, start: Callable[[Path, int, bool], Callable], halves: bool) -> None:
        super().__init__()
        self.model, self._start, self._halves = model.eval(), start, halves
        self._running: tuple[torch.Size, Callable] | None = None

    def forward(self, images: Tensor) -> list[Tensor]:
        """Feature maps of images."""
        half = torch.is_autocast_enabled('cpu')
        if self.training or (half and not self._halves):
            raise UserError('onnxruntime and openvino are compared in --mode infer; onnxruntime in --dtype fp32.')
        if self._running is None or self._running[0] != images.shape:
            with tempfile.TemporaryDirectory() as folder, torch.autocast('cpu', enabled=False):
                path = Path(folder, 'model.onnx')
                torch.onnx.export(self.model, (images.contiguous(),), path, dynamo=True, verbose=False)
                self._running = images.shape, self._start(path, torch.get_num_threads(), half)
        return [torch.from_numpy(one) for one in self._running[1](images.contiguous().numpy())]


def start_onnxruntime(path: Path, threads: int, half: bool) -> Callable:
    """A file in onnxruntime, as a function of images."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(path, options, providers=['CPUExecutionProvider'])
    return lambda images: session.run(None, {session.get_inputs()[0].name: images})


def start_openvino(path: Path, threads: int, half: bool) -> Callable:
    """A file in OpenVINO, as a function of images; in bf16 if half."""
    import openvino

    settings = dict(INFERENCE_NUM_THREADS=threads, INFERENCE_PRECISION_HINT='bf16' if half else 'f32')
    request = openvino.Core().compile_model(path, 'CPU', settings).create_infer_request()
    return lambda images: [*request.infer([images]).values()]


def _onnxruntime(arch: str, drop_path: float) -> nn.Module:
    return Exported(_ours(arch, drop_path), start_onnxruntime, halves=False)


def _openvino(arch: str, drop_path: float) -> nn.Module:
    return Exported(_ours(arch, drop_path), start_openvino, halves=True)


def _official(arch: str, drop_path: float) -> nn.Module:
    from models.convnext import ConvNeXt as Theirs  # the official repository, whose folder PYTHONPATH names

    depths, channels = ARCHS[arch]
    model = Theirs(depths=depths, dims=channels, drop_path_rate=drop_path)
    return _Stages(nn.Sequential(*pair) for pair in zip(model.downsample_layers, model.stages, strict=True))


CONTENDERS: dict[str, Callable[[str, float], nn.Module]] = {
    OURS: _ours,
    'ours-plain': partial(_ours, fused=False),  # layer by layer
    BY_TRITON: _ours_by_triton,  # on a GPU
    'timm': _timm,
    'torchvision': _torchvision,
    'transformers': _transformers,
    'mmpretrain': _mmpretrain,
    'official': _official,
    'onnxruntime': _onnxruntime,
    'openvino': _openvino,
}
RUNTIMES = 'onnxruntime', 'openvino'  # for inference alone: only where they are named
PEERS = tuple(name for name in CONTENDERS if not name.startswith(OURS))
MODULES = {'official': 'models.convnext'}  # what is imported, where it is not the name
LACKS = {'timm': ('huge',), 'torchvision': ('atto', 'femto', 'pico', 'nano', 'xlarge', 'huge')}
COMPILED = ', compiled'


def has(peer: str, arch: str) -> bool:
    """Whether a peer can be imported here and offers an arch."""
    if arch in LACKS.get(peer, ()):
        return False
    try:
        return importlib.util.find_spec(MODULES.get(peer, peer)) is not None
    except ModuleNotFoundError:  # of the parent package
        return False


def choose_contenders(peers: str | None, arch: str, compiled: bool) -> list[str]:
    """Names of contenders: ours, and the given peers (comma-separated) or all that are installed."""
    names = peers.split(',') if peers else [peer for peer in PEERS if peer not in RUNTIMES and has(peer, arch)]
    for name in names:
        if name not in CONTENDERS:
            raise UserError(f'--peers names {name!r}, which is none of {", ".join(PEERS)}.')
        if name in PEERS and not has(name, arch):
            raise UserError(f'The peer {name} is not installed here or has no {arch}: leave it out of --peers.')
    return [OURS, *names, *(name + COMPILED for name in (OURS, *names) if compiled)]


def build(contender: str, arch: str, drop_path: float, device: torch.device) -> nn.Module:
    """A contender's model with random weights, in channels-last memory format."""
    torch.manual_seed(0)
    name = contender.removesuffix(COMPILED)
    try:
        model = CONTENDERS[name](arch, drop_path).to(device, memory_format=torch.channels_last)
    except Exception as error:  # a package beside versions that it was not made for can fail in any way
        if name not in PEERS:
            raise
        raise UserError(f'The peer {name} does not work here ({error!r}): leave it out of --peers.') from error
    return torch.compile(model, dynamic=False) if contender.endswith(COMPILED) else model
