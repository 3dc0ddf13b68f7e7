"""Conversion of a backbone, and of the classifier around it, to the weights format of another library."""

import dataclasses
import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

import torch
from mmengine.registry import MODELS
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from ..utils.errors import ArgumentError, CheckpointMismatch, UserError, shorten
from ..utils.files import replaced_atomically
from .detect import choose_backbone
from .infer_arch import Architecture
from .key_maps import MMPRETRAIN_CLASSIFIER, TARGETS
from .load import compare
from .report import FileReport
from .safe_load import read_checkpoint

SUFFIXES = ('.safetensors', '.pth', '.pt', '.bin')
# The key below which the library's own tools expect the weights in a torch file, if any.
_WRAPPERS = {'official': 'model', 'mmpretrain': 'state_dict'}
# timm builds these with 1x1 convolutions instead of linear layers.
_CONV_MLP = ('atto', 'femto', 'pico', 'nano')


@dataclass
class Conversion(FileReport):
    """What a file holds, and what it was converted to."""

    config: str  # the line of a config that builds the backbone
    to: str  # the weights format that was written
    tensors: int  # their number
    parameters: int  # the number of their elements
    dtype: str
    bytes: int
    dropped: list[str]  # names that the format lacks, or the rest of a detector

    def __str__(self) -> str:
        size = f'{self.parameters / 1e6:.2f}M parameters, {self.dtype}, {self.bytes / 2**20:.1f} MiB'
        lines = [self.headline(), f'  as {self.to}: {self.tensors} tensors, {size}']
        if self.dropped:
            lines.append(f'  dropped: {shorten(self.dropped)}')
        return '\n'.join([*lines, f'  the config line that fits: {self.config}'])


def convert_checkpoint(
    source: str | os.PathLike,
    to: str = 'canonical',
    half: bool = False,
    prefix: str | None = None,
    ema: bool = False,
    trust: bool = False,
) -> tuple[dict[str, Tensor], Conversion]:
    """Convert a checkpoint to another weights format, bit by bit.

    Args:
        source: As of :func:`.read_checkpoint`, like ``trust``.
        to: A name of :data:`TARGETS`. A file with a classifier's norm or head becomes that library's classifier, any
            other its backbone.
        half: Round to fp16.
        prefix: As of :func:`.load_backbone`, like ``ema``.
        ema: Convert the averaged weights of a file that has both.
        trust: Unpickle any type, which may run code in the file.

    Returns:
        The tensors by the format's names, and the report.

    Raises:
        CheckpointError: The file cannot be read.
        CheckpointMismatch: It holds no complete ConvNeXt, or one that the format cannot express.
    """
    source = os.fspath(source)
    found = choose_backbone(read_checkpoint(source, trust=trust), source, prefix, ema)
    arch = Architecture.of(found.tensors)
    if arch.unlike:
        raise CheckpointMismatch(
            f'The checkpoint {source} has {arch.unlike}, and no backbone of this package has that.'
        )
    if not arch.arguments():
        raise CheckpointMismatch(f'The checkpoint {source} ({arch}) is not a complete ConvNeXt: convert one that is.')
    report, _ = compare(empty_state(arch), found, source)
    if not report.complete:
        raise CheckpointMismatch(f'The checkpoint is not complete; nothing was converted.\n{report}')
    _check_expressible(source, arch, found.tensors, to)
    names, dropped = _translate_names(found.tensors, arch, to)
    tensors = {theirs: _to_layout(name, found.tensors[name], arch, to, half) for theirs, name in names.items()}
    return tensors, Conversion(
        **{entry.name: getattr(report, entry.name) for entry in dataclasses.fields(FileReport)},
        config=arch.config_line(),
        to=to,
        tensors=len(tensors),
        parameters=sum(tensor.numel() for tensor in tensors.values()),
        dtype=', '.join(sorted({str(tensor.dtype).removeprefix('torch.') for tensor in tensors.values()})),
        bytes=sum(tensor.numel() * tensor.element_size() for tensor in tensors.values()),
        dropped=dropped + found.outside,
    )


