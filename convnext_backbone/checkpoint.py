"""Reads checkpoint files safely and loads them whole or not at all.

A file is only ever unpickled with torch's ``weights_only`` reader, which builds tensors and plain containers. The few
types that a training state of mmengine needs on top are allowed by name, so nothing in a file can run code. Importing
this module puts that reader in the place of mmengine's own, through mmengine's registry of checkpoint loaders: it then
serves ``init_cfg``, ``load_from``, resuming and testing alike. (mmengine 0.10.7 cannot read its own checkpoints on
torch >= 2.6; onedl-mmengine reads a file that the safe reader refuses once more without its protection.)
"""

import os
import pickle
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.error import URLError

import numpy as np
import torch
from mmengine.logging import HistoryBuffer, print_log
from mmengine.runner import CheckpointLoader
from torch import Tensor, nn

from .errors import CheckpointError, CheckpointMismatch

_URL = ('http://', 'https://')
# Schemes whose loaders in mmengine unpickle by themselves, out of reach of the safe reader.
_REFUSED_SCHEMES = ('pavi://', r'(\S+\:)?s3://', r'(\S+\:)?petrel://')


def _statistic(owner: object, name: str) -> object:
    """Stands in for ``getattr``, by which a pickled HistoryBuffer names its statistics; refuses any other use."""
    if owner is not HistoryBuffer or name not in ('min', 'max', 'mean', 'current'):
        raise pickle.UnpicklingError(f'GLOBAL getattr({getattr(owner, "__name__", "?")}.{name})')
    return getattr(HistoryBuffer, name)


def _safe_types() -> list:
    """What a training state holds beside tensors: mmengine's message hub, with numpy arrays and scalars in it."""
    reconstruct = np.empty(0).__reduce__()[0]
    scalar = np.float64(0).__reduce__()[0]
    types: list = [HistoryBuffer, (_statistic, 'builtins.getattr'), np.ndarray, np.dtype]
    types += [getattr(np.dtypes, name) for name in np.dtypes.__all__ if name.endswith('DType')]
    for function in (reconstruct, scalar):  # the module is called numpy.core before numpy 2, numpy._core after
        types += [(function, f'numpy.{core}.multiarray.{function.__name__}') for core in ('core', '_core')]
    return types


def read_checkpoint(source: str | os.PathLike, map_location: Any = 'cpu') -> Any:
    """Reads a checkpoint without ever running code from it.

    Args:
        source: Path, ``file://`` or ``http(s)://`` address of a ``.pth``, ``.pt``, ``.bin`` or ``.safetensors`` file.
        map_location: As of :func:`torch.load`.

    Returns:
        What the file holds, a dict as a rule.

    Raises:
        CheckpointError: The file is missing, cut off, not a checkpoint, or holds types that could run code.
    """
    source = os.fspath(source)
    path = _download(source) if source.startswith(_URL) else Path(source.removeprefix('file://')).expanduser()
    if not path.is_file():
        raise CheckpointError(f'The checkpoint {source} does not exist: check the path.')
    try:
        if path.suffix == '.safetensors':
            from safetensors.torch import load_file

            return load_file(path, device=str(map_location or 'cpu'))
        with torch.serialization.safe_globals(_safe_types()):
            return torch.load(path, map_location=map_location, weights_only=True)
    except pickle.UnpicklingError as error:
        forbidden = re.search(r'GLOBAL (\S+)|(?:function|class|type) (\S+)', str(error))
        if forbidden is None:
            raise CheckpointError(_damaged(source)) from error
        name = (forbidden[1] or forbidden[2]).strip('`\'"')
        raise CheckpointError(
            f'The checkpoint {source} was refused: it holds {name}, which is neither a tensor nor part of a training '
            f'state and could run code; nothing of it was run. Use a file from a source that you trust.'
        ) from error
    except OSError as error:
        raise CheckpointError(f'The checkpoint {source} cannot be read: {error.strerror or error}.') from error
    except Exception as error:  # what a parser raises on damaged bytes is not limited to a few types
        raise CheckpointError(_damaged(source)) from error


def _damaged(source: str) -> str:
    return f'The checkpoint {source} cannot be read: it is cut off or no checkpoint; copy or download it again.'


def _download(url: str) -> Path:
    """Fetches a file into torch hub's cache, once."""
    target = Path(torch.hub.get_dir()) / 'checkpoints' / url.rsplit('/', 1)[-1].partition('?')[0]
    if not target.is_file():
        target.parent.mkdir(parents=True, exist_ok=True)
        print_log(f'Downloading {url} to {target}', logger='current')
        try:
            torch.hub.download_url_to_file(url, str(target))
        except (URLError, OSError) as error:
            reason = getattr(error, 'reason', error)
            raise CheckpointError(
                f'The checkpoint {url} cannot be downloaded ({reason}): put the file at {target}, or start from '
                f'random weights with --cfg-options model.backbone.init_cfg=None.'
            ) from error
    return target


def _refuse(source: str, map_location: Any = None) -> None:
    raise CheckpointError(f'The checkpoint {source} was refused: this scheme has no safe reader; download it first.')


def _load_from_safe(source: str, map_location: Any = None) -> Any:
    return read_checkpoint(source, map_location)


CheckpointLoader.register_scheme(prefixes=('', 'file://', *_URL), loader=_load_from_safe, force=True)
CheckpointLoader.register_scheme(prefixes=_REFUSED_SCHEMES, loader=_refuse, force=True)


