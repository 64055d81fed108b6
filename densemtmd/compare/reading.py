"""Runs and tables of runs, from their folders or from MLflow, if they can be compared.

Shapes: ``N`` pictures; what is found of them, (N, ...), is the kind's own affair (:mod:`densemtmd.kind`).
"""

from __future__ import annotations

import json
import re
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields, replace
from itertools import accumulate
from pathlib import Path
from tempfile import TemporaryDirectory
from textwrap import shorten
from typing import Any

import numpy as np

from densemtmd import checkpoint
from densemtmd.errors import UserError
from densemtmd.files import read_yaml
from densemtmd.kind import Kind, Measure, kind_of_scores
from densemtmd.origin import Origin, origins
from densemtmd.settings import ScoreSettings, TrainSettings, from_plain
from densemtmd.strategies import stages
from densemtmd.tracking import download_runs

TABLE = "table.yaml"
"""In the folder of a table: which rows and seeds it is to have."""

FILES = ("config.yaml", "scores.json", "per_image.npz")
"""Of a run's folder, what a comparison reads."""

ALL = "all together"

LAST = "last.safetensors"
"""The state of a training, in the folder of its stage, or of a run of one stage."""


@dataclass(frozen=True)
class Trained:
    """What the training of one of a run's networks came to, as ``scores.json`` tells it."""

    steps: int
    passes: float        # over the pictures that it learned from: labelled outputs, by those of one strided pass
    stopped_early: bool  # before its budget was used up


TRAINED = tuple(field.name for field in fields(Trained))


@dataclass(frozen=True)
class Run:
    """A finished run, as its folder tells it."""

    folder: Path
    row: str
    config: Mapping[str, Any]                # config.yaml
    scores: Mapping[str, Any]                # scores.json
    found: Mapping[str, np.ndarray]          # of each dataset (N, ...): what its kind found of the pictures, such as confusion matrices
    units: Mapping[str, np.ndarray]          # of each dataset (N,): the name of the video that a picture is of, or its own
    made: tuple[Origin, ...] = ()            # by which processes; empty of an older run, which does not say so

    @property
    def seed(self) -> int:
        return self.config["seed"]

    @property
    def strategy(self) -> str:
        return self.config["strategy"]["name"]

    @property
    def datasets(self) -> list[str]:
        return list(self.found)

    @property
    def kind(self) -> Kind:
        """What its task is, and so how it is measured."""
        return kind_of_scores(self.scores)

    @property
    def measures(self) -> tuple[Measure, ...]:
        return self.kind.measures

    @property
    def split(self) -> str:
        """Whose pictures were scored, ``test`` or ``val``."""
        return str(self.scores.get("split", "test"))

    @property
    def training(self) -> dict[str, Trained]:
        """What the training of each of its networks came to; empty for an older run, which does not say so."""
        told = self.scores.get("training", {})
        return {str(name): from_plain(Trained, {key: one[key] for key in TRAINED}, "training") for name, one in told.items()}

    def course(self, dataset: str) -> list[tuple[int, float]]:
        """How its training went: after each validation the labelled outputs of its networks that know a dataset, and the best score in the
        chief measure on validation pictures of it by then, percent or mm. Of stages that build on each other the outputs are summed, and
        the score is the best of any of them. Empty where its folder does not tell of each stage.

        Raises:
            UserError: the file of a stage is damaged.
        """
        chief, before, points = self.kind.chief, 0, list[tuple[int, float]]()
        for stage in self.scores.get("training", {}):
            file = next((at for at in (self.folder / stage / LAST, self.folder / LAST) if at.is_file()), None)
            if file is None:  # outputs of the stages behind it would be too few
                return []
            history = checkpoint.load_description(file).get("state", {}).get("history", [])
            known = [(one["outputs"], one["scores"]["datasets"].get(dataset, {}).get(chief.key)) for one in history]
            scored = [(before + outputs, float(score)) for outputs, score in known if outputs and score is not None]
            points += scored
            before = scored[-1][0] if scored else before
        best = accumulate((score for _, score in points), min if chief.less_is_better else max)
        return [(outputs, score) for (outputs, _), score in zip(points, best, strict=True)]

    @property
    def probe(self) -> tuple[float, float] | None:
        """How often a fresh classifier names the domain by the features of its last network that knows several, and chance, percent."""
        told = list(self.scores.get("domains", {}).values())
        return (float(told[-1]["accuracy"]), float(told[-1]["chance"])) if told else None

    def pictures(self, dataset: str) -> int | None:
        """How many of a dataset's pictures it learned from; None of a run that was read from elsewhere, which does not say so."""
        listed = self.folder / "splits" / dataset / "train.txt"
        return len(listed.read_text("utf-8").splitlines()) if listed.is_file() else None

    @property
    def videos(self) -> dict[str, int]:
        """Of how many videos the pictures of a dataset are, where several are of one."""
        count = {name: len(np.unique(units)) for name, units in self.units.items()}
        return {name: count[name] for name, units in self.units.items() if count[name] < len(units)}


