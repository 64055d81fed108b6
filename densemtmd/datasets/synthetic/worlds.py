"""How worlds get to disk: once, whole or not at all, by several processes, the same bytes whenever they are written."""

from __future__ import annotations

import io
import multiprocessing
import os
import shutil
import signal
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import numpy as np
from scipy.io import savemat
from tqdm import tqdm

from densemtmd.errors import UserError

T = TypeVar("T")


def written_once(final: Path, write: Callable[[Path], None], what: str) -> Path:
    """The folder of a world; ``write`` fills it if it is not there.

    It is written under another name and renamed when it is complete: whoever finds the folder finds all of it, and two processes that
    render the same world do not disturb each other.

    Args:
        final: the folder.
        write: gets the folder to write into.
        what: the world is called, for the message.

    Raises:
        UserError: the folder cannot be written.
    """
    if final.is_dir():
        return final
    try:
        with _complete_or_gone(final) as folder:
            write(folder)
    except OSError as error:
        reason = error.strerror or str(error)
        raise UserError(f"{what} could not be written to {final}: {reason}; free some space or choose another place") from error
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
    return min(8, len(os.sched_getaffinity(0)))


def render_all(render: Callable[[T], int], jobs: Sequence[T], pictures: int, title: str, progress: bool, workers: int) -> None:
    """Does all jobs, each of which writes its own files, in several processes, with a bar.

    Args:
        render: does one and returns how many pictures it wrote.
        jobs: what to do; the files do not depend on the order, nor on how many processes there are.
        pictures: of all jobs together.
        title: of the bar.
        progress: show it.
        workers: processes; 1: this one.
    """
    with tqdm(total=pictures, unit=" pictures", desc=title, leave=False, disable=None if progress else True) as bar:
        if workers == 1:
            for job in jobs:
                bar.update(render(job))
            return
        with ProcessPoolExecutor(workers, multiprocessing.get_context("fork"), _begin_worker, (os.getpid(),)) as pool:
            try:
                for count in pool.map(render, jobs):
                    bar.update(count)
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise


def _begin_worker(parent: int) -> None:
    """Leave Ctrl-C to the parent, and do not outlive it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def write_mat(path: Path, matrices: Mapping[str, np.ndarray]) -> None:
    """Writes a MATLAB file, the same bytes whenever it is written."""
    buffer = io.BytesIO()
    savemat(buffer, dict(matrices), do_compression=True)
    content = buffer.getvalue()
    title = b"MATLAB 5.0 MAT-file, written by densemtmd"  # in place of scipy's, which holds the time of day
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(title.ljust(116) + content[116:])
