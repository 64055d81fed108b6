"""Tables: the same data under several strategies and seeds, a run for each, and curves over the number of labelled pictures.

A table is a folder ``runs/<table>/``: ``table.yaml`` says which rows it has, and each row has a run's folder for each seed,
``<row>-seed<seed>/``. Seeds are the outer loop and rows the inner one, so that half a table tells something already. What is finished
is not run again, what was interrupted goes on where it stopped, and a stage that two rows have in common, such as the joint network
that ``jtsc`` starts from, is trained once.

Several processes may work on one table, on one machine or on several that share the folder: who trains a row holds its lock
(:mod:`densemtmd.runs.lock`), and the others take the next one.
"""

from __future__ import annotations

import csv
import itertools
import shlex
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import yaml

from densemtmd.compare.page import write_comparison
from densemtmd.compare.reading import read_table_folder
from densemtmd.composing import Source
from densemtmd.data import open_data
from densemtmd.errors import UserError
from densemtmd.files import check_writable, read_yaml, remove_strays, write_json, write_text
from densemtmd.kind import kind_of
from densemtmd.origin import clocks
from densemtmd.progress import say
from densemtmd.runs.folder import EVALUATIONS, FOUND, make_folder, tracked
from densemtmd.runs.lock import LOCK, Held, held, holder_of
from densemtmd.runs.run import Table, begin, begun_or_gone, check, go_on, prepare, score_names
from densemtmd.settings import RunSettings, from_plain
from densemtmd.tasks import nearest
from densemtmd.tracking import Tracker, environment_tags, open_tracker

KEYS = ("name", "rows", "settings", "seeds", "paper")
"""Of a file in ``conf/experiment/``."""

WHEREVER = ("data_root", "cache", "runs", "name", "tracking", "tracking_uri", "register")
"""Settings that may differ between the beginning and the end of a table: they say where things lie, and not what is measured."""

RECORD = "record.json"
"""In a table's folder, as :data:`LOCK`: who keeps its record in the tracker open."""

OPENING = 120
"""Seconds for which a process waits while another one begins with the same table."""

CURVE = (0.05, 0.1, 0.25, 0.5, 1.0)
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
    together with the other datasets. Its pictures are seen for as long in both: of K datasets each has the same part in a budget K times
    as large, however few of its pictures are labelled.

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
    joint = f"strategy.stages=[{{name: jt, datasets: all, budget: {len(datasets)}}}]"
    rows = {}
    for share in CURVE:
        fewer = f"data.share={{{dataset}: {share}}}"
        rows[f"alone-{share:.0%}"] = [fewer, "strategy.name=alone", alone]
        rows[f"joint-{share:.0%}"] = [fewer, "strategy.name=jt", joint, "train.mixing=uniform"]
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
    with ExitStack() as stack:
        stack.enter_context(opening := ExitStack())  # one process after the other
        folder.mkdir(parents=True, exist_ok=True)
        opening.enter_context(held(folder / LOCK, folder, wait=OPENING))
        remove_strays(folder, below=False)
        for file in (folder / RECORD, *(folder / planned.name / LOCK for planned in plan)):
            holder_of(file)  # those of killed processes are gone now
        waiting = [planned for planned in plan if not finished(folder / planned.name, planned)]
        for row in (folder / planned.name for planned in plan if planned not in waiting):
            with suppress(UserError), held(row / LOCK, row):  # nobody draws its figures at the moment
                remove_strays(row, apart=EVALUATIONS)
        seeds = sorted({planned.settings.seed for planned in plan})
        about = {"name": name, "rows": rows_of(folder, experiment, plan), "seeds": seeds}
        about |= {key: value for key in ("paper", "curve") if (value := getattr(experiment, key)) is not None}
        write_text(folder / "table.yaml", yaml.safe_dump(about, sort_keys=False, allow_unicode=True))
        done = len(plan) - len(waiting)
        say(f"{folder}: {len(plan)} runs" + (f", {done} of which are finished" if done else ""))
        if not waiting:
            return folder
        tracker = stack.enter_context(recorded(folder, name, plan[0].settings, experiment))
        opening.close()
        table = Table(folder, tracker.run_id, command_of(folder, experiment, plan))
        publish(tracker, folder, experiment, plan)  # for whoever looks while it runs
        failed: dict[str, UserError] = {}
        while waiting:
            names, settings = [planned.name for planned in waiting], [planned.settings for planned in waiting]
            errors = launch(names, Work(tuple(waiting), table), settings, folder, chosen, source)
            failed |= {name: error for name, error in errors.items() if not isinstance(error, Held)}
            elsewhere = [planned for planned in waiting if planned.name in errors.keys() - failed.keys()]
            elsewhere = [planned for planned in elsewhere if not finished(folder / planned.name, planned)]
            waiting = [planned for planned in elsewhere if holder_of(folder / planned.name / LOCK) is None]  # who trained them was killed
        publish(tracker, folder, experiment, plan)
    if tracker.run_id is not None and not tracker.viewer:  # who kept the record may have ended before
        with recorded(folder, name, plan[0].settings, experiment) as tracker:
            publish(tracker, folder, experiment, plan)
    if failed:
        raise UserError("; ".join(f"{name}: {reason}" for name, reason in failed.items()))
    if elsewhere:
        say(f"{len(elsewhere)} of {len(plan)} runs are still trained by others: {', '.join(planned.name for planned in elsewhere)}")
    return folder