def empty_state(arch: Architecture) -> dict[str, Tensor]:
    """The state dict of a backbone on the meta device, without output norms, which a checkpoint may lack."""
    with torch.device('meta'):
        return MODELS.build(dict(type=arch.model, **arch.arguments(), out_norm=False)).state_dict()


def _check_expressible(source: str, arch: Architecture, tensors: dict[str, Tensor], to: str) -> None:
    """Check that a library can build the model: otherwise it would silently compute something else."""
    lacks = None
    if arch.isotropic and to not in ('canonical', 'official'):
        lacks = 'one stage, as isotropic models have'
    elif to in ('torchvision', 'dinov3') and not arch.layer_scale:
        lacks = 'no layer scale, as no V2 has'
    elif to not in ('canonical', 'timm') and 'head.weight' in tensors and 'norm.weight' not in tensors:
        lacks = 'a classifier without a norm after pooling'
    if lacks:
        raise CheckpointMismatch(
            f'The checkpoint {source} ({arch}) has {lacks}, and {to} has no such ConvNeXt: choose another --to.'
        )


def _translate_names(tensors: dict[str, Tensor], arch: Architecture, to: str) -> tuple[dict[str, str], list[str]]:
    """The canonical name of each name to write, and the canonical names that are dropped."""
    has_head, has_norm = 'head.weight' in tensors, 'norm.weight' in tensors
    table, root = TARGETS[to], ''
    if to == 'mmpretrain' and has_norm:
        table, root = MMPRETRAIN_CLASSIFIER, 'backbone.'
    elif to == 'transformers' and has_head:
        root = 'convnextv2.' if arch.use_grn else 'convnext.'
    names, dropped = {}, []
    for name in tensors:
        theirs = table.name_of(name)
        # A model with a norm after pooling has no output norms.
        if theirs is None or (has_norm and to != 'canonical' and re.match(r'norm\d\.', name)):
            dropped.append(name)
            continue
        names[theirs if name.startswith('head.') else root + theirs] = name
        if to == 'dinov3' and name.startswith('norm.'):
            names[f'norms.3.{name.removeprefix("norm.")}'] = name  # a second copy
    return names, sorted(dropped)


def _to_layout(name: str, tensor: Tensor, arch: Architecture, to: str, half: bool) -> Tensor:
    """A copy of a tensor in the shape and data type to write."""
    part = re.sub(r'^(?:stages\.\d+|blocks)\.\d+\.', '', name)
    tensor = tensor.reshape(TARGETS[to].views.get(part, tensor.shape)).clone(memory_format=torch.contiguous_format)
    if to == 'timm' and arch.arch in _CONV_MLP and part in ('pwconv1.weight', 'pwconv2.weight'):
        tensor = tensor[:, :, None, None]
    if half:
        tensor = tensor.half()
        if not tensor.isfinite().all():
            raise CheckpointMismatch(f'The tensor {name} has values beyond the range of fp16: convert without --half.')
    return tensor


def check_target(path: str | os.PathLike) -> None:
    """Raise unless a checkpoint may be written to a path: its suffix names a file format, and no such file exists."""
    path = Path(path)
    if path.suffix not in SUFFIXES:
        raise ArgumentError(f'The suffix of {path} names no file format: take one of {", ".join(SUFFIXES)}.')
    if path.exists():
        raise UserError(f'{path} exists already: remove it or choose another name.')


def write_checkpoint(tensors: dict[str, Tensor], path: str | os.PathLike, to: str) -> None:
    """Write tensors atomically, in safetensors' or torch's file format by the suffix of the path."""
    path = Path(path)
    wrapper = _WRAPPERS.get(to)
    with replaced_atomically(path) as temporary:
        try:
            if path.suffix == '.safetensors':
                save_file(tensors, temporary, metadata={'format': 'pt'})  # transformers asks for this entry
            else:
                torch.save({wrapper: tensors} if wrapper else tensors, temporary)
        except (RuntimeError, SafetensorError) as error:  # of a full disk, which neither library raises as OSError
            free = shutil.disk_usage(temporary.parent).free
            raise OSError(None, f'{error} ({free / 2**20:.0f} MiB are free)'.replace('\n', ' ')) from error
