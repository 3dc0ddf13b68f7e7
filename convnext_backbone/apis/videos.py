"""Videos, read frame by frame and written picture by picture, by OpenCV."""

import math
import os
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

import cv2
import numpy as np

from ..utils.errors import UserError, WriteError, printable
from ..utils.files import remove_link, replaced_atomically

VIDEO_SUFFIXES = {'.mp4', '.m4v', '.mov', '.avi', '.mkv', '.webm', '.mpg', '.mpeg', '.wmv', '.flv', '.3gp', '.ogv'}
_SHORT = 1.0  # seconds that may lack at the end: what headers say of the length is no more exact


class Video:
    """The frames of a video, of which one is in memory at a time.

    Args:
        path: Its file.
        every: Which frames are read: every n-th, from the first on.

    Attributes:
        fps: Frames a second, of those that are read.
        problem: After all frames, a sentence on a video that ends before its header says, or None.

    Raises:
        UserError: It cannot be decoded.
    """

    def __init__(self, path: Path, every: int = 1) -> None:
        self._path, self._every = path, every
        # Only FFmpeg, and an absolute path: others take a name for a pattern, or for an address.
        self._capture = cv2.VideoCapture(os.path.abspath(path), cv2.CAP_FFMPEG)
        if not self._capture.isOpened():
            raise UserError(
                f'The video {printable(path)} cannot be decoded: its end may be missing, which holds the index of some '
                f'files; replace it or leave it out.'
            )
        fps = self._capture.get(cv2.CAP_PROP_FPS)
        self._fps = fps if math.isfinite(fps) and 0 < fps <= 1000 else 25.0
        self.fps = self._fps / every
        self.problem: str | None = None

    def __len__(self) -> int:
        """How many frames will be read: by the header, which may be wrong, and 0 where it does not say."""
        return math.ceil(max(0.0, self._capture.get(cv2.CAP_PROP_FRAME_COUNT)) / self._every)

    def __iter__(self) -> Iterator[tuple[int, np.ndarray]]:
        """Yield the number of each frame, from 0, and the frame, RGB (H, W, 3)."""
        number, end = 0, 0.0
        while self._capture.grab():
            end = self._capture.get(cv2.CAP_PROP_POS_MSEC) / 1000 + 1 / self._fps
            if number % self._every == 0:
                yield number, cv2.cvtColor(self._capture.retrieve()[1], cv2.COLOR_BGR2RGB)
            number += 1
        announced = self._capture.get(cv2.CAP_PROP_FRAME_COUNT)
        if number < announced and end + _SHORT < announced / self._fps:
            self.problem = (
                f'The video {printable(self._path)} breaks off after {number} of {announced:.0f} frames: those before '
                f'are predicted; replace it for the rest.'
            )
        self._capture.release()


class VideoWriter:
    """Context that writes an mp4 of pictures, which have the size of the first, or are cut or filled up to it.

    What was written before an exception is kept.

    Args:
        path: Where.
        fps: Pictures a second.

    Raises:
        WriteError: It cannot be written.
    """

    def __init__(self, path: Path, fps: float) -> None:
        self._path, self._fps = path, fps
        self._unfinished = path.with_name(f'.{path.stem}.unfinished.mp4')
        self._writer: cv2.VideoWriter | None = None
        self._number, self._size = 0, (0, 0)

    def __enter__(self) -> 'VideoWriter':
        return self

    def write(self, picture: np.ndarray) -> None:
        """Add a picture, RGB (H, W, 3)."""
        height, width = picture.shape[:2]
        if self._writer is None:
            self._size = height, width
            self._path.parent.mkdir(parents=True, exist_ok=True)
            name = str(remove_link(self._unfinished).absolute())
            # The only codec that OpenCV's packages write fast enough and into an mp4.
            code = cv2.VideoWriter.fourcc(*'mp4v')
            self._writer = cv2.VideoWriter(name, cv2.CAP_FFMPEG, code, self._fps, (width, height))
        if (height, width) != self._size:
            canvas = np.full((*self._size, 3), 255, np.uint8)
            part = picture[: self._size[0], : self._size[1]]
            canvas[: part.shape[0], : part.shape[1]] = part
            picture = canvas
        self._writer.write(cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))
        self._number += 1

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._writer is None:
            return
        self._writer.release()
        # It says nothing where a disk is full.
        if cv2.VideoCapture(str(self._unfinished.absolute())).get(cv2.CAP_PROP_FRAME_COUNT) != self._number:
            self._unfinished.unlink(missing_ok=True)
            raise WriteError(
                f'The video {printable(self._path)} cannot be written: free space there or choose another --work-dir.'
            )
        with replaced_atomically(self._path) as temporary:
            os.replace(self._unfinished, temporary)
