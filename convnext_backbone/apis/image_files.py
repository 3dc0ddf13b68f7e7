"""Files to predict, images and videos: finding them by name, folder and pattern, and naming a picture for each."""

import contextlib
import glob
import os
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..utils.errors import UserError, printable, shorten
from ..utils.files import check_work_dir, remove_link
from ..utils.image_io import IMAGE_SUFFIXES
from .videos import VIDEO_SUFFIXES

OVERVIEW, PREDICTIONS, CLASS_IDS, DATA_REPORT = 'overview.png', 'predictions.json', 'class_ids', 'check_data.json'
_MARK = '.unfinished'


class ImageFile(NamedTuple):
    """An image, a video or a frame of one, and where its picture is written."""

    image: Path
    picture: Path
    frame: int | None = None  # its number, from 0
    pixels: np.ndarray | None = None  # of a frame: RGB, (H, W, 3)

    @property
    def is_video(self) -> bool:
        """Whether it is a whole video."""
        return self.frame is None and self.image.suffix.lower() in VIDEO_SUFFIXES

    def entry(self) -> dict[str, Any]:
        """What names it in a json."""
        return dict(image=str(self.image)) | ({} if self.frame is None else dict(frame=self.frame))


@contextlib.contextmanager
def claimed_folder(out_dir: Path) -> Iterator[None]:
    """Context of a new or earlier folder of pictures, which is known as such also if the run is killed in it.

    Raises:
        UserError: It holds images that no earlier run has written, or cannot be written.
    """
    if out_dir.is_dir() and not _is_of_run(out_dir):
        kinds = IMAGE_SUFFIXES | VIDEO_SUFFIXES
        images = [str(path.relative_to(out_dir)) for path in sorted(out_dir.rglob('*')) if _is_of(kinds, path)]
        if images:
            raise UserError(
                f'The folder {printable(out_dir)}, where pictures are to be written, holds images that no earlier '
                f'run has written ({shorten(images)}): choose another --work-dir, or move them.'
            )
    check_work_dir(out_dir)
    mark = remove_link(out_dir / _MARK)
    mark.touch()
    yield
    mark.unlink()


def _is_of_run(folder: Path) -> bool:
    """Whether a run of predict.py, show_features.py, browse_data.py or check_data.py has written a folder."""
    pictures = folder.name in ('features', 'browse') and (folder / OVERVIEW).is_file()
    return pictures or any((folder / name).is_file() for name in (PREDICTIONS, DATA_REPORT, _MARK))


def find_images(sources: Iterable[str], out_dir: Path, videos: bool = False) -> list[ImageFile]:
    """Find images by name, in folders and by patterns, and name a picture for each below a folder; write nothing.

    Folders are read with their subfolders, which the pictures mirror, but without hidden ones and what was written by
    earlier runs. A pattern such as ``photos/**/*.jpg`` is that of the glob module; its pictures mirror the subfolders,
    too. Pictures of the same name get a number, and so does one that would have the name of another output.

    Args:
        sources: Image files, folders and patterns of them.
        out_dir: Where the pictures will be written.
        videos: Whether videos are found, too.

    Raises:
        UserError: A source does not exist, holds no image or lies in ``out_dir``.
    """
    kinds = IMAGE_SUFFIXES | (VIDEO_SUFFIXES if videos else set())
    found = []
    for source in map(Path, sources):
        if source.is_dir():
            inside = [(path, path.relative_to(source)) for path in _walk(source, out_dir.resolve(), kinds)]
            if not inside:
                raise UserError(f'The folder {printable(source)} holds no image ({", ".join(sorted(kinds))}).')
            found += inside
        elif source.is_file():
            found.append((source, Path(source.name)))
        elif glob.has_magic(str(source)):
            found += _match(source, out_dir.resolve(), kinds)
        else:
            raise UserError(f'The image {printable(source)} does not exist: name image files or folders of them.')
    names = [*_name_pictures((name for _, name in found), videos)]
    pictures = {_place(out_dir / name) for name in names}
    for image, _ in found:
        places = {_place(image), image.resolve()}
        if places & pictures or any(out_dir.resolve() in place.parents for place in places):
            raise UserError(
                f'The image {printable(image)} lies in {printable(out_dir)}, where the pictures are written, '
                f'and could be overwritten: move it, or choose another --work-dir.'
            )
    return [ImageFile(image, out_dir / name) for (image, _), name in zip(found, names, strict=True)]


def _place(path: Path) -> Path:
    """Where a file lies, which may be a link to another."""
    return path.parent.resolve() / path.name


def _is_of(kinds: set[str], path: Path) -> bool:
    return path.suffix.lower() in kinds and not path.name.startswith('.')


def _match(pattern: Path, out_dir: Path, kinds: set[str]) -> list[tuple[Path, Path]]:
    """The images that a pattern matches, and their paths below the last folder that it names."""
    root = next(folder for folder in pattern.parents if not glob.has_magic(str(folder)))
    places: dict[Path, Path] = {}  # ** follows links, also in a circle
    for path in map(Path, sorted(glob.glob(str(pattern), recursive=True))):
        if path.is_file() and _is_of(kinds, path):
            places.setdefault(path.resolve(), path)
    folders = {folder for path in places.values() for folder in path.parents}
    written = {folder for folder in sorted(folders) if _is_output(folder.resolve(), out_dir)}
    found = [path for path in places.values() if not written & {*path.parents}]
    if not found:
        raise UserError(f'The pattern {printable(pattern)} matches no image ({", ".join(sorted(kinds))}).')
    return [(path, path.relative_to(root)) for path in found]


def _walk(folder: Path, out_dir: Path, kinds: set[str]) -> Iterator[Path]:
    """The images of a folder and its subfolders, also behind links, in the order of their names."""

    def refuse(error: OSError) -> None:
        raise UserError(f'The folder {printable(error.filename)} cannot be read: {error.strerror}.') from error

    visited, others = {folder.resolve()}, []
    for root, folders, files in os.walk(folder, onerror=refuse, followlinks=True):
        places = {name: Path(root, name).resolve() for name in sorted(folders) if not name.startswith('.')}
        folders[:] = [name for name, place in places.items() if place not in visited and not _is_output(place, out_dir)]
        visited.update(places.values())
        yield from (Path(root, name) for name in sorted(files) if _is_of(kinds, Path(name)))
        others += [name for name in files if not name.startswith('.') and not _is_of(kinds, Path(name))]
    if others:
        listed = shorten(sorted({printable(Path(name).suffix.lower() or name) for name in others}))
        print(f'left out: {len(others)} files in {printable(folder)} of other kinds ({listed})', file=sys.stderr)


def _is_output(folder: Path, out_dir: Path) -> bool:
    written = folder != out_dir and _is_of_run(folder)
    if written:
        print(f'left out: {printable(folder)}, which an earlier run has written', file=sys.stderr)
    return written or folder == out_dir


def _name_pictures(names: Iterable[Path], videos: bool) -> Iterator[Path]:
    """Where each picture is written, such that no two outputs have the same name up to the suffix."""
    taken = {Path(OVERVIEW).stem}
    for name in names:
        suffix = name.suffix.lower() if name.suffix.lower() in {'.jpg', '.jpeg', '.png'} else '.png'
        suffix = '.mp4' if videos and name.suffix.lower() in VIDEO_SUFFIXES else suffix
        stem, number = name.with_name(name.stem), 2
        while taken & {str(stem), str(CLASS_IDS / stem)}:
            stem, number = name.with_name(f'{name.stem}_{number}'), number + 1
        taken |= {str(stem), str(CLASS_IDS / stem)}
        yield stem.with_name(stem.name + suffix)
