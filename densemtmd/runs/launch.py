"""Several runs, by whatever Hydra launcher a person names: one after the other, at once on this machine, or on the machines of a cluster.

The rows and seeds of a table are handed to the launcher as they are; what ``--multirun`` asks for goes through Hydra's sweeper first. A run
that fails does not stop the others. Hydra finds the launcher, and does nothing else that it is known for: no ``outputs/``, no other
working directory, no logging. What its launchers must keep, such as submitit's pickled jobs, goes to a folder ``logs/`` beside the runs,
and so does what each run has to say where several run at once.
"""

from __future__ import annotations

import copy
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout, suppress
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from pathlib import Path
from textwrap import shorten
from typing import IO, Any

import psutil
import torch
from hydra._internal.callbacks import Callbacks
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.hydra_config import HydraConfig
from hydra.core.plugins import Plugins
from hydra.core.utils import JobStatus
from hydra.errors import HydraException
from hydra.types import HydraContext
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from densemtmd.composing import Source, at_home, is_hydras, parse, to_settings
from densemtmd.errors import UserError
from densemtmd.files import check_writable, read_json
from densemtmd.kind import kind_of_scores
from densemtmd.machine import cores, processes
from densemtmd.progress import Progress, say, told_once
from densemtmd.runs.lock import Held
from densemtmd.runs.run import check, run
from densemtmd.settings import RunSettings
from densemtmd.tasks import nearest

GRACE = 30
"""Seconds that a training has to save what it learned, after the process that launched it has been killed."""

LONG = 60 * 24 * 30
"""Minutes that a job of submitit's on this machine may take; its own default is an hour."""


def launcher_settings(launcher: Sequence[str], source: Source) -> DictConfig:
    """What Hydra knows of itself, with the launcher and sweeper that were named: its tree below ``hydra``.

    Raises:
        UserError: a launcher or sweeper that is not installed, or a setting that it does not have.
    """
    for argument in launcher:
        group, _, choice = argument.partition("=")
        if group in ("hydra/launcher", "hydra/sweeper"):
            with source.hydra() as hydra:
                known = sorted(set(hydra.config_loader.get_group_options(group)))
            if choice not in known:
                advice = nearest(choice, known)
                package = f"hydra-{choice.partition('_')[0]}-{group.partition('/')[2]}"
                more = "" if "did you mean" in advice else f"; others are packages to install: pip install {package}"
                raise UserError(f"unknown choice {argument}; {advice}{more}")
    return source.config(launcher, hydra=True)


def launch(
    names: Sequence[str], work: Callable[[int], Path], settings: Sequence[RunSettings], folder: Path, config: DictConfig, source: Source
) -> dict[str, UserError]:
    """Hands runs to a launcher, and carries out all that can be; returns the names of those that failed, with the reasons.

    Args:
        names: of the runs, in the order in which they are wanted.
        work: carries out the run of that number and returns its folder; it is sent to other processes.
        settings: of the runs.
        folder: that of the runs, each of which is there under its name.
        config: of the launcher, from :func:`launcher_settings`.
        source: of the settings.
    """
    settle(config, folder / "logs", len(names))
    job = Job(folder / "logs", at_once(config, len(names)), apart(config), ends_here(config), tuple(names), work)
    overrides = [[f"name={name}"] for name in names]
    loader = Loader(source, {f"name={name}": one for name, one in zip(names, settings, strict=True)})
    context = HydraContext(config_loader=loader, callbacks=Callbacks(config))
    with all_end_here(), progress(names, folder, job.apart), launching(config):
        launcher = Plugins.instance().instantiate_launcher(hydra_context=context, task_function=job, config=config)
        returns = launcher.launch(overrides, initial_job_idx=0)
    with suppress(OSError):  # it holds something, unless the runs were carried out here
        (folder / "logs").rmdir()
    failed: dict[str, UserError] = {}
    for name, result in zip(names, returns, strict=True):
        if result.status != JobStatus.COMPLETED:
            if not isinstance(result._return_value, UserError):
                raise result._return_value  # a defect
            failed[name] = result._return_value
    return failed


def multirun(arguments: Sequence[str], source: Source) -> None:
    """Runs what Hydra's sweeper makes of the arguments: by default all combinations of ``seed=0,1,2 strategy=nf,jt``, one after the other.

    Args:
        arguments: ``name=value``, with several values or with ranges, and what is said of Hydra's launcher and sweeper.
        source: of the settings.

    Raises:
        UserError: a mistake in the arguments, before anything is trained; or a run that failed, after all others.
    """
    arguments = [at_home(argument) for argument in arguments]
    overrides = [argument for argument in arguments if not is_hydras(argument)]
    fixed = [argument for argument in overrides if not parse(argument).is_sweep_override()]
    config = launcher_settings([argument for argument in arguments if is_hydras(argument)], source)
    runs = Path(source.compose(fixed).runs)
    check_writable(runs, "runs=")
    logs = runs / "logs" / f"{datetime.now():%Y-%m-%d_%H-%M-%S}"
    several = 1
    for argument in overrides:
        with suppress(Exception):  # of a range of real numbers there is no counting
            several *= len(list(parse(argument).sweep_iterator())) if parse(argument).is_sweep_override() else 1
    settle(config, logs, several)
    job = Job(logs, at_once(config, several), apart(config), ends_here(config))
    context = HydraContext(config_loader=Loader(source), callbacks=Callbacks(config))
    with all_end_here(), launching(config):
        sweeper = Plugins.instance().instantiate_sweeper(hydra_context=context, task_function=job, config=config)
        sweeper.sweep(arguments=overrides)
    if job.apart:
        say(f"finished; what each run had to say: {logs}{os.sep}<number>.txt")


