"""Image files to predict: finding them, naming a picture for each, and going on after one that cannot be used."""

import contextlib
import json
import os
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from mmengine.utils import track_iter_progress

from ..utils.errors import UserError, WriteError, printable, shorten
from ..utils.files import check_work_dir, remove_link
from ..utils.image_io import IMAGE_SUFFIXES

OVERVIEW, PREDICTIONS, CLASS_IDS, DATA_REPORT = 'overview.png', 'predictions.json', 'class_ids', 'check_data.json'
_MARK = '.unfinished'


class ImageFile(NamedTuple):
    """An image, and where its picture is written."""

    image: Path
    picture: Path


@contextlib.contextmanager
def claimed_folder(out_dir: Path) -> Iterator[None]:
    """Context of a new or earlier folder of pictures, which is known as such also if the run is killed in it.

    Raises:
        UserError: It holds images that no earlier run has written, or cannot be written.
    """
    if out_dir.is_dir() and not _is_of_run(out_dir):
        images = [str(path.relative_to(out_dir)) for path in sorted(out_dir.rglob('*')) if _is_image(path)]
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


def find_images(sources: Iterable[str], out_dir: Path) -> list[ImageFile]:
    """Find image files by name and in folders, and name a picture for each below a folder; write nothing.

    Folders are read with their subfolders, which the pictures mirror, but without hidden ones and what was written by
    earlier runs. Pictures of the same name get a number, and so does one that would have the name of another output.

    Args:
        sources: Image files and folders of them.
        out_dir: Where the pictures will be written.

    Raises:
        UserError: A source does not exist, holds no image or lies in ``out_dir``.
    """
    found = []
    for source in map(Path, sources):
        if source.is_dir():
            inside = [(path, path.relative_to(source)) for path in _walk(source, out_dir.resolve())]
            if not inside:
                raise UserError(f'The folder {printable(source)} holds no image ({", ".join(sorted(IMAGE_SUFFIXES))}).')
            found += inside
        elif source.is_file():
            found.append((source, Path(source.name)))
        else:
            raise UserError(f'The image {printable(source)} does not exist: name image files or folders of them.')
    names = [*_name_pictures(name for _, name in found)]
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


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith('.')


def _walk(folder: Path, out_dir: Path) -> Iterator[Path]:
    """The images of a folder and its subfolders, also behind links, in the order of their names."""

    def refuse(error: OSError) -> None:
        raise UserError(f'The folder {printable(error.filename)} cannot be read: {error.strerror}.') from error

    visited, others = {folder.resolve()}, []
    for root, folders, files in os.walk(folder, onerror=refuse, followlinks=True):
        places = {name: Path(root, name).resolve() for name in sorted(folders) if not name.startswith('.')}
        folders[:] = [name for name, place in places.items() if place not in visited and not _is_output(place, out_dir)]
        visited.update(places.values())
        yield from filter(_is_image, (Path(root, name) for name in sorted(files)))
        others += [name for name in files if not name.startswith('.') and not _is_image(Path(name))]
    if others:
        kinds = shorten(sorted({printable(Path(name).suffix.lower() or name) for name in others}))
        print(f'left out: {len(others)} files in {printable(folder)} of other kinds ({kinds})', file=sys.stderr)


def _is_output(folder: Path, out_dir: Path) -> bool:
    written = folder != out_dir and _is_of_run(folder)
    if written:
        print(f'left out: {printable(folder)}, which an earlier run has written', file=sys.stderr)
    return written or folder == out_dir


def _name_pictures(names: Iterable[Path]) -> Iterator[Path]:
    """Where each picture is written, such that no two outputs have the same name up to the suffix."""
    taken = {Path(OVERVIEW).stem}
    for name in names:
        suffix = name.suffix.lower() if name.suffix.lower() in {'.jpg', '.jpeg', '.png'} else '.png'
        stem, number = name.with_name(name.stem), 2
        while taken & {str(stem), str(CLASS_IDS / stem)}:
            stem, number = name.with_name(f'{name.stem}_{number}'), number + 1
        taken |= {str(stem), str(CLASS_IDS / stem)}
        yield stem.with_name(stem.name + suffix)


def run_on_images(
    run: Callable[[Path, Path], dict], images: list[ImageFile], broken: dict[Path, str]
) -> Iterator[dict]:
    """Run a function on images, with a progress bar on stderr, and go on after one that cannot be used.

    Args:
        run: A function of an image and its picture, which it writes.
        images: As of :func:`find_images`.
        broken: Gets a sentence on each image that cannot be used.

    Yields:
        What the function returns.

    Raises:
        WriteError: A picture cannot be written.
    """
    for image, picture in track_iter_progress((images, len(images)), file=sys.stderr):
        try:
            result = run(image, picture)
        except WriteError:
            raise
        except UserError as error:
            named = image.name in str(error) or printable(image) in str(error)
            broken[image] = str(error) if named else f'The image {printable(image)} cannot be used: {error}'
        except Exception as error:  # of a transform or the model, which may not take every size
            place = traceback.extract_tb(error.__traceback__)[-1]
            said = ' '.join(f'{type(error).__name__}: {error}'.split())
            reason = printable(f'{said}, {place.filename}:{place.lineno}')
            broken[image] = f'The image {printable(image)} cannot be used ({reason}): leave it out.'
        else:
            yield result


def predictions_json(predictions: list[dict]) -> str:
    """Convert predictions to json, all but the places of their pictures."""
    kept = [{key: value for key, value in one.items() if key != 'picture'} for one in predictions]
    return json.dumps(kept, indent=1, default=str)  # paths are written as text


def refuse_broken(broken: dict[Path, str], number: int) -> None:
    """Raise if images were left out, after naming each on stderr.

    Raises:
        UserError: One sentence on them.
    """
    if len(broken) == number == 1:
        raise UserError(*broken.values())
    for sentence in broken.values():
        print(f'left out: {sentence}', file=sys.stderr)
    if broken:
        rest = 'the results of the others are written' if len(broken) < number else 'nothing is written'
        raise UserError(f'{len(broken)} of {number} images could not be used ({shorten([*broken])}): {rest}.')
