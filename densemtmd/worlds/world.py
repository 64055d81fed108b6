"""What the worlds have in common: they are rendered once, by several processes, into a folder that is there whole or not at all; and the
fine truth of every picture lies beside what the annotators say of it.

Shapes: ``H``, ``W`` pixels.
"""

from __future__ import annotations

import hashlib
import io
import json
import multiprocessing
import os
import shutil
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from PIL import Image
from scipy.io import savemat

from densemtmd.errors import UserError, advice
from densemtmd.machine import cores
from densemtmd.progress import Progress
from densemtmd.stopping import left_to_the_parent
from densemtmd.tasks import Colour
from densemtmd.worlds.textures import Fine

J = TypeVar("J")


def ensure_world(
    data_root: str | Path,
    settings: Any,
    workers: int | None,
    *,
    name: str,
    version: int,
    what: str,
    write: Callable[[Path, Any, int], None],
) -> Path:
    """The folder of a world; it is rendered if it is not there.

    It is written under another name and renamed when it is complete: whoever finds the folder finds all of it, and two processes that
    render the same world do not disturb each other.

    Args:
        data_root: the folder in which to put the world's folder.
        settings: which world, a dataclass.
        workers: processes that render; by default as many as there are processors, at most 8. The files do not depend on it.
        name: how the name of the world's folder begins; the rest of it stands for the settings and the version.
        version: of the way in which the world is made.
        what: the world is called in a message.
        write: renders it into a folder, by settings, in so many processes.

    Returns:
        The folder that holds a folder per dataset: the data root for :func:`densemtmd.datasets.folder.open_dataset`.

    Raises:
        UserError: the folder cannot be written.
    """
    identity = json.dumps({"version": version, **asdict(settings)}, sort_keys=True)
    fingerprint = hashlib.sha256(identity.encode()).hexdigest()[:8]
    final = Path(data_root) / f"{name}-{fingerprint}"
    if final.is_dir():
        return final
    try:
        with _complete_or_gone(final) as folder:
            write(folder, settings, workers or default_workers())
    except OSError as error:
        reason = error.strerror or str(error)
        raise UserError(f"{what} could not be written to {final}: {reason}; {advice(error)}") from error
    return final


@contextmanager
def _complete_or_gone(final: Path) -> Iterator[Path]:
    """A new folder that gets the name ``final`` if the block ends well, and is removed if not.

    What a process that was killed left behind is removed a day later by the next one.
    """
    for left in final.parent.glob(f".{final.name}.*.partial"):
        if time.time() - left.stat().st_mtime > 86400:
            shutil.rmtree(left, ignore_errors=True)
    partial = final.parent / f".{final.name}.{uuid.uuid4().hex[:8]}.partial"
    partial.mkdir(parents=True)
    try:
        yield partial
        try:
            partial.rename(final)
        except OSError:
            if not final.is_dir():  # otherwise another process was faster, and wrote the same
                raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def default_workers() -> int:
    """Processes that render where nobody says how many.

    One where processes cannot be forked: to start them in another way, a script would have to be written for it.
    """
    if not sys.platform.startswith("linux"):
        return 1
    return min(8, cores())


def check_ranges(settings: Any, what: str, **ranges: tuple[int, int]) -> None:
    """Refuses settings of a world of which one is not within its least and its greatest value."""
    for key, (least, greatest) in ranges.items():
        if not least <= getattr(settings, key) <= greatest:
            raise UserError(f"{key} of {what} is {getattr(settings, key)}, expected {least} to {greatest}: choose another")


