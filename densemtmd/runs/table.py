"""Tables: the same data under several strategies and seeds, a run for each, and curves over the number of labelled pictures.

A table is a folder ``runs/<table>/``: ``table.yaml`` says which rows it has, and each row has a run's folder for each seed,
``<row>-seed<seed>/``. Seeds are the outer loop and rows the inner one, so that half a table tells something already. What is finished
is not run again, what was interrupted goes on where it stopped, and a stage that two rows have in common, such as the joint network
that ``jtsc`` starts from, is trained once.
"""

from __future__ import annotations

import multiprocessing
import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import redirect_stdout
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import torch
import yaml
from tqdm import tqdm

from densemtmd.data import open_data
from densemtmd.errors import UserError
from densemtmd.files import check_writable, read_yaml, write_json, write_text
from densemtmd.runs.folder import FOUND, tracked
from densemtmd.runs.run import Table, check, resume, run
from densemtmd.settings import RunSettings
from densemtmd.tasks import nearest
from densemtmd.tracking import environment_tags, open_tracker

KEYS = ("name", "rows", "settings", "seeds", "paper")
"""Of a file in ``conf/experiment/``."""

WHEREVER = ("data_root", "cache", "runs", "name", "tracking", "tracking_uri")
"""Settings that may differ between the beginning and the end of a table: they say where things lie, and not what is measured."""

CURVE = (0.1, 0.25, 0.5, 1.0)
"""Shares of a dataset's labelled pictures along a curve."""


@dataclass(frozen=True)
class Experiment:
    """A file of ``conf/experiment/``: what a table consists of. Settings are those of ``tools/train.py``, as ``name=value``."""

    name: str
    rows: dict[str, list[str]]    # row -> its settings
    settings: list[str]           # of all rows
    seeds: list[int]
    paper: str | None = None      # the table of the paper that it repeats
    curve: str | None = None      # the dataset whose labelled pictures are counted


@dataclass(frozen=True)
class Planned:
    """One run of a table."""

    row: str
    settings: RunSettings
    overrides: tuple[str, ...]

    @property
    def name(self) -> str:
        return f"{self.row}-seed{self.settings.seed}"


def read_experiment(path: Path) -> Experiment:
    """Reads a file of ``conf/experiment/``.

    Raises:
        UserError: it cannot be read, or is none.
    """
    data = read_yaml(path, "an experiment")
    if unknown := [str(key) for key in data if key not in KEYS]:
        raise UserError(f"{path} has the unknown key {unknown[0]!r}; {nearest(unknown[0], KEYS)}")
    rows, settings, seeds = data.get("rows"), data.get("settings", []), data.get("seeds", [0])
    if not isinstance(rows, Mapping) or not rows or not all(_texts(values) and Path(str(row)).name == row for row, values in rows.items()):
        raise UserError(f"{path}: rows is {rows!r:.100}, expected the names of rows, each with a list of settings such as [strategy=jt]")
    if not _texts(settings):
        raise UserError(f"{path}: settings is {settings!r:.100}, expected a list of settings such as [data=street7]")
    if not isinstance(seeds, list) or not seeds or not all(type(seed) is int for seed in seeds):
        raise UserError(f"{path}: seeds is {seeds!r:.100}, expected a list of whole numbers")
    return Experiment(str(data.get("name", path.stem)), {str(k): list(v) for k, v in rows.items()}, settings, seeds, data.get("paper"))


def _texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(one, str) for one in value)


def curve(dataset: str, datasets: Sequence[str], name: str) -> Experiment:
    """The table behind the question whether other people's labels are worth it: one dataset with some of its labelled pictures, alone and
    together with the other datasets.

    Args:
        dataset: whose pictures are counted.
        datasets: those of the data choice.
        name: of the data choice.

    Raises:
        UserError: the dataset is not among them, or there is no other.
    """
    if dataset not in datasets:
        raise UserError(f"curve={dataset} is none of the datasets; {nearest(dataset, datasets)}")
    if len(datasets) < 2:
        raise UserError(f"curve={dataset} compares it alone and with others, but {name} has no other: choose data with two or more")
    alone = f"strategy.stages=[{{name: {dataset}, datasets: [{dataset}]}}]"
    rows = {}
    for share in CURVE:
        fewer = f"data.share={{{dataset}: {share}}}"
        rows[f"alone-{share:.0%}"] = [fewer, "strategy.name=alone", alone]
        rows[f"joint-{share:.0%}"] = [fewer, "strategy=jt"]
    return Experiment(f"{name}-curve-{dataset}", rows, [], [0], curve=dataset)


