"""How far long work is: a bar with the time that is left where somebody watches, and elsewhere, as in a file, a line now and then.

Whoever works only counts. A thread looks at the count and shows it, so that something is said within ten seconds even where a single
picture takes a minute. Of work within work, such as a validation within a training, the innermost speaks.
"""

from __future__ import annotations

import _thread
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Sized
from contextlib import AbstractContextManager, contextmanager, suppress
from contextvars import ContextVar
from typing import Any, ClassVar, TypeVar

from tqdm import tqdm

from densemtmd.terminal import folded

T = TypeVar("T")

BAR, FIRST, NEXT = 2.0, 8.0, 60.0
"""Seconds after which a bar appears, a first line, and a next one: what takes no longer is not worth a word."""

PERCENT = "{desc} {percentage:3.0f}% |{bar}| {elapsed} < {remaining}{postfix}"


class _Bar(tqdm):
    monitor_interval = 0  # no thread of tqdm's looks after it: ours does


class Progress:
    """Work that goes on for as long as the ``with`` block.

    Args:
        title: what is being done.
        total: of how many; None: nobody knows.
        unit: of what; ``%``: of 100.
        done: how many are done already.
    """

    going_on: ClassVar[list[Progress]] = []

    def __init__(self, title: str, total: float | None, unit: str = "pictures", done: float = 0) -> None:
        self.title, self.total, self.unit = title, total, unit
        self.done = self.before = done
        self.part = self.more = ""  # which part of it is being done, and what else there is to say
        self.due = FIRST
        self.waited = 0.0  # seconds in which something else had to be done
        self.ended = threading.Event()
        self.speaking = threading.Lock()

    def tick(self, count: float = 1) -> None:
        """So many more are done."""
        self.done += count

    @contextmanager
    def paused(self) -> Iterator[None]:
        """What is done within is needed once, before the work goes on, and tells nothing of the time that the rest of it will take."""
        began = time.monotonic()
        try:
            yield
        finally:
            self.waited += time.monotonic() - began

    def said(self, seconds: float) -> str | None:
        """What is to be said after so many seconds, where it is time to: ``scoring, kundu: 3 of 40 pictures, about 5 min left``.

        While nothing is done there is no telling how much time is left, so the next line comes as soon as the first.
        """
        if seconds < self.due or self.going_on[-1:] != [self]:
            return None
        moved = self.done - self.before
        self.due = seconds + (NEXT if moved or self.due > FIRST else FIRST)
        of_all = "" if self.total is None else f" of {self.total:.0f}"
        so_far = f"{self.done:.0f} %" if self.unit == "%" else f"{self.done:.0f}{of_all} {self.unit}"
        each = max(0.0, seconds - self.waited) / moved if moved else 0.0
        left = "" if self.total is None or not moved else f"about {duration((self.total - self.done) * each)} left"
        return f"{self.what}: {', '.join(filter(None, (so_far, left, self.more)))}"

    @property
    def what(self) -> str:
        """The title, and the part that is being done."""
        return f"{self.title}, {self.part}" if self.part else self.title

    def __enter__(self) -> Progress:
        self.going_on.append(self)
        # Not threading.Thread, whose start waits for the thread to run, for ever where there is no memory left to do so.
        with suppress(RuntimeError):  # no thread can be started: then nothing is said
            _thread.start_new_thread(self._watch, ())
        return self

    def __exit__(self, *_: object) -> None:
        self.going_on.remove(self)
        self.ended.set()
        with self.speaking:  # the bar is gone, or the line is written
            pass

    def _watch(self) -> None:
        began = time.monotonic()
        bar = sys.stderr.isatty()
        while not self.ended.wait(BAR if bar else min(1.0, FIRST / 4)):
            with self.speaking:
                if self.ended.is_set():
                    return
                if bar:
                    self._draw(began)
                elif line := self.said(time.monotonic() - began):
                    print(line, file=sys.stderr, flush=True)

    def _draw(self, began: float) -> None:
        form: dict[str, Any] = {"bar_format": PERCENT} if self.unit == "%" else {"unit": f" {self.unit}"}
        with _Bar(total=self.total, initial=self.before, leave=False, dynamic_ncols=True, **form) as bar:
            start = bar.start_t + began - time.monotonic()  # its clock has not just begun
            while True:
                bar.start_t = start + self.waited
                bar.n = self.done if self.total is None else min(self.done, self.total)
                bar.set_description_str(self.what, refresh=False)
                bar.set_postfix_str(self.more, refresh=False)
                bar.refresh()
                if self.ended.wait(0.5):
                    return


def followed(items: Iterable[T], title: str, total: int | None = None, unit: str = "pictures") -> Iterator[T]:
    """The items, each of which is done when the next is asked for.

    Args:
        items: to work on.
        title, unit: as :class:`Progress` has them.
        total: how many there are; None: as many as ``items`` says.
    """
    if total is None:
        assert isinstance(items, Sized)
        total = len(items)
    with Progress(title, total, unit) as progress:
        for item in items:
            yield item
            progress.tick()


def aside() -> AbstractContextManager[None]:
    """What is printed within is not drawn into the bars."""
    return _Bar.external_write_mode()


def say(text: str) -> None:
    """Prints a line, above the bars where there are some, at once; a sentence is :func:`folded`."""
    with aside():
        print(folded(text), flush=True)


HEARD: ContextVar[set[str] | None] = ContextVar("HEARD", default=None)


@contextmanager
def told_once() -> Iterator[None]:
    """Within, what :func:`note` prints is printed once, such as what is known of data that each of several runs trains on."""
    before = HEARD.set(set())
    try:
        yield
    finally:
        HEARD.reset(before)


def note(text: str) -> None:
    """Prints a line on the data, unless it was printed for a run before."""
    if (heard := HEARD.get()) is not None:
        if text in heard:
            return
        heard.add(text)
    print(folded(text))


def duration(seconds: float) -> str:
    """A time as people say it.

    >>> [duration(seconds) for seconds in (0.3, 34, 89, 1000, 5400, 400000)]
    ['1 s', '34 s', '89 s', '17 min', '90 min', '111 h']
    """
    if seconds < 90:
        return f"{max(1, seconds):.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.0f} h"