def render_all(work: Callable[[J], int], jobs: Sequence[J], pictures: int, title: str, workers: int) -> None:
    """Does all jobs, each of which returns how many pictures it has written, in so many processes; shows how far it is."""
    shown = Progress(title, pictures)
    if workers == 1:
        with shown:
            for job in jobs:
                shown.tick(work(job))
        return
    with ProcessPoolExecutor(workers, multiprocessing.get_context("fork"), _begin_worker, (os.getpid(),)) as pool:
        counts = pool.map(work, jobs)  # begins the processes, before there is a thread that shows
        try:
            with shown:
                for count in counts:
                    shown.tick(count)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _begin_worker(parent: int) -> None:
    """Leave Ctrl-C to the parent, and do not outlive it."""
    left_to_the_parent()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def smooth(rng: np.random.Generator, height: int, width: int, size: float) -> np.ndarray:
    """Random numbers with deviation about 1, which change over about ``size`` pixels, (height, width)."""
    coarse = rng.standard_normal((int(height / size) + 2, int(width / size) + 2)).astype(np.float32)
    return np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))


TRUTH_COLOURS: tuple[Colour, ...] = (
    (120, 170, 220), (60, 90, 70), (130, 190, 70), (110, 110, 112), (176, 92, 84), (240, 240, 232), (200, 196, 184), (206, 166, 190),
    (150, 60, 50), (190, 100, 60), (90, 100, 160), (200, 130, 30), (160, 126, 104), (196, 160, 126), (84, 150, 50), (34, 112, 44),
    (104, 72, 36), (120, 120, 60), (64, 0, 150), (110, 40, 170), (250, 120, 20), (245, 210, 30), (180, 180, 110), (225, 40, 70),
    (40, 190, 190), (20, 120, 210), (240, 80, 200), (30, 60, 130), (128, 100, 70),
)  # fmt: skip
"""How the fine classes are drawn."""


def write_truth(path: str | Path, truth: np.ndarray) -> None:
    """Writes fine classes (H, W), each in its colour, for :func:`fine_truth`."""
    path = Path(path)
    write_png(path, truth, TRUTH_COLOURS)


def write_classes(folder: str | Path, labelsets: Mapping[str, Sequence[str | None]]) -> None:
    """Writes ``truth/classes.json`` of a world: the fine classes' names, and what each labelset calls them, in their order."""
    folder = Path(folder)
    fine = [one.name.lower() for one in Fine]
    classes = {"fine": fine, "labelsets": {name: dict(zip(fine, words, strict=True)) for name, words in labelsets.items()}}
    (folder / "truth").mkdir()
    (folder / "truth" / "classes.json").write_text(json.dumps(classes, indent=1) + "\n", encoding="utf-8")


def write_png(path: str | Path, pixels: np.ndarray, palette: tuple[Colour, ...] | None = None) -> None:
    """Writes pixels (H, W) or (H, W, 3) uint8, losslessly."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(pixels)
    if palette is not None:
        image.putpalette([value for colour in palette for value in colour])
    image.save(path, compress_level=1)  # the pictures' noise hardly gets smaller by more


def fine_truth(root: str | Path, dataset: str, stem: str) -> np.ndarray:
    """The fine truth of a picture of a world.

    Args:
        root: the folder that :func:`ensure_world` returned.
        dataset: whose picture.
        stem: ``<sequence>_<frame>``, or a key as the readers make them (``<run>/<frame>`` for zhang,
            ``Training_00/<sequence>_<frame>`` for ros, the number of the picture in the other world).

    Returns:
        (H, W) uint8, :class:`~densemtmd.worlds.textures.Fine`.

    Raises:
        UserError: no such picture.
    """
    parts = stem.split("/")
    name = parts[-1] if "_" in parts[-1] else "_".join(parts[-2:])
    path = Path(root) / "truth" / dataset / f"{name}.png"
    try:
        with Image.open(path) as image:
            return np.asarray(image)
    except OSError as error:
        raise UserError(f"{path} cannot be read as the fine truth of {stem!r}: {error}; is {root} such a world?") from error


def write_mat(path: str | Path, matrices: Mapping[str, np.ndarray]) -> None:
    """Writes a MATLAB file, the same bytes whenever it is written."""
    path = Path(path)
    buffer = io.BytesIO()
    savemat(buffer, dict(matrices), do_compression=True)
    content = buffer.getvalue()
    title = b"MATLAB 5.0 MAT-file, written by densemtmd"  # in place of scipy's, which holds the time of day
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(title.ljust(116) + content[116:])