@dataclass(frozen=True)
class Job:
    """What a launcher calls, in this process or in another one, be it of another machine: carries out one run."""

    logs: Path        # the folder of what runs have to say
    at_once: int      # runs on one machine
    apart: bool       # each in a process of its own
    launcher: int = 0  # the process that all end with; 0: none, they are those of a cluster
    names: tuple[str, ...] = ()  # of the runs; none: by their number
    work: Callable[[int], Path] | None = None  # carries out a run; None: by the settings that Hydra composed

    def __call__(self, config: DictConfig) -> float:
        """Returns the score of the run, for sweepers that look for the best."""
        number = HydraConfig.get().job.num
        name = self.names[number] if self.names else f"{number}"
        with ExitStack() as stack:
            if self.apart:
                stack.enter_context(told(self.logs / f"{name}.txt"))
                stack.enter_context(share_of_machine(self.at_once, self.logs))
                if self.launcher:
                    end_with(self.launcher)
            elif self.names:
                print(f"\n[{number + 1}/{len(self.names)}] {name}", flush=True)
            try:
                folder = self.work(number) if self.work else run(to_settings(config), list(HydraConfig.get().overrides.task))
                return score_of(folder)
            except UserError as error:
                print(f"{name} is left out: {error}" if isinstance(error, Held) else f"{name} failed: {error}", file=sys.stderr, flush=True)
                raise
            except Exception:
                if self.apart:  # which would be lost on the way back
                    traceback.print_exc()
                raise


class Loader(ConfigLoaderImpl):
    """Composes the settings of a job as those of a single run are, with the same checks and errors."""

    def __init__(self, source: Source, prepared: Mapping[str, RunSettings] | None = None) -> None:
        super().__init__(source.search_path())
        self.source = source
        self.prepared = dict(prepared or {})

    def load_sweep_config(self, master_config: DictConfig, sweep_overrides: list[str]) -> DictConfig:
        """The settings of one job, checked, and what Hydra knows of itself."""
        overrides = [override for override in sweep_overrides if not is_hydras(override)]
        if len(overrides) == 1 and (settings := self.prepared.get(overrides[0])):
            config = OmegaConf.structured(settings)
        else:
            config = self.source.config(overrides)
            check(to_settings(config))
        with open_dict(config):
            config.hydra = copy.deepcopy(master_config.hydra)
        with open_dict(config.hydra):
            config.hydra.overrides.task = overrides
        assert isinstance(config, DictConfig)
        return config


def score_of(folder: Path) -> float:
    """The number that tells a better run from a worse one: what the kind of its task counts as the chief measure, over all pictures."""
    scored = read_json(folder / "scores.json")
    return float(scored["pooled"][kind_of_scores(scored).chief.key])


# ------------------------------------------------------------------------------------------------------------------------------------
# What Hydra is told


def settle(config: DictConfig, logs: Path, several: int) -> None:
    """Keeps Hydra from leaving things where people do not look for them, and says what its launchers cannot know."""
    hydra, launcher = config.hydra, config.hydra.launcher
    if apart(config) and processes() > 1:
        raise UserError(
            f"torchrun trains one run at a time in {processes()} processes, and hydra/launcher={launched_by(config)} several at once in "
            "processes of their own: leave out one of both"
        )
    said = [str(override).partition("=")[0].lstrip("+") for override in hydra.overrides.hydra]
    with open_dict(config):
        if "hydra.sweep.dir" not in said:
            hydra.sweep.dir = str(logs)
        if "hydra.sweep.subdir" not in said:
            hydra.sweep.subdir = "."
        hydra.output_subdir = None
        hydra.job.chdir = False
        hydra.job.name = "densemtmd"
        for kind in ("job_logging", "hydra_logging"):
            hydra[kind] = {"version": 1, "root": None, "disable_existing_loggers": False}
        if launched_by(config) == "joblib" and launcher.n_jobs < 0:
            launcher.n_jobs = min(cores(), several)
        if launched_by(config) == "submitit_local" and "hydra.launcher.timeout_min" not in said:
            launcher.timeout_min = LONG


def launched_by(config: DictConfig) -> str:
    """The launcher's name, as ``hydra/launcher=`` takes it."""
    return str(config.hydra.runtime.choices.get("hydra/launcher") or "basic")


def apart(config: DictConfig) -> bool:
    """Whether jobs run in processes of their own."""
    return launched_by(config) != "basic"