def run_table(experiment: Experiment, plan: Sequence[Planned], runs: Path, name: str, jobs: int = 1) -> Path:
    """Runs what is not finished of a table; returns its folder.

    Args:
        experiment: what the table consists of.
        plan: its runs, in the order in which they are wanted.
        runs: the folder in which the table's folder lies.
        name: of the table.
        jobs: how many runs go on at once. Each has its share of the cores, and where there are several GPUs the next of them.

    Raises:
        UserError: a setting or dataset that cannot be, an earlier run of the table with other settings, or a run that failed; those that
            can be run are run first.
    """
    if jobs < 1:
        raise UserError(f"jobs is {jobs}, expected at least 1")
    folder = runs / name
    check_writable(folder, "runs=")
    for planned in plan:
        check(planned.settings)
        open_data(planned.settings.data, planned.settings.data_root)
    waiting = [planned for planned in plan if not finished(folder / planned.name, planned)]
    seeds = sorted({planned.settings.seed for planned in plan})
    about = {"name": name, "rows": rows_of(folder, plan), "seeds": seeds}
    about |= {key: value for key in ("paper", "curve") if (value := getattr(experiment, key)) is not None}
    write_text(folder / "table.yaml", yaml.safe_dump(about, sort_keys=False, allow_unicode=True))
    done = len(plan) - len(waiting)
    print(f"{folder}: {len(plan)} runs" + (f", {done} of which are finished" if done else ""))
    if not waiting:
        return folder
    first = plan[0].settings
    known = tracked(folder).get("")
    with open_tracker(first.tracking, name, name, first.tracking_uri, resume=known, system_metrics=False) as tracker:
        write_json(folder / "tracking.json", {"": tracker.run_id})
        tracker.tags({"table": name, "folder": str(folder), **environment_tags(experiment.settings)})
        tracker.artifact(folder / "table.yaml")
        table = Table(folder, tracker.run_id)
        failed = one_by_one(waiting, table) if jobs == 1 else at_once(waiting, table, jobs)
    if failed:
        raise UserError("; ".join(f"{name}: {reason}" for name, reason in failed.items()))
    return folder


def rows_of(folder: Path, plan: Sequence[Planned]) -> dict[str, list[str]]:
    """The rows of a table with their settings: those that are wanted now, and before them those of an earlier call."""
    file = folder / "table.yaml"
    before = read_yaml(file, "a table").get("rows") if file.exists() else {}
    now = {planned.row: [o for o in planned.overrides if not o.startswith("seed=")] for planned in plan}
    return {**(before if isinstance(before, dict) else {}), **now}


def finished(folder: Path, planned: Planned) -> bool:
    """Whether a run of a table is finished.

    Raises:
        UserError: it was begun with other settings.
    """
    if not (folder / "config.yaml").exists():
        return False
    before = dict(read_yaml(folder / "config.yaml", "the settings of a run"))
    before.pop(FOUND, None)
    for key, value in compared(asdict(planned.settings)).items():
        if key not in (kept := compared(before)) or kept[key] != value:
            raise UserError(
                f"{folder} was begun with {key}={kept.get(key)}, and not {value}: run it as then, remove it, or call this table something "
                "else with name="
            )
    return (folder / "scores.json").exists()


def compared(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """The settings by their full names, without those that may differ."""
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        if prefix == "" and key in WHEREVER:
            continue
        if isinstance(value, Mapping) and key not in ("share", "world"):
            flat |= compared(value, f"{prefix}{key}.")
        elif f"{prefix}{key}" not in ("train.device", "train.workers", "train.checkpoint_seconds"):
            flat[f"{prefix}{key}"] = value
    return flat


def carry_out(planned: Planned, table: Table) -> None:
    """Runs one row with one seed, or goes on with it."""
    folder = table.folder / planned.name
    if (folder / "config.yaml").exists():
        resume(folder, table)
        return
    shutil.rmtree(folder, ignore_errors=True)  # it was killed before anything was recorded
    run(planned.settings, planned.overrides, table=table, name=planned.name)


def one_by_one(waiting: Sequence[Planned], table: Table) -> dict[str, str]:
    """Carries out runs one after the other, and goes on where one fails; returns the names of those with the reasons."""
    failed = {}
    for number, planned in enumerate(waiting, 1):
        print(f"\n[{number}/{len(waiting)}] {planned.name}", flush=True)
        try:
            carry_out(planned, table)
        except UserError as error:
            failed[planned.name] = str(error)
            print(f"{planned.name} failed: {error}", file=sys.stderr, flush=True)
    return failed


def at_once(waiting: Sequence[Planned], table: Table, jobs: int) -> dict[str, str]:
    """The same with several processes; each run writes what it has to say into ``logs/<run>.txt``."""
    context = multiprocessing.get_context("spawn")  # a fork would copy the threads' locks
    places = context.Queue()
    for place in range(jobs):
        places.put(place)
    failed = {}
    with (
        ProcessPoolExecutor(jobs, context, initializer=settle, initargs=(places, jobs)) as pool,
        tqdm(total=len(waiting), desc=table.folder.name, unit=" runs", disable=None) as bar,
    ):
        running = {pool.submit(aside, planned, table): planned for planned in waiting}
        try:
            for future in as_completed(running):
                planned = running[future]
                try:
                    future.result()
                    bar.write(f"{datetime.now():%H:%M} {planned.name}: finished")
                except UserError as error:
                    failed[planned.name] = str(error)
                    bar.write(f"{datetime.now():%H:%M} {planned.name} failed: {error}")
                bar.update()
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise
    return failed


def settle(places: Any, jobs: int) -> None:
    """Gives a process its share of the machine."""
    place = places.get()
    torch.set_num_threads(max(1, (os.cpu_count() or 1) // jobs))
    if (gpus := torch.cuda.device_count()) > 1:
        torch.cuda.set_device(place % gpus)


def aside(planned: Planned, table: Table) -> None:
    """Carries out a run whose words go to a file."""
    logs = table.folder / "logs"
    logs.mkdir(exist_ok=True)
    with (logs / f"{planned.name}.txt").open("a", encoding="utf-8", buffering=1) as log, redirect_stdout(log):
        carry_out(planned, table)
