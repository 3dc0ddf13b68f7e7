"""Folders of a user's data: what lies in them, which split their names speak of, and how large images are."""

import contextlib
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePath

from ..utils.errors import UserError, printable
from ..utils.image_io import FORMATS, IMAGE_SUFFIXES
from .faults import Faults, name_image_fault

IMAGE_FOLDERS = ('images', 'jpegimages', 'imgs', 'img', 'image')  # in any case
_ORIENTATION, _TURNED = 0x0112, (5, 6, 7, 8)  # the EXIF tag, and its values for images on their side
_DEPTH = 4  # VOCdevkit/VOC2012/JPEGImages/<one more>
_SPLITS = dict(
    train=('train', 'training', 'trainset', 'trainval'),
    val=('val', 'valid', 'validation', 'valset', 'eval'),
    test=('test', 'testing', 'testset'),
)


def list_folders(root: Path, out_dir: Path | None = None, depth: int | None = _DEPTH) -> dict[Path, list[str]]:
    """List the files below a folder; hidden ones and what a run has written are left out.

    Args:
        root: The folder.
        out_dir: Where a run writes, which may lie in it.
        depth: How many folders deep to look; None is any depth, without links that lead in a circle.

    Returns:
        The sorted names of files by folder, parents first.

    Raises:
        UserError: ``root`` is no folder, or cannot be read.
    """

    def refuse(error: OSError) -> None:
        raise UserError(
            f'The folder {printable(str(error.filename))} cannot be read ({error.strerror}): point elsewhere with '
            f'--data-root.'
        ) from error

    found, written = {}, out_dir and os.path.realpath(out_dir)
    for folder, inner, files in os.walk(root, onerror=refuse, followlinks=True):
        deep = depth is not None and len(Path(folder).relative_to(root).parts) >= depth
        inner[:] = [] if deep else sorted(one for one in inner if not is_hidden(one) and one != 'work_dirs')
        above, places = Path(os.path.realpath(folder)), [os.path.realpath(os.path.join(folder, one)) for one in inner]
        inner[:] = [
            one
            for one, place in zip(inner, places, strict=True)
            if place != written and not above.is_relative_to(place)
        ]
        found[Path(folder)] = sorted(one for one in files if not is_hidden(one))
    return found


def name_split(path: PurePath) -> str | None:
    """The split that a file or folder is for, by the words in its name, else in that of the folder it lies in.

    Args:
        path: Relative to the folder of the data, whose own name says nothing.

    Returns:
        ``'train'``, ``'val'`` or ``'test'``; None where no name or several speak of one.
    """
    for part in reversed(path.parts):
        words = set(re.split('[^a-z]+', part.lower()))
        named = [split for split, names in _SPLITS.items() if words & set(names)]
        if named:
            return named[0] if len(named) == 1 else None
    return None


def find_images(files: Sequence[str]) -> list[str]:
    """Those of some file names that are images, and not hidden."""
    return [name for name in files if os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES and not is_hidden(name)]


def is_hidden(name: str) -> bool:
    """Whether a file or folder of this name is no data: hidden, or what macOS adds to archives."""
    return name[0] == '.' or name == '__MACOSX'


def pair_folders(
    folders: Mapping[Path, Sequence[str]], suffix: str, names: Sequence[str]
) -> Iterator[tuple[Path, Path]]:
    """Iterate over folders of images and those where their annotations lie, a file of the same name for an image.

    Args:
        folders: File names by folder.
        suffix: Of the annotations, such as ``'.txt'``.
        names: Of folders of annotations, in any case, which are in the place of one of :data:`IMAGE_FOLDERS` or
            beside one of any name; else annotations are beside the images.
    """
    annotated = {
        folder: {stem for stem, end in map(os.path.splitext, files) if end == suffix}
        for folder, files in folders.items()
    }
    spelled = {str(folder).lower(): folder for folder in folders}
    for folder, files in folders.items():
        images = {os.path.splitext(name)[0] for name in find_images(files)}
        for wanted in [*swap_part(folder, IMAGE_FOLDERS, names), folder, *(folder.parent / name for name in names)]:
            other = spelled.get(str(wanted).lower(), wanted)
            if images & annotated.get(other, set()):
                yield folder, other
                break


def swap_part(path: Path, old: Sequence[str], new: Sequence[str]) -> Iterator[Path]:
    """Iterate over a path with the last folder of one of the old names under one of the new ones."""
    parts = path.parts
    for i in range(len(parts) - 1, -1, -1):
        if parts[i].lower() in old:
            yield from (Path(*parts[:i], name, *parts[i + 1 :]) for name in new)
            return


def read_text(path: Path, declared: bool = False) -> str:
    """Read a text file.

    Args:
        path: The file.
        declared: It is XML, which may declare another encoding than UTF-8.

    Raises:
        UserError: It cannot be read, or is in another encoding.
    """
    encoding = 'utf-8-sig'
    try:
        content = path.read_bytes()
        if declared and (found := re.match(rb'<\?xml[^>]+encoding=["\']([\w-]+)', content)):
            encoding = found[1].decode()
        return '\n'.join(content.decode(encoding).splitlines())
    except (OSError, ValueError, LookupError) as error:
        shown = printable(encoding.removesuffix('-sig').upper())
        raise UserError(f'{printable(str(path))} cannot be read as {shown} text ({error}): replace it.') from error


def read_size(path: Path, split: str, faults: Faults) -> tuple[int, int]:
    """Read the width and height of an image as it is decoded, with its EXIF orientation applied.

    Args:
        path: The image.
        split: That it is of, for ``faults``.
        faults: Gets an image that cannot be read; then both are 0.
    """
    from PIL import Image

    try:
        with Image.open(path, formats=FORMATS) as image:
            width, height = image.size
            with contextlib.suppress(Exception):  # of any type: unreadable EXIF data is ignored
                if image.getexif().get(_ORIENTATION) in _TURNED:
                    width, height = height, width
            return width, height
    except Exception as error:  # of any type
        text = (
            f'The image {printable(str(path))} cannot be read ({printable(str(error))}): replace it, or leave it out.'
        )
        faults.add(name_image_fault(error), split, text, [str(path)])
        return 0, 0
