"""Where a result comes from: the command that made it, the code, the hardware, and what it cost."""

from __future__ import annotations

import os
import shlex
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from pathlib import Path, PurePath

from densemtmd.errors import UserError
from densemtmd.files import read_json, write_json
from densemtmd.machine import cores, processor
from densemtmd.settings import from_plain

MADE = "made.json"
"""In the folder of a run: an :class:`Origin` of each process that worked on it."""


@dataclass(frozen=True)
class Origin:
    """How one process worked on a result."""

    command: str      # as one would repeat it; of absolute paths the last name alone, since they say nothing elsewhere
    began: str        # when, by the clock of the machine
    commit: str       # of the code, shortened; empty where git or a repository is missing
    changed: bool     # whether the code was changed since that commit
    hardware: str     # by its kind: ``2 cores, AMD EPYC 9B14``, and its GPUs
    seconds: float    # by the clock; 0 of a process that was killed, whose cost nobody knows
    core_seconds: float  # of the processor: all threads, and the processes that it started and that have ended


def clocks() -> tuple[float, float]:
    """Seconds by the clock, and of the processor."""
    times = os.times()
    return time.perf_counter(), times.user + times.system + times.children_user + times.children_system


def origin(command: Sequence[str], since: tuple[float, float] | None = None) -> Origin:
    """How this process works on a result.

    Args:
        command: its words.
        since: the :func:`clocks` when it began; without them the time is 0.
    """
    seconds, used = (now - then for now, then in zip(clocks(), since, strict=True)) if since else (0.0, 0.0)
    commit, changed = code()
    began = datetime.fromtimestamp(time.time() - seconds).isoformat(" ", "seconds")
    return Origin(shlex.join(map(portable, command)), began, commit[:10], changed, hardware(), round(seconds, 2), round(used, 2))


def portable(word: str) -> str:
    """A word of a command without what is this machine's own.

    >>> portable("data_root=/home/me/data"), portable("runs/street7"), portable("/tmp/a/b.png")
    ('data_root=.../data', 'runs/street7', '.../b.png')
    """
    name, equals, value = word.partition("=") if not word.startswith(("/", "~")) else ("", "", word)
    return f"{name}{equals}.../{PurePath(value).name}" if value.startswith(("/", "~")) else word


def hardware() -> str:
    """The kind of machine that this process may use."""
    count = cores()
    return ", ".join([f"{count} core{'s' * (count > 1)}", processor(), *gpus()])


def gpus() -> list[str]:
    """The GPUs of this machine, each kind with how many there are of it: ``2 x NVIDIA H100``."""
    import torch

    names = [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())] if torch.cuda.is_available() else []
    return [f"{names.count(name)} x {name}" for name in dict.fromkeys(names)]


def code() -> tuple[str, bool]:
    """The commit of the code and whether it was changed since; nothing where git or a repository is missing."""
    folder = str(Path(__file__).resolve().parent)

    def git(*arguments: str) -> str:
        command = ["git", "-C", folder, *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()

    try:
        return git("rev-parse", "HEAD"), git("status", "--porcelain", "--untracked-files=no") != ""
    except (OSError, subprocess.SubprocessError):
        return "", False


class Making:
    """What is known of how a run was made, this process included; kept in its folder."""

    def __init__(self, folder: Path, command: Sequence[str], since: tuple[float, float]) -> None:
        self.folder, self.command, self.since = folder, command, since
        self.helped = 0.0  # core seconds of other processes that torchrun started
        self.earlier = origins(folder)
        self.write(origin(command))  # should this process be killed, then it is known that it was there

    def write(self, own: Origin) -> list[Origin]:
        """Keeps all of them; returns them."""
        found = [*self.earlier, own]
        write_json(self.folder / MADE, [asdict(one) for one in found])
        return found

    def now(self) -> list[Origin]:
        """All of them, this one's cost up to now."""
        own = origin(self.command, self.since)
        return self.write(replace(own, core_seconds=round(own.core_seconds + self.helped, 2)))


@contextmanager
def making(folder: Path, command: Sequence[str], since: tuple[float, float]) -> Iterator[Making]:
    """Keeps in ``made.json`` of a folder how this process works on it, also where that is interrupted. Work that comes to its end says
    so itself (:meth:`Making.now`), before what makes it finished is written.

    Args:
        folder: of a run.
        command: the words of the command that works on it.
        since: the :func:`clocks` when it began.
    """
    made = Making(folder, command, since)
    try:
        yield made
    except BaseException:
        with suppress(UserError):  # what ended the work is what is told
            made.now()
        raise


def origins(folder: Path) -> list[Origin]:
    """How a run was made, a process after the other; empty for an older run, which does not say so.

    Raises:
        UserError: a damaged ``made.json``.
    """
    if not (folder / MADE).is_file():
        return []
    found = read_json(folder / MADE)
    if not isinstance(found, list):
        raise UserError(f"{folder / MADE} holds {found!r:.60}, expected a list of how the run was made: remove it")
    return [from_plain(Origin, one, str(folder / MADE)) for one in found]


def told(found: Sequence[Origin], what: str = "Made by") -> str:
    """A sentence: by which command, in which time, on what, with which code; nothing where nothing is known.

    Args:
        found: how the same result was made, or several.
        what: the first words.
    """
    if not found:
        return ""
    commands = list(dict.fromkeys(one.command for one in found))
    codes = list(dict.fromkeys(one.commit + " and changes" * one.changed for one in found if one.commit))
    killed = sum(one.seconds == 0 for one in found)
    spent = sum(one.core_seconds for one in found)
    parts = [
        f"{what} `{commands[0]}`" + (f" and {len(commands) - 1} more" if len(commands) > 1 else ""),
        f"in {duration(spent)} of processor time ({duration(sum(one.seconds for one in found))} by the clock)"
        + (f", without that of {killed} that were killed" if killed else ""),
        "on " + " / ".join(dict.fromkeys(one.hardware for one in found)),
    ]
    return ", ".join(parts) + (f"; commit {', '.join(codes)}" if codes else "") + "."


def duration(seconds: float) -> str:
    """
    >>> duration(56.2), duration(916), duration(9000)
    ('56 s', '15 min 16 s', '2 h 30 min')
    """
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    return f"{whole // 60} min {whole % 60} s" if whole < 3600 else f"{whole // 3600} h {whole % 3600 // 60} min"
