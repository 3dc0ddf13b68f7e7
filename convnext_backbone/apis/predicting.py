"""Prediction of images and videos, batch by batch: going on after what cannot be used, and json as results come."""

import itertools
import json
import shutil
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

from tqdm import tqdm

from ..utils.errors import UserError, WriteError, printable, shorten
from ..utils.files import replaced_atomically
from ..utils.image_io import write_picture
from .image_files import ImageFile
from .videos import Video, VideoWriter

T = TypeVar('T')


class PredictionTask:
    """What predicting means for a task; base class of one for each."""

    def predict(self, files: Sequence[ImageFile]) -> list[dict[str, Any]]:
        """Predict images together: of each its ``file``, what was ``drawn``, RGB (H, W, 3), and what was found."""
        raise NotImplementedError

    def rows(self, prediction: dict[str, Any]) -> Iterable[dict[str, Any]]:
        """The entries of a prediction in the json."""
        raise NotImplementedError

    def enclose(self) -> tuple[str, str]:
        """What stands before and after all entries in the json."""
        return '[', ']'

    def describe(self, prediction: dict[str, Any]) -> str:
        """What was found, for people."""
        raise NotImplementedError


def predict_files(
    task: PredictionTask, files: Sequence[ImageFile], broken: dict[Path, str], batch_size: int = 1, every: int = 1
) -> Iterator[dict[str, Any]]:
    """Predict images and videos and write their pictures, with a progress bar on stderr.

    Args:
        task: Predicts and draws.
        files: As of :func:`.find_images`.
        broken: Gets a sentence on each file that cannot be used, or only in part.
        batch_size: How many images, or frames of a video, go through the model together.
        every: Which frames of a video are predicted: every n-th, from the first on.

    Yields:
        Predictions, without what was drawn.

    Raises:
        WriteError: A picture cannot be written.
    """
    with tqdm(total=len(files), unit=' images', file=sys.stderr) as bar:
        for is_video, group in itertools.groupby(files, key=lambda file: file.is_video):
            if not is_video:
                yield from _predict_images(task, group, broken, batch_size, bar)
                continue
            for file in group:
                yield from _predict_video(task, file, broken, batch_size, every, bar)


def _predict_images(
    task: PredictionTask, files: Iterable[ImageFile], broken: dict[Path, str], batch_size: int, bar: tqdm
) -> Iterator[dict[str, Any]]:
    for prediction in run_on_images(task.predict, _count(files, bar), broken, batch_size):
        write_picture(prediction.pop('drawn'), prediction['file'].picture)
        yield prediction


def _predict_video(
    task: PredictionTask, file: ImageFile, broken: dict[Path, str], batch_size: int, every: int, bar: tqdm
) -> Iterator[dict[str, Any]]:
    try:
        video = Video(file.image, every)
    except UserError as error:
        broken[file.image] = str(error)
        return
    bar.total += max(0, len(video) - 1)
    frames = (ImageFile(file.image, file.picture, number, pixels) for number, pixels in video)
    # All have one size: where the model cannot take a frame it takes no other.
    usable = itertools.takewhile(lambda _: file.image not in broken, frames)
    with VideoWriter(file.picture, video.fps) as writer:
        for prediction in run_on_images(task.predict, _count(usable, bar), broken, batch_size):
            writer.write(prediction.pop('drawn'))
            prediction['file'] = prediction['file']._replace(pixels=None)
            yield prediction
    if video.problem:
        broken.setdefault(file.image, video.problem)


def _count(files: Iterable[ImageFile], bar: tqdm) -> Iterator[ImageFile]:
    """Move the bar once a file was dealt with."""
    for file in files:
        yield file
        bar.update()


def run_on_images(
    run: Callable[[list[ImageFile]], list[T]], files: Iterable[ImageFile], broken: dict[Path, str], batch_size: int = 1
) -> Iterator[T]:
    """Run a function on batches of images, and go on after one that cannot be used.

    Args:
        run: A function of images. One that fails is called again with each image alone.
        files: Images.
        broken: Gets a sentence on each image that cannot be used.
        batch_size: Most images of a batch.

    Yields:
        What the function returns.

    Raises:
        WriteError: The function raised it.
    """
    rest = iter(files)
    while batch := [*itertools.islice(rest, batch_size)]:
        try:
            results = run(batch)
        except WriteError:
            raise
        except Exception as error:  # of a transform or the model, which may not take every size
            if len(batch) > 1:
                yield from run_on_images(run, batch, broken)
            else:
                broken.setdefault(batch[0].image, _explain(batch[0], error))
        else:
            yield from results


def _explain(file: ImageFile, error: Exception) -> str:
    name = f'The image {printable(file.image)}' if file.frame is None else f'Frame {file.frame} of {file.image}'
    if isinstance(error, UserError):
        named = file.image.name in str(error) or printable(file.image) in str(error)
        return str(error) if named and file.frame is None else f'{name} cannot be used: {error}'
    place = traceback.extract_tb(error.__traceback__)[-1]
    said = ' '.join(f'{type(error).__name__}: {error}'.split())
    reason = printable(f'{said}, {place.filename}:{place.lineno}')
    return f'{name} cannot be used ({reason}): leave it out.'


class PredictionsFile:
    """Context of a json file, which is written at the end, also after an exception; until then rows are on the disk.

    Args:
        path: The file; without predictions there is none.
        enclose: What stands before and after the rows, asked for at the end.
    """

    def __init__(self, path: Path, enclose: Callable[[], tuple[str, str]]) -> None:
        self._path, self._enclose = path, enclose
        self._rows = tempfile.TemporaryFile('w+', dir=path.parent)
        self._separator = ''
        self.number = 0  # of predictions

    def add(self, rows: Iterable[dict[str, Any]]) -> None:
        """Add the rows of a prediction."""
        for row in rows:
            self._rows.write(f'{self._separator}\n{json.dumps(row)}')
            self._separator = ','
        self.number += 1

    def __enter__(self) -> 'PredictionsFile':
        return self

    def __exit__(self, *raised: object) -> None:
        with self._rows:
            if self.number:
                before, after = self._enclose()
                self._rows.seek(0)
                with replaced_atomically(self._path) as temporary, temporary.open('w') as file:
                    file.write(before)
                    shutil.copyfileobj(self._rows, file)
                    file.write(f'\n{after}\n')


def refuse_broken(broken: dict[Path, str], number: int, written: bool) -> None:
    """Raise if files could not be used, or only in part, after naming each on stderr.

    Args:
        broken: A sentence on each.
        number: Of all files.
        written: Whether there are results.

    Raises:
        UserError: One sentence on them.
    """
    if len(broken) == number == 1:
        raise UserError(*broken.values())
    for sentence in broken.values():
        print(f'left out: {sentence}', file=sys.stderr)
    if broken:
        rest = 'the results of the others are written' if written else 'nothing is written'
        raise UserError(f'{len(broken)} of {number} images could not be used ({shorten([*broken])}): {rest}.')