@contextmanager
def recorded(folder: Path, name: str, settings: RunSettings, experiment: Experiment) -> Iterator[Tracker]:
    """The tracker of a table, which the first of those who work on it at the same time keeps open; the others know its id, and tell it
    nothing."""
    with ExitStack() as stack:
        try:
            stack.enter_context(held(folder / RECORD, folder))
        except Held:
            joined = Tracker()
            joined.run_id = tracked(folder).get("")
            yield joined
            return
        known = tracked(folder).get("")
        tracker = stack.enter_context(open_tracker(settings.tracking, name, name, settings.tracking_uri, resume=known))
        write_json(folder / "tracking.json", {"": tracker.run_id})
        tracker.tags({"table": name, "folder": str(folder), **environment_tags(experiment.settings)})
        tracker.artifact(folder / "table.yaml")
        yield tracker


def publish(tracker: Tracker, folder: Path, experiment: Experiment, plan: Sequence[Planned]) -> None:
    """Tells the tracker what the table is, how its finished rows compare, and how to repeat it."""
    if not tracker.viewer:  # nobody keeps its record, or another process does
        return
    rows = {row: [one for one in some if one.partition("=")[0] not in WHEREVER] for row, some in rows_of(folder, experiment, plan).items()}
    common = [one for one in next(iter(rows.values())) if all(one in other for other in rows.values())]
    again = shlex.join(command_of(folder, experiment, plan))
    lines = "\n".join(f"| {row} | `{' '.join(one for one in settings if one not in common)}` |" for row, settings in rows.items())
    parts = [
        f"The table `{folder.name}`: what each row trains on the same data, seed by seed.",
        f"| row | settings |\n| --- | --- |\n{lines}",
        f"All rows: `{' '.join(common)}`",
    ]
    first = plan[0].settings
    datasets = open_data(first.data, first.data_root)
    kind = kind_of(datasets[0].task.kind)
    if any(folder.glob("*/scores.json")):
        with TemporaryDirectory() as temporary:
            out = Path(temporary)
            comparison = read_table_folder(folder)
            shown = write_comparison(comparison, out, again=f"densemtmd compare {folder}")
            for file in sorted(out.iterdir()):
                tracker.artifact(file)
            tracker.flush()  # before the files are gone
        head, *values = csv.reader(shown.files["table.csv"].splitlines())
        tracker.table(head, values, "tables/comparison.json")
        parts.append(shown.files["table.md"])
        tracker.tags({"mlflow.note.content": shown.files["table.md"]})
    parts.append(f"Go on with it, or again elsewhere: `{again}`; compare: `densemtmd compare {folder}`")
    names = score_names(kind, [dataset.name for dataset in datasets], first.score.split)
    tracker.experiment("\n\n".join(parts), names, kind.chief.less_is_better)
    say(f"the record: {tracker.viewer}")


def command_of(folder: Path, experiment: Experiment, plan: Sequence[Planned]) -> list[str]:
    """The words of the command that runs a table, with what was said of all its rows and of seeds, but for where its data lie."""
    which = f"curve={experiment.curve}" if experiment.curve else f"experiment={experiment.name}"
    own = len(experiment.settings) + len(experiment.rows[plan[0].row])
    said = [one for one in plan[0].overrides[own:] if one.partition("=")[0] not in (*WHEREVER, "seed")]
    seeds = list(dict.fromkeys(planned.settings.seed for planned in plan))
    others = [] if seeds == experiment.seeds else [f"seeds={seeds}".replace(" ", "")]
    return ["densemtmd", "train", which, *said, *others, *([] if folder.name == experiment.name else [f"name={folder.name}"])]


def rows_of(folder: str | Path, experiment: Experiment, plan: Sequence[Planned]) -> dict[str, list[str]]:
    """The rows of a table with their settings, those that are wanted now and those of earlier calls, in the experiment's order; behind
    them those that it no longer has."""
    folder = Path(folder)
    file = folder / "table.yaml"
    before = read_yaml(file, "a table").get("rows") if file.exists() else {}
    now = {planned.row: [o for o in planned.overrides if not o.startswith("seed=")] for planned in plan}
    all_of_them = {**(before if isinstance(before, dict) else {}), **now}
    return {row: all_of_them[row] for row in (*experiment.rows, *all_of_them) if row in all_of_them}


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
    """Runs one row with one seed, or goes on with it.

    Raises:
        Held: another process does so.
    """
    folder = table.folder / planned.name
    make_folder(folder)
    with held(folder / LOCK, folder):
        if finished(folder, planned):  # by another process, while this one trained another row
            remove_strays(folder, apart=EVALUATIONS)
            return folder
        if (folder / "config.yaml").exists():
            go_on(folder, table=table)
            return folder
        for path in folder.iterdir():  # left by one that was killed before it had begun
            if path.name != LOCK:
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        with begun_or_gone(folder):
            since = clocks()
            begin(prepare(planned.settings), folder, since, planned.overrides, table)
    return folder