@dataclass(frozen=True)
class Comparison:
    """The finished runs that are compared, all scored in the same way on the same pictures."""

    runs: tuple[Run, ...]
    name: str
    unfinished: tuple[str, ...] = ()   # <row>-seed<k>, or folders
    paper: str | None = None           # which of the paper's tables belongs beside it
    passed_over: tuple[str, ...] = ()  # what was named too, and is no run
    curve: str | None = None           # the dataset whose labelled pictures are counted, where the table is a curve

    @property
    def kind(self) -> Kind:
        return self.runs[0].kind

    @property
    def measures(self) -> tuple[Measure, ...]:
        return self.kind.measures

    @property
    def rows(self) -> dict[str, list[Run]]:
        """The runs of each row, by their seeds."""
        rows: dict[str, list[Run]] = {}
        for run in self.runs:
            rows.setdefault(run.row, []).append(run)
        return {row: sorted(runs, key=lambda run: run.seed) for row, runs in rows.items()}

    @property
    def rendered(self) -> bool:
        """Whether some of the runs are of a rendered world, of which no publication says anything."""
        return any(run.config.get("data", {}).get(world) is not None for run in self.runs for world in ("world", "otherworld"))

    @property
    def left_out(self) -> list[str]:
        """Datasets that some of the runs were scored on, but not all of them."""
        return sorted({name for run in self.runs for name in run.scores["datasets"]} - set(self.runs[0].datasets))

    @property
    def columns(self) -> dict[str, tuple[str, ...]]:
        """The columns and the datasets of each: every dataset, the datasets of a domain where there are several domains (the paper's
        "7 KITTI"), and all together."""
        of = domains(self.runs[0])
        found = {name: (name,) for name in of}
        groups = {domain: tuple(name for name in of if of[name] == domain) for domain in of.values()}
        several = {f"{domain} together": names for domain, names in groups.items() if 1 < len(names) < len(found)}
        return {**found, **several, **({ALL: tuple(found)} if len(found) > 1 else {})}


# ------------------------------------------------------------------------------------------------------------------------------------
# Tables


def read_table(places: Sequence[str | Path], runs: Path = Path("runs")) -> Comparison:
    """What a person names to be compared: the folder of a table, its name below ``runs``, or run folders.

    Raises:
        UserError: none of these, a damaged run, no finished run (others, of several folders, are passed over), or runs
            whose numbers do not speak of the same thing.
    """
    folders = [Path(place) for place in places]
    if len(folders) == 1:
        for folder in (folders[0], runs / folders[0]):
            if (folder / TABLE).is_file():
                return read_table_folder(folder)
    several = len(folders) > 1  # such as runs/*; one that is not there at all is a mistake
    finished = [folder for folder in folders if not several or (folder / "scores.json").is_file() or not folder.exists()]
    if not finished:
        raise UserError(f"none of {', '.join(map(str, folders))} is a finished run: expected folders with a scores.json, or a table's")
    found = check_comparable([read_run(folder) for folder in finished])
    name = str(found[0].config.get("data", {}).get("name", "")) or ", ".join(found[0].datasets)
    others = [folder for folder in folders if folder not in finished]  # of runs/*, also tables and logs
    unfinished = [folder.name for folder in others if (folder / "config.yaml").is_file()]
    return Comparison(found, name, tuple(unfinished), passed_over=tuple(f.name for f in others if f.name not in unfinished))


def read_table_folder(folder: Path) -> Comparison:
    """A table that tools have run: its finished runs ``<row>-seed<k>``, in the order of the rows in its ``table.yaml``."""
    file = folder / TABLE
    about = read_yaml(file, "the rows and seeds of a table")
    about = about if isinstance(about, dict) else {}
    rows, seeds, name, paper = about.get("rows"), about.get("seeds"), about.get("name", folder.name), about.get("paper")
    curve = about.get("curve")
    if not isinstance(rows, dict) or not isinstance(seeds, list) or not all(isinstance(key, str) for key in rows):
        raise UserError(f"{file} says not what a table has, expected names with lists under rows, and a list of numbers under seeds")
    if not isinstance(name, str) or not isinstance(paper, str | None) or not isinstance(curve, str | None):
        raise UserError(f"{file} has the name {name!r:.60}, the paper's table {paper!r:.60} and the curve {curve!r:.60}, expected texts")
    wanted = [(row, f"{row}-seed{seed}") for row in rows for seed in seeds]
    there = sorted(path.name for path in folder.iterdir())
    wanted += [(row, stray) for row in rows for stray in there if re.fullmatch(rf"{re.escape(row)}-seed\d+", stray)]  # of other seeds
    finished: dict[str, str] = {run: row for row, run in wanted if (folder / run / "scores.json").is_file()}
    if not finished:
        example = wanted[0][1] if wanted else "nf-seed0"
        raise UserError(f"{folder} has no finished run yet, expected folders such as {example} with a scores.json: run the table first")
    order = {row: position for position, row in enumerate(rows)}
    found = [read_run(folder / run, row) for run, row in sorted(finished.items(), key=lambda item: order[item[1]])]
    missing = dict.fromkeys(run for _, run in wanted if run not in finished)
    return Comparison(check_comparable(found), name, tuple(missing), paper, curve=curve)