def mismatch_sentence(checkpoint: str, error: Exception) -> str:
    """One sentence on what torch or mmengine says of a state dict that does not fit."""
    details = ' '.join(line.strip() for line in str(error).splitlines()[1:])
    return (
        f'The checkpoint {checkpoint} does not fit the model of the config ({details[:300]}): use the config that it '
        f'was trained with.'
    )


@dataclass
class LoadReport:
    """What became of a checkpoint's tensors.

    Attributes:
        source: Where they came from.
        arch: What the file is, from its shapes: ``'tiny, V1'``.
        loaded: Names of the filled tensors.
        new: Names that the file does not have and may lack: the norms ``norm{i}`` of dense prediction.
        dropped: Names in the file that a backbone has no use for: classifier heads, or the rest of a detector.
        missing: Names that nothing filled.
        mismatched: Names whose shape differs, with both shapes.
        unexpected: Names in the file that no backbone has.
    """

    source: str
    arch: str
    loaded: list[str] = field(default_factory=list)
    new: list[str] = field(default_factory=list)
    dropped: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    mismatched: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        lines = [f'Checkpoint {self.source} ({self.arch}): {len(self.loaded)} tensors loaded']
        for kind in ('new', 'dropped', 'missing', 'mismatched', 'unexpected'):
            names = getattr(self, kind)
            if names:
                shown = ', '.join(names[:4]) + (f', ... ({len(names)} in all)' if len(names) > 4 else '')
                lines.append(f'  {kind}: {shown}')
        return '\n'.join(lines)


def load_backbone(model: nn.Module, source: str | os.PathLike, prefix: str | None = None) -> LoadReport:
    """Fills a :class:`ConvNeXt` from a checkpoint of the official code or of this project, whole or not at all.

    Args:
        model: The backbone.
        source: As of :func:`read_checkpoint`; a backbone, a classifier or a whole detector.
        prefix: Take only the tensors under this prefix, ``'backbone.'`` for instance. Found by itself if None.

    Returns:
        The report, which is also logged.

    Raises:
        CheckpointError: The file cannot be read.
        CheckpointMismatch: Some tensor of the backbone would not be filled; the model is left as it was.
    """
    stored, dropped = _peel(read_checkpoint(source), prefix)
    own = model.state_dict()
    report = LoadReport(os.fspath(source), describe(stored), dropped=dropped)
    for name, tensor in own.items():
        if name not in stored:
            (report.new if re.match(r'norm\d\.', name) else report.missing).append(name)
        elif not _fits(tensor, stored[name]):
            report.mismatched.append(f'{name} {tuple(stored[name].shape)} for {tuple(tensor.shape)}')
        else:
            report.loaded.append(name)
    for name in stored.keys() - own.keys():
        (report.dropped if _unused(name, len(model.stages)) else report.unexpected).append(name)
    if report.missing or report.mismatched or report.unexpected:
        raise CheckpointMismatch(
            f'The checkpoint does not fit the backbone, which is {describe(own)}; nothing was loaded.\n{report}'
        )
    model.load_state_dict({name: stored[name] for name in report.loaded}, strict=False)
    print_log(str(report), logger='current')
    return report


def _fits(own: Tensor, stored: Tensor) -> bool:
    """Equal shapes, or a vector with extra dimensions of 1 (GRN's in official checkpoints)."""
    return own.shape == stored.shape or (own.ndim == 1 and own.numel() == stored.numel() == max(stored.shape))


def _unused(name: str, stages: int) -> bool:
    """Whether a backbone of so many stages has no use for a tensor: heads, norms of other maps, later stages."""
    later = re.match(r'(?:stages|downsample_layers)\.(\d+)\.', name)
    return int(later[1]) >= stages if later else re.match(r'head\.|norm\d?\.', name) is not None


def _peel(checkpoint: Any, prefix: str | None) -> tuple[dict[str, Tensor], list[str]]:
    """Takes off the wrappers around a state dict and around its names; also returns the names outside the backbone."""
    while isinstance(checkpoint, dict):
        inner = next(
            (checkpoint[key] for key in ('state_dict', 'model') if isinstance(checkpoint.get(key), dict)), None
        )
        if inner is None:
            break
        checkpoint = inner
    tensors = {k: v for k, v in checkpoint.items() if isinstance(v, Tensor)} if isinstance(checkpoint, dict) else {}
    for wrapper in ('module.', '_orig_mod.'):
        tensors = {name.removeprefix(wrapper): tensor for name, tensor in tensors.items()}
    if prefix is None:
        prefix = 'backbone.' if any(name.startswith('backbone.') for name in tensors) else ''
    inside = {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
    return inside, [name for name in tensors if not name.startswith(prefix)]


def describe(tensors: dict[str, Tensor]) -> str:
    """Names the architecture of a backbone from its tensors: ``'tiny, V1'``."""
    from .convnext import ARCHS  # the model file imports this one

    blocks = {(int(m[1]), int(m[2])) for name in tensors if (m := re.match(r'stages\.(\d+)\.(\d+)\.', name))}
    stem = tensors.get('downsample_layers.0.0.weight')
    if not blocks or stem is None:
        return 'not a ConvNeXt with official names'
    depths = tuple(sum(stage == i for stage, _ in blocks) for i in range(4))
    version = 'V2' if any('.grn.' in name for name in tensors) else 'V1'
    for arch, (arch_depths, arch_channels) in ARCHS.items():
        if depths == arch_depths and stem.shape[0] == arch_channels[0]:
            return f'{arch}, {version}'
    return f'depths {depths}, {stem.shape[0]} channels after the stem, {version}'
