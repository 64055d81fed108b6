"""What asks a program to end: Ctrl-C, somebody or a scheduler (SIGTERM), a terminal that is closed (SIGHUP).

All three arrive as :class:`Stopped`, a ``KeyboardInterrupt``: so whatever puts things in order after Ctrl-C does so after each of them.
"""

from __future__ import annotations

import os
import signal
import stat
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

REASONS: dict[int, str] = {signal.SIGINT: "you pressed Ctrl-C", signal.SIGTERM: "this process was asked to end (SIGTERM)"}
"""The signals, and what to tell people of them."""

if hasattr(signal, "SIGHUP"):  # not on Windows
    REASONS[signal.SIGHUP] = "the terminal was closed (SIGHUP)"


class Stopped(KeyboardInterrupt):
    """One of the signals arrived."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def reason_of(error: KeyboardInterrupt) -> tuple[int, str]:
    """The signal behind an exception, and what to tell people of it."""
    number = error.number if isinstance(error, Stopped) else int(signal.SIGINT)
    return number, REASONS[number]


@contextmanager
def answering(answer: Callable[[int], None], *numbers: int) -> Iterator[None]:
    """Within the block, which should be of the main thread, signals are answered by ``answer(number)``.

    Of a terminal that is closed nothing is heard where ``nohup`` has it so. Otherwise what would still be shown in it goes nowhere: a
    program that fails to write there would end before it has put things in order.
    """

    def arrived(number: int, frame: object) -> None:
        if os.getpid() != own:  # a forked process that has not set its own answers: it has nothing to put in order
            os._exit(128 + number)
        if number not in (signal.SIGINT, signal.SIGTERM):
            _show_nothing()
        answer(number)

    own, before = os.getpid(), {}
    if threading.current_thread() is threading.main_thread():
        for number in numbers:
            if number in (signal.SIGINT, signal.SIGTERM) or signal.getsignal(number) is not signal.SIG_IGN:
                before[number] = signal.signal(number, arrived)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def left_to_the_parent() -> None:
    """In a process that works for another one: what a terminal sends to all of them is the other's to answer, which ends this one."""
    for number in REASONS:
        if number != signal.SIGTERM:
            signal.signal(number, signal.SIG_IGN)


def _show_nothing() -> None:
    """Lets what is written to a terminal go nowhere."""
    for number in (1, 2):
        with suppress(OSError):
            if stat.S_ISCHR(os.fstat(number).st_mode):
                nowhere = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nowhere, number)
                os.close(nowhere)