def read_mlflow(experiment: str, uri: str | None = None) -> tuple[Comparison, str]:
    """The latest table of one of MLflow's experiments, or where it has none all of its runs.

    Args:
        experiment: its name.
        uri: of the store; by default MLflow's own.

    Returns:
        The comparison, and what was found: ``MLflow: street7, 15 runs``.

    Raises:
        UserError: as :func:`read_table`, or there is no such experiment or store.
    """
    with TemporaryDirectory() as temporary:
        name, folders = download_runs(experiment, Path(temporary), list(FILES), uri)
        table = read_table([Path(temporary)] if (Path(temporary) / TABLE).is_file() else folders)
    return table, f"MLflow: {name}, {len(folders)} runs"


# ------------------------------------------------------------------------------------------------------------------------------------
# Runs


def read_run(folder: Path, row: str | None = None) -> Run:
    """A finished run.

    Args:
        folder: of the run.
        row: of the table that it belongs to; by default the name of its strategy.

    Raises:
        UserError: no finished run there, or a damaged one.
    """
    try:
        scores = json.loads((folder / "scores.json").read_text("utf-8"))
        config = dict(read_yaml(folder / "config.yaml", "the settings of a run"))
        config["train"] = asdict(from_plain(TrainSettings, config["train"], "train"))
        if not isinstance(config["strategy"]["name"], str) or type(config["seed"]) is not int:
            raise ValueError("its strategy or seed is damaged")
        check_choices(config)
        found, units = read_found(folder / "per_image.npz", scores)
        check_scores(scores, found)
        run = Run(folder, row or config["strategy"]["name"], config, scores, found, units, tuple(origins(folder)))
        way_to_score(run)
        domains(run)
        _ = run.training, run.probe  # they raise what a damaged file makes them raise
    except FileNotFoundError as error:
        raise UserError(f"{folder} is no finished run: it has no {Path(error.filename).name}; name folders below runs/ that do") from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, zipfile.BadZipFile) as error:
        reason = f"it has no {error}" if isinstance(error, KeyError) else shorten(str(error), 200, placeholder=" ...")
        raise UserError(f"{folder} cannot be read as a run ({reason}): train it again, or leave it out") from None
    return run


def check_choices(config: Mapping[str, Any]) -> None:
    """Refuses a damaged ``model`` or ``data``, where there are some: a run may be older than they are.

    Raises:
        ValueError: one of them is damaged; says which.
    """
    for group in ("model", "data"):
        about = config.get(group, {})
        if not isinstance(about, Mapping) or not isinstance(about.get("name", ""), str):
            raise ValueError(f"its {group} is damaged")
    share = config.get("data", {}).get("share") or {}
    if not isinstance(share, Mapping) or not all(type(value) in (int, float) for value in share.values()):
        raise ValueError("its data.share is damaged")


@contextmanager
def arrays_of(file: Path) -> Iterator[Any]:
    """The arrays of an ``.npz`` file, by their names.

    Raises:
        ValueError: it is none, or turns out to be damaged while it is read.
    """
    try:
        with file.open("rb") as opened:
            if not zipfile.is_zipfile(opened):
                raise ValueError(f"{file.name} is no archive of arrays")
        with np.load(file) as stored:
            yield stored
    except (EOFError, RuntimeError, NotImplementedError, SyntaxError, MemoryError, OverflowError, zlib.error) as error:
        raise ValueError(f"{file.name} is damaged: {error}") from None


