"""Writes a backbone, and the classifier around it if there is one, in the names of any dialect."""

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
from .key_maps import (
    CANONICAL,
    DINOV3,
    MMPRETRAIN,
    MMPRETRAIN_CLASSIFIER,
    OFFICIAL,
    TIMM,
    TORCHVISION,
    TRANSFORMERS,
)
from .load import compare
from .report import FileReport
from .safe_load import read_checkpoint

TARGETS = {
    'canonical': CANONICAL,
    'official': dataclasses.replace(CANONICAL, name='official', views=OFFICIAL.views),  # its detectors have norm{i} too
    'timm': TIMM,
    'torchvision': TORCHVISION,
    'transformers': TRANSFORMERS,
    'mmpretrain': MMPRETRAIN,
    'dinov3': DINOV3,
}
SUFFIXES = ('.safetensors', '.pth', '.pt', '.bin')
# What the library's own tools look below in a torch file; the others look for nothing.
_WRAPPERS = {'official': 'model', 'mmpretrain': 'state_dict'}
# timm builds these with 1x1 convolutions where the others have linear layers.
_CONV_MLP = ('atto', 'femto', 'pico', 'nano')


@dataclass
class Conversion(FileReport):
    """What became of a checkpoint.

    Attributes:
        config: The line of a config that builds the backbone.
        to: The dialect that was written.
        tensors: How many.
        parameters: How many numbers they hold.
        dtype: Of those.
        bytes: What they take.
        dropped: What the dialect has no name for, or the rest of a detector.
    """

    config: str
    to: str
    tensors: int
    parameters: int
    dtype: str
    bytes: int
    dropped: list[str]

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
    """Translates a checkpoint of any dialect into another, bit by bit.

    Args:
        source: As of :func:`.read_checkpoint`.
        to: A name of :data:`TARGETS`. A file with a classifier's norm or head becomes that library's classifier, any
            other its backbone.
        half: Round to fp16.
        prefix: As of :func:`.load_backbone`.
        ema: As of :func:`.load_backbone`.
        trust: As of :func:`.read_checkpoint`.

    Returns:
        The tensors by the dialect's names, and the report.

    Raises:
        CheckpointError: The file cannot be read.
        CheckpointMismatch: It holds no whole ConvNeXt, or one that the dialect cannot express.
    """
    source = os.fspath(source)
    found = choose_backbone(read_checkpoint(source, trust=trust), source, prefix, ema)
    arch = Architecture.of(found.tensors)
    if not arch.arguments():
        raise CheckpointMismatch(f'The checkpoint {source} ({arch}) is no whole ConvNeXt: only such can be converted.')
    report, _ = compare(empty_state(arch), found, source)
    if report.missing or report.mismatched or report.unexpected:
        raise CheckpointMismatch(f'The checkpoint is not whole; nothing was converted.\n{report}')
    _check_expressible(report, arch, found.tensors, to)
    names, dropped = _names(found.tensors, arch, to)
    tensors = {theirs: _stored(name, found.tensors[name], arch, to, half) for theirs, name in names.items()}
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
    """The tensors of a backbone without memory; without the norms of the stages, which a checkpoint may lack."""
    with torch.device('meta'):
        return MODELS.build(dict(type=arch.model, **arch.arguments(), out_norm=False)).state_dict()


def _check_expressible(report: FileReport, arch: Architecture, tensors: dict[str, Tensor], to: str) -> None:
    """Makes sure that a library can build the model: others would compute something else with its weights."""
    lacks = None
    if arch.isotropic and to not in ('canonical', 'official'):
        lacks = 'one stage, as isotropic models have'
    elif to in ('torchvision', 'dinov3') and not arch.layer_scale:
        lacks = 'no layer scale, as no V2 has'
    elif to not in ('canonical', 'timm') and 'head.weight' in tensors and 'norm.weight' not in tensors:
        lacks = 'a classifier without a norm after pooling'
    if lacks:
        raise CheckpointMismatch(
            f'The checkpoint {report.source} ({arch}) has {lacks}, and {to} has no such ConvNeXt: choose another --to.'
        )


def _names(tensors: dict[str, Tensor], arch: Architecture, to: str) -> tuple[dict[str, str], list[str]]:
    """The canonical name for each of the names to write, and the canonical names that are left out."""
    has_head, has_norm = 'head.weight' in tensors, 'norm.weight' in tensors
    table, root = TARGETS[to], ''
    if to == 'mmpretrain' and has_norm:
        table, root = MMPRETRAIN_CLASSIFIER, 'backbone.'
    elif to == 'transformers' and has_head:
        root = 'convnextv2.' if arch.use_grn else 'convnext.'
    names, dropped = {}, []
    for name in tensors:
        theirs = table.name_of(name)
        # A model with a norm after pooling has none of its stages.
        if theirs is None or (has_norm and to != 'canonical' and re.match(r'norm\d\.', name)):
            dropped.append(name)
            continue
        names[theirs if name.startswith('head.') else root + theirs] = name
        if to == 'dinov3' and name.startswith('norm.'):
            names[f'norms.3.{name.removeprefix("norm.")}'] = name  # there, the last stage's norm is that one again
    return names, sorted(dropped)


def _stored(name: str, tensor: Tensor, arch: Architecture, to: str, half: bool) -> Tensor:
    """A tensor in the shape and the type to write, in memory of its own."""
    part = re.sub(r'^(?:stages\.\d+|blocks)\.\d+\.', '', name)
    tensor = tensor.reshape(TARGETS[to].views.get(part, tensor.shape)).clone(memory_format=torch.contiguous_format)
    if to == 'timm' and arch.name in _CONV_MLP and part in ('pwconv1.weight', 'pwconv2.weight'):
        tensor = tensor[:, :, None, None]
    if half:
        tensor = tensor.half()
        if not tensor.isfinite().all():
            raise CheckpointMismatch(f'The tensor {name} holds numbers that fp16 cannot: convert without --half.')
    return tensor


def check_target(path: str | os.PathLike) -> None:
    """Makes sure that a checkpoint may be written under this name.

    Raises:
        ArgumentError: Its ending names no format.
        UserError: There is such a file already.
    """
    path = Path(path)
    if path.suffix not in SUFFIXES:
        raise ArgumentError(f'The ending of {path} names no format: take one of {", ".join(SUFFIXES)}.')
    if path.exists():
        raise UserError(f'{path} exists already: remove it or choose another name.')


def write_checkpoint(tensors: dict[str, Tensor], path: str | os.PathLike, to: str) -> None:
    """Writes tensors whole or not at all, as safetensors or torch by the ending of the path.

    Raises:
        UserError: The disk is full or the folder cannot be written.
    """
    path = Path(path)
    wrapper = _WRAPPERS.get(to)
    with replaced_atomically(path) as temporary:
        try:
            if path.suffix == '.safetensors':
                save_file(tensors, temporary, metadata={'format': 'pt'})  # transformers asks for this entry
            else:
                torch.save({wrapper: tensors} if wrapper else tensors, temporary)
        except (RuntimeError, SafetensorError) as error:  # neither says it as an OSError
            free = shutil.disk_usage(temporary.parent).free
            raise OSError(None, f'{error} ({free / 2**20:.0f} MiB are free)'.replace('\n', ' ')) from error
