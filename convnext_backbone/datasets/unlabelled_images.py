"""Images without labels: all below a folder, those in tar files included, or those of a list or a COCO json."""

import io
import tarfile
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, BinaryIO

import msgspec
import numpy as np
import torch
from mmengine.registry import DATASETS
from msgspec import Raw, Struct
from torch import Tensor
from torch.utils.data import Dataset

from ..utils.errors import UserError, printable, shorten
from ..utils.validation import integers
from .coco_format import CocoFile, CocoProblem, read_coco
from .folders import find_images, is_hidden, list_folders
from .timm_dataset import MAX_BROKEN_IN_A_ROW, build_transform, read_first

if TYPE_CHECKING:
    from PIL.Image import Image

CHANNELS = integers(1, 4)  # that image files have
_TAR = '.tar'


class ImageFiles:
    """Images by name, as timm's readers give them: files, and members of tar files (``shard-0001.tar/a/b.jpg``).

    A member is read at its place in the tar file, which is not unpacked and of which no file stays open.

    Args:
        folder: That the names are relative to.
        names: Of the images.

    Attributes:
        archives: The tar files that images lie in.

    Raises:
        UserError: A tar file cannot be read.
    """

    def __init__(self, folder: Path, names: Sequence[str]) -> None:
        self.folder, self.names = folder, names
        self.archives = sorted({tar for tar, member in map(self._split, names) if member})
        self._members = {tar: find_members(folder / tar) for tar in self.archives}

    def _split(self, name: str) -> tuple[str, str]:
        """The tar file that an image lies in, and its name there; of other images the name, and nothing."""
        tar, mark, member = name.partition(f'{_TAR}/')
        return (tar + _TAR, member) if mark and (self.folder / (tar + _TAR)).is_file() else (name, '')

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> tuple[BinaryIO, None]:
        name, member = self._split(self.names[index])
        if not member:
            return (self.folder / name).open('rb'), None
        start, size = self._members[name][member]
        with (self.folder / name).open('rb') as file:
            file.seek(start)
            return io.BytesIO(file.read(size)), None

    def filename(self, index: int) -> str:
        """The name of an image."""
        return self.names[index]


def find_members(path: Path) -> dict[str, tuple[int, int]]:
    """Find the images in a tar file, by its headers alone: where each begins, and its size in bytes.

    Raises:
        UserError: It is missing, compressed, truncated or no tar file.
    """
    found = {}
    try:
        with tarfile.open(path, 'r:') as archive:
            for member in archive:
                parts = PurePosixPath(member.name).parts
                if member.isreg() and find_images(parts[-1:]) and not any(map(is_hidden, parts)):
                    found['/'.join(parts)] = member.offset_data, member.size
    except (OSError, tarfile.TarError) as error:
        raise UserError(
            f'The tar file {printable(path)} cannot be read ({error}): fetch or write it again, without compression.'
        ) from error
    return found


def list_names(folder: Path, out_dir: Path | None = None) -> list[str]:
    """List all images below a folder, at any depth and in tar files, too, by name as of :class:`ImageFiles`.

    Hidden ones are left out, and what a run has written.

    Args:
        folder: The folder.
        out_dir: Where a run writes, which may lie in it.

    Raises:
        UserError: It is no folder, or something in it cannot be read.
    """
    names = []
    for place, files in list_folders(folder, out_dir, depth=None).items():
        inside = '' if place == folder else f'{place.relative_to(folder).as_posix()}/'
        names += [f'{inside}{name}' for name in find_images(files)]
        for tar in files:
            if tar.endswith(_TAR):
                names += [f'{inside}{tar}/{member}' for member in find_members(place / tar)]
    return names


class _ImagesAlone(CocoFile, kw_only=True):
    """A file that need not have categories."""

    categories: list[Raw] = []


class _Named(Struct):
    file_name: str


def read_names(path: Path) -> list[str]:
    """Read the names of images: of a COCO json those of ``images``, of other files the lines.

    Raises:
        UserError: The file cannot be read.
    """
    try:
        if path.suffix.lower() != '.json':
            text = path.read_text(encoding='utf-8-sig', errors='surrogateescape')  # as file systems have names
            return [*filter(None, text.split('\n'))]
        images = read_coco(path, _ImagesAlone).images
        return [msgspec.json.decode(image, type=_Named).file_name for image in images]
    except OSError as error:
        raise UserError(f'The list {printable(path)} cannot be read ({error.strerror}): name another.') from error
    except (CocoProblem, msgspec.ValidationError) as error:
        raise UserError(
            f'The list {printable(path)} names no images as COCO json does: it {printable(error)}.'
        ) from error


def keep_channels(image: 'Image') -> 'Image | Tensor':
    """Make a tensor (C, H, W) of an image that is not RGB, for transforms.

    Pillow takes the last of two or four channels for transparency, and would weigh the others by it.
    """
    if image.mode == 'RGB':
        return image
    values = torch.from_numpy(np.array(image))
    return values.view(*values.shape[:2], -1).permute(2, 0, 1)


@DATASETS.register_module()
class UnlabelledImages(Dataset):
    """Map-style data set of images without labels, for pre-training.

    Args:
        data_root: The folder of the data set.
        data_prefix: The part of it: a folder, whose images may lie at any depth and in tar files (also shards of
            webdataset), or a tar file.
        ann_file: A list of the images, relative to that folder, one a line, or a COCO json; below ``data_root`` or
            absolute. By default all are used.
        transform: Settings of :func:`.build_transform`.
        is_training: Whether to augment.
        channels: Of the images, as of :func:`.decode_image`: the ``in_channels`` of the backbone.

    Raises:
        ArgumentError: ``channels`` is out of range.
        UserError: There are no images, or a tar file or list cannot be read.
    """

    def __init__(
        self,
        data_root: str,
        data_prefix: str = '',
        ann_file: str = '',
        transform: dict | None = None,
        is_training: bool = False,
        channels: int = 3,
    ) -> None:
        CHANNELS.check('channels', channels)
        folder = Path(data_root) / data_prefix
        if ann_file:
            names = read_names(Path(data_root) / ann_file)
        elif folder.suffix == _TAR and folder.is_file():
            folder, names = folder.parent, [f'{folder.name}/{member}' for member in find_members(folder)]
        else:
            names = list_names(folder)
        if not names:
            raise UserError(
                f'There are no images in {printable(ann_file or folder.absolute())}: point elsewhere with --data-root.'
            )
        self.reader = ImageFiles(folder, names)
        plain = {} if channels == 3 else dict(color_jitter=None)  # which is for colours
        self.transform = build_transform(is_training, **{**plain, **(transform or {})})
        self.channels = channels
        self.metainfo: dict = dict(classes=())

    def __len__(self) -> int:
        return len(self.reader)

    def __getitem__(self, index: int) -> dict:
        """Read an image; an unreadable one is replaced by the next.

        Returns:
            ``inputs``, bytes of (channels, H, W); ``names``, that of the image; ``broken``, the names of unreadable
            ones, one a line.

        Raises:
            UserError: Too many images in a row are unreadable.
        """
        image, _, broken = read_first(self.reader, index, MAX_BROKEN_IN_A_ROW, self.channels)
        if image is None:
            raise UserError(f'{len(broken)} images in a row cannot be read ({shorten(broken)}): fix the data.')
        name = self.reader.filename((index + len(broken)) % len(self))
        return dict(inputs=self.transform(keep_channels(image)), names=name, broken='\n'.join(broken))