def read_found(file: Path, scores: Mapping[str, Any]) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """What was found of each dataset's pictures (N, ...), and of which video each of them is (N,).

    Args:
        file: a run's ``per_image.npz``. One that names no sequences is of an older run: each of its pictures is taken to be of a video of
            its own.
        scores: the ``scores.json`` beside it.
    """
    kind = kind_of_scores(scores)
    found, units = {}, {}
    with arrays_of(file) as stored:
        for name, about in scores["datasets"].items():
            try:
                found[name] = one = kind.stored(stored, name, about)
            except ValueError as error:
                raise ValueError(f"{file.name} is damaged: {error}") from None
            sequences = stored.get(f"{name}/sequences")
            if sequences is not None and sequences.shape != (len(one),):
                raise ValueError(f"{file.name} names {sequences.size} sequences for {len(one)} pictures of {name}")
            units[name] = np.arange(len(one)).astype(str) if sequences is None else sequences.astype(str)
    return found, units


def check_scores(scores: Mapping[str, Any], found: Mapping[str, np.ndarray]) -> None:
    """Refuses a ``scores.json`` that says something else than what was found of the pictures.

    Raises:
        ValueError: it does.
    """
    kind = kind_of_scores(scores)
    tallies = {name: kind.tally(one).sum(0) for name, one in found.items()}
    stated = [(scores["pooled"], list(tallies.values())), *((scores["datasets"][name], [one]) for name, one in tallies.items())]
    for said, summed in stated:
        for measure, value in zip(kind.measures, kind.pooled(summed).tolist(), strict=True):
            told = np.nan if said[measure.key] is None else said[measure.key]
            if np.isnan(told) != np.isnan(value) or abs(told - value) >= 1e-6:
                raise ValueError(f"its scores.json says {measure.key} {said[measure.key]}, its per_image.npz {value}")


def check_comparable(runs: Sequence[Run]) -> tuple[Run, ...]:
    """The runs, if they can be compared, by what was scored in all of them: a network that was fine-tuned answers for one dataset, and
    the joint network beside it for that one and others.

    Raises:
        UserError: two of one row and seed, or runs that were not scored in the same way on the same pictures.
    """
    seen: dict[tuple[str, int], Run] = {}
    for run in runs:
        if (other := seen.setdefault((run.row, run.seed), run)) is not run:
            raise UserError(f"{run.folder} and {other.folder} are both {run.row} with seed {run.seed}: leave one of them out")
    first = runs[0]
    common = [name for name in first.datasets if all(name in run.datasets for run in runs)]

    def refuse(run: Run, reason: str) -> UserError:
        return UserError(f"{run.folder} and {first.folder} cannot be compared: {reason}; compare like with like")

    for run in runs[1:]:
        if not common:
            raise refuse(run, f"they have no dataset in common, {', '.join(run.datasets)} and {', '.join(first.datasets)}")
        if run.kind is not first.kind:
            raise refuse(run, f"one is of {run.kind.name}, the other of {first.kind.name}")
        if (way := way_to_score(run)) != (expected := way_to_score(first)):
            raise refuse(run, f"their ways to score differ, {way} and {expected}")
        for name in common:
            parts, expected_parts = (run.kind.parts(one.scores["datasets"][name]) for one in (run, first))
            asked, expected_asked = (run.kind.asked(one.found[name]) for one in (run, first))
            if parts != expected_parts or not np.array_equal(asked, expected_asked):
                raise refuse(run, f"they were scored on other pictures or labels of {name}")
    return tuple(replace(run, found={n: run.found[n] for n in common}, units={n: run.units[n] for n in common}) for run in runs)


def way_to_score(run: Run) -> tuple[Any, ...]:
    """Which pictures, and of them what, was scored: runs must agree on it to be compared."""
    usual = run.kind.way(ScoreSettings())
    of_before: dict[str, Any] = {key: usual[key] for key in ("mirror", "scales") if key in usual}  # not said by runs that knew no copies
    return (run.split, *({**of_before, **run.scores}[key] for key in usual))


def domains(run: Run) -> dict[str, str]:
    """The domain of each dataset, as its run's settings tell it; its own name where they do not."""
    forced = run.config.get("data", {}).get("domain")
    yamls = {name: found["yaml"] for name, found in run.config.get("found", {}).items()}
    own = {name: str(yamls.get(name, {}).get("domain", name)) for name in run.datasets}
    return {name: str(forced.get(domain, domain) if isinstance(forced, dict) else forced or domain) for name, domain in own.items()}


def budget(run: Run) -> dict[str, float]:
    """What a run was given: ``{"outputs": 1e6}``, labelled outputs of all its networks together; likewise ``epochs`` and ``minutes``."""
    given = {name: run.config["train"][name] for name in ("outputs", "epochs", "minutes")}
    trained = list(run.config.get("found", run.datasets))  # not only those that were scored
    try:
        share = sum(stage.budget for stage in stages(run.config["strategy"], trained))
    except UserError:  # a strategy of another version
        share = 1.0
    return {name: value * share for name, value in given.items() if value}
