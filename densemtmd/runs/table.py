"""Tables: the same data under several strategies and seeds, a run for each, and curves over the number of labelled pictures.

A table is a folder ``runs/<table>/``: ``table.yaml`` says which rows it has, and each row has a run's folder for each seed,
``<row>-seed<seed>/``. Seeds are the outer loop and rows the inner one, so that half a table tells something already. What is finished
is not run again, what was interrupted goes on where it stopped, and a stage that two rows have in common, such as the joint network
that ``jtsc`` starts from, is trained once.
"""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml

from densemtmd.composing import Source
from densemtmd.data import open_data
from densemtmd.errors import UserError
from densemtmd.files import check_writable, read_yaml, write_json, write_text
from densemtmd.runs.folder import FOUND, tracked
from densemtmd.runs.run import Table, check, resume, run
from densemtmd.settings import RunSettings, from_plain
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


def read_experiment(path: str | Path) -> Experiment:
    """Reads a file of ``conf/experiment/``.

    Raises:
        UserError: it cannot be read, or is none.
    """
    path = Path(path)
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


def plan_table(
    experiment: Experiment,
    overrides: Sequence[str] = (),
    rows: Sequence[str] = (),
    seeds: Sequence[int] = (),
    source: Source = Source(),  # noqa: B008 (it cannot change)
) -> list[Planned]:
    """The runs of a table, seeds outside and rows inside.

    Args:
        experiment: what the table consists of.
        overrides: further settings of all rows.
        rows: those that are wanted; none: all.
        seeds: others than the table's own.
        source: of the settings.

    Raises:
        UserError: an unknown row or setting.
    """
    if unknown := [row for row in rows if row not in experiment.rows]:
        raise UserError(f"the table has no row {unknown[0]!r}; {nearest(unknown[0], experiment.rows)}")
    plan = []
    for seed, row in itertools.product(seeds or experiment.seeds, rows or experiment.rows):
        all_of_row = [*experiment.settings, *experiment.rows[row], *overrides, f"seed={seed}"]
        plan.append(Planned(row, source.compose(all_of_row), tuple(all_of_row)))
    return plan


def run_table(
    experiment: Experiment,
    plan: Sequence[Planned],
    runs: str | Path,
    name: str,
    launcher: Sequence[str] = (),
    source: Source = Source(),  # noqa: B008 (it cannot change)
) -> Path:
    """Runs what is not finished of a table; returns its folder.

    Args:
        experiment: what the table consists of.
        plan: its runs, in the order in which they are wanted.
        runs: the folder in which the table's folder lies.
        name: of the table.
        launcher: what is said of Hydra's launcher, such as ``hydra/launcher=joblib hydra.launcher.n_jobs=2``; by default the runs are
            carried out one after the other. Several at once on this machine have each its share of the cores, and where there are several
            GPUs one of them.
        source: of the settings, and of the launcher's.

    Raises:
        UserError: a setting or dataset that cannot be, an earlier run of the table with other settings, or a run that failed; those that
            can be run are run first.
    """
    runs = Path(runs)
    from densemtmd.runs.launch import launch, launcher_settings

    chosen = launcher_settings(launcher, source)
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
        names, settings = [planned.name for planned in waiting], [planned.settings for planned in waiting]
        failed = launch(names, Work(tuple(waiting), table), settings, folder, chosen, source)
    if failed:
        raise UserError("; ".join(f"{name}: {reason}" for name, reason in failed.items()))
    return folder


def rows_of(folder: str | Path, plan: Sequence[Planned]) -> dict[str, list[str]]:
    """The rows of a table with their settings: those that are wanted now, and before them those of an earlier call."""
    folder = Path(folder)
    file = folder / "table.yaml"
    before = read_yaml(file, "a table").get("rows") if file.exists() else {}
    now = {planned.row: [o for o in planned.overrides if not o.startswith("seed=")] for planned in plan}
    return {**(before if isinstance(before, dict) else {}), **now}


def finished(folder: str | Path, planned: Planned) -> bool:
    """Whether a run of a table is finished.

    Raises:
        UserError: it was begun with other settings.
    """
    folder = Path(folder)
    if not (folder / "config.yaml").exists():
        return False
    before = dict(read_yaml(folder / "config.yaml", "the settings of a run"))
    before.pop(FOUND, None)
    with suppress(UserError):  # a setting that came later had its default then; a damaged file is told of below
        before = asdict(from_plain(RunSettings, before))
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


@dataclass(frozen=True)
class Work:
    """What is left of a table, to be sent to where it is done: carries out the run of a number."""

    waiting: tuple[Planned, ...]
    table: Table

    def __call__(self, number: int) -> Path:
        return carry_out(self.waiting[number], self.table)


def carry_out(planned: Planned, table: Table) -> Path:
    """Runs one row with one seed, or goes on with it."""
    folder = table.folder / planned.name
    if (folder / "config.yaml").exists():
        return resume(folder, table)
    shutil.rmtree(folder, ignore_errors=True)  # it was killed before anything was recorded
    return run(planned.settings, planned.overrides, table=table, name=planned.name)