def at_once(config: DictConfig, several: int) -> int:
    """How many of so many jobs run on one machine at the same time, and share its cores."""
    name = launched_by(config)
    if name == "joblib":
        return max(1, min(int(config.hydra.launcher.n_jobs), several))
    return several if name == "submitit_local" else 1


def ends_here(config: DictConfig) -> int:
    """The process that jobs end with, be it killed: this one, where they run on this machine in others."""
    return os.getpid() if launched_by(config) in ("joblib", "submitit_local") else 0


@contextmanager
def launching(config: DictConfig) -> Iterator[None]:
    """What goes wrong in Hydra and its launchers, as a sentence; what is known of the data is told once for all runs."""
    try:
        with told_once():
            yield
    except (HydraException, OmegaConfBaseException) as error:
        raise UserError(f"Hydra cannot launch the runs: {error.__cause__ or error}") from error
    except Exception as error:
        if type(error).__module__.partition(".")[0] not in ("submitit", "joblib"):
            raise
        reason = shorten(str(error) or type(error).__name__, 200, placeholder=" ...")
        raise UserError(f"the launcher {launched_by(config)} lost a run ({reason}): the same call again goes on with a table") from error


# ------------------------------------------------------------------------------------------------------------------------------------
# Several at once


@contextmanager
def told(file: Path) -> Iterator[None]:
    """What is printed inside goes to a file."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("a", encoding="utf-8", buffering=1) as log, redirect_stdout(log), redirect_stderr(log):
        yield


@contextmanager
def share_of_machine(jobs: int, folder: Path) -> Iterator[None]:
    """Gives a process its share of the cores, and where there are several GPUs one of them, which no other job has as long as there are
    enough."""
    torch.set_num_threads(max(1, cores() // jobs))
    gpus = torch.cuda.device_count()
    if gpus < 2 or jobs < 2:
        yield
        return
    import fcntl  # several GPUs are a Linux machine's

    with ExitStack() as stack:
        for place in range(jobs):
            file: IO[Any] = stack.enter_context((folder / f".place{place}").open("a"))
            with suppress(BlockingIOError):
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # until this process ends, however it ends
                break
        torch.cuda.set_device(place % gpus)
        yield


@cache  # once for all runs of this process
def end_with(launcher: int) -> None:
    """From now on this process does not outlive the one that launched it: it is asked to end then, which a training does after the step it
    is at, and after :data:`GRACE` seconds made to."""
    try:
        parent = psutil.Process(launcher)
    except psutil.NoSuchProcess:
        parent = None

    def watch() -> None:
        with suppress(psutil.NoSuchProcess):
            while parent and parent.is_running() and parent.status() != psutil.STATUS_ZOMBIE:
                time.sleep(1)
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(GRACE)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


@contextmanager
def progress(names: Sequence[str], folder: Path, shown: bool) -> Iterator[None]:
    """Says which runs of a table are finished, as soon as they are, wherever they run: their scores appear in their folders."""
    if not shown:
        yield
        return
    done = threading.Event()

    def watch() -> None:
        missing = list(names)
        while True:
            ended = done.wait(1)
            for name in [one for one in missing if (folder / one / "scores.json").exists()]:
                missing.remove(name)
                say(f"{datetime.now():%H:%M} {name}: finished")
                runs.tick()
            if ended:
                return

    with Progress(folder.name, len(names), "runs") as runs:
        watcher = threading.Thread(target=watch, daemon=True)
        watcher.start()
        try:
            yield
        finally:
            done.set()
            watcher.join()


@contextmanager
def all_end_here() -> Iterator[None]:
    """The processes that were started in the block end with it: at once after Ctrl-C or a defect."""
    before = set(psutil.Process().children(recursive=True))
    try:
        yield
    except UserError:  # a run that failed, which nothing is left of
        end_joblib()
        raise
    except BaseException:
        started = [child for child in psutil.Process().children(recursive=True) if child not in before and not tracks(child)]
        for end in (signal.SIGINT, signal.SIGKILL):  # some, as submitit's, do not listen to SIGTERM
            for child in started:
                with suppress(psutil.Error):
                    if end == signal.SIGKILL or not controls(child):
                        child.send_signal(end)
            _, started = psutil.wait_procs(started, timeout=5)
        raise
    else:
        end_joblib()


def controls(process: psutil.Process) -> bool:
    """Whether a process is one of submitit's that look after a job on this machine: it ends with its job, and would show a traceback."""
    return "submitit.local._local" in process.cmdline()


def end_joblib() -> None:
    """Ends joblib's processes, where it is what launched: it would keep them for the next call, which may be made in another folder."""
    if "joblib" in sys.modules:  # importing it takes a tenth of a second
        from joblib.externals.loky import get_reusable_executor

        get_reusable_executor().shutdown()


def tracks(process: psutil.Process) -> bool:
    """Whether a process only cleans up after others, as joblib's and Python's own do, and ends by itself."""
    with suppress(psutil.Error):
        return any("resource_tracker" in word for word in process.cmdline())
    return False
