"""Videos, frame by frame: read, and written beside what was labelled. By PyAV (the extra ``[video]``), which has FFmpeg in it.

Shapes: ``H``, ``W`` pixels.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from densemtmd.errors import UserError
from densemtmd.files import atomic_write

SUFFIXES = (".mp4", ".mov", ".m4v", ".avi", ".mkv", ".webm", ".mpg", ".mpeg")
"""What is taken for a video."""

NOTE = "comment"
"""Where a video's note stands among what it tells of itself."""


def is_video(path: str | Path) -> bool:
    """Whether a file is called like a video."""
    return Path(path).suffix.lower() in SUFFIXES


class Video:
    """A video that is read; a context manager.

    Args:
        path: the file.

    Raises:
        UserError: it cannot be read, holds no pictures, or PyAV is not installed.
    """

    def __init__(self, path: Path) -> None:
        self.path, av = path, _av(path)
        try:
            self.file = av.open(str(path))
        except (OSError, ValueError) as error:
            raise UserError(f"{path} cannot be read as a video ({_reason(error)}): is it one, and whole?") from error
        if not self.file.streams.video:
            self.file.close()
            raise UserError(f"{path} holds no pictures, expected a video")
        stream = self.file.streams.video[0]
        stream.thread_type = "AUTO"
        self.rate = Fraction(stream.average_rate or 25)  # frames a second
        self.frames: int = stream.frames                 # how many, as the file says; 0: it does not

    def __iter__(self) -> Iterator[np.ndarray]:
        """(H, W, 3) uint8 RGB of one frame after the other, upright.

        Raises:
            UserError: the file is damaged.
        """
        try:
            for frame in self.file.decode(video=0):
                turns = round(getattr(frame, "rotation", 0) / 90) % 4  # counterclockwise
                yield np.ascontiguousarray(np.rot90(frame.to_ndarray(format="rgb24"), turns))
        except (OSError, ValueError) as error:
            raise UserError(f"{self.path} cannot be decoded ({_reason(error)}): it is damaged or cut off, copy it again") from error

    def __enter__(self) -> Video:
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()


class Writer:
    """Writes frames, all of one size, one after the other."""

    def __init__(self, file: Any, rate: Fraction, lossless: bool) -> None:
        self.file, self.rate, self.lossless = file, rate, lossless
        self.stream: Any = None  # from the first frame on, which tells the size

    def add(self, frame: np.ndarray) -> None:
        """(H, W, 3) uint8 RGB; or, lossless, (H, W) uint8."""
        import av

        if self.stream is None:
            codec = "ffv1" if self.lossless else next((c for c in ("libx264", "mpeg4") if c in av.codecs_available), "mpeg4")
            self.stream = self.file.add_stream(codec, rate=self.rate)
            even = (size if self.lossless else size // 2 * 2 or 2 for size in frame.shape[:2])  # the usual format halves its colours
            self.stream.height, self.stream.width = even
            self.stream.pix_fmt = "gray" if self.lossless else "yuv420p"
        frame = np.ascontiguousarray(frame[: self.stream.height, : self.stream.width])
        shown = av.VideoFrame.from_ndarray(frame, format="gray" if self.lossless else "rgb24")
        self.file.mux(self.stream.encode(shown))

    def close(self) -> None:
        """Writes what is still on its way."""
        if self.stream is not None:
            self.file.mux(self.stream.encode(None))


@contextmanager
def written(path: Path, rate: Fraction, note: str, lossless: bool = False) -> Iterator[Writer]:
    """A video that is written whole or not at all, with a note for :func:`note_of`.

    Args:
        path: where; its suffix tells the container.
        rate: frames a second.
        note: kept in the file.
        lossless: for class ids, (H, W) uint8 each; else pictures for people.
    """
    av = _av(path)
    with atomic_write(path) as temporary, av.open(str(temporary), "w") as file:
        file.metadata[NOTE] = note
        writer = Writer(file, rate, lossless)
        yield writer
        writer.close()


def note_of(path: Path) -> str | None:
    """The note that a video was written with; None where it has none, or there is no such file."""
    with suppress(OSError, ValueError), _av(path).open(str(path)) as file:
        told = {key.lower(): value for key, value in file.metadata.items()}
        return told.get(NOTE)
    return None


def _av(path: Path) -> Any:
    try:
        import av
    except ImportError:
        raise UserError(f"{path} is a video, which needs PyAV: python -m pip install 'densemtmd[video]'") from None
    av.logging.set_level(None)  # errors are sentences here
    return av


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or " ".join(str(error).split()) or type(error).__name__
