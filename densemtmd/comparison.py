"""Comparing runs: means over seeds, differences that come with an interval, and the paper's own numbers to stand beside them.

Everything is computed from the confusion matrices of the runs' test pictures (``per_image.npz``). A *row* is what a table compares: a
strategy, or a row of ``table.yaml``, with a run per seed. A *column* is a dataset, the datasets of one domain, or all of them together.

Shapes: ``N`` pictures, ``L`` labels of a labelset, ``S`` seeds, ``R`` resamples. A *tally* (..., 3, L) is what scores need of a confusion
matrix: of each label the pixels that are right, that are there, and that were answered.
"""

from __future__ import annotations

import csv
import json
import re
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from textwrap import shorten
from typing import Any

import numpy as np

from densemtmd import evaluation
from densemtmd.errors import UserError
from densemtmd.files import read_yaml
from densemtmd.report import ERRORS, measures
from densemtmd.settings import TrainSettings, from_plain
from densemtmd.strategies import stages
from densemtmd.tasks import nearest

TABLE = "table.yaml"
"""In the folder of a table: which rows and seeds it is to have."""

BASELINE = "nf"
ALL = "all together"

RESAMPLES = 2000
MIN_SEQUENCES = 10
"""From so many on, videos are resampled and not their pictures: pictures of one video resemble each other, so they tell less than as many
pictures of different places, but an interval from fewer videos would itself be guesswork."""

PAPER = Path(__file__).with_name("paper_tables.csv")
"""The tables of the paper: a line per number, with a note where it was corrected, derived from others, or cannot be known. Of other
people's methods the note says where and when they were published; those that came after the paper are under :data:`LATER`."""

LATER = "table7_later"
"""What stands in :data:`PAPER` beside Table 7 and is not of the paper."""

OWN = ("nf", "jt", "jtsc")
"""The rows of Table 7 that are the paper's own method."""

KITTI = {"he", "kundu", "ladicky", "ros", "sengupta", "xu", "zhang"}
"""The datasets that the paper's tables call "7 KITTI" together."""


@dataclass(frozen=True)
class Run:
    """A finished run, as its folder tells it."""

    folder: Path
    row: str
    config: Mapping[str, Any]                # config.yaml
    scores: Mapping[str, Any]                # scores.json
    matrices: Mapping[str, np.ndarray]       # of each dataset (N, L, L) counts; of keypoints (N, J, 2) errors in mm and px
    units: Mapping[str, np.ndarray]          # of each dataset (N,): the unit of resampling that a picture belongs to

    @property
    def seed(self) -> int:
        return self.config["seed"]

    @property
    def strategy(self) -> str:
        return self.config["strategy"]["name"]

    @property
    def datasets(self) -> list[str]:
        return list(self.matrices)

    @property
    def of_keypoints(self) -> bool:
        """Whether it was scored by errors of keypoints, the smaller the better, and not by labels."""
        return self.measures is ERRORS

    @property
    def measures(self) -> dict[str, str]:
        """Its scores and their names."""
        return measures(self.scores)

    @property
    def first_measure(self) -> str:
        """The score by which datasets are said to be helped or hurt."""
        return "mm" if self.of_keypoints else "iou"


@dataclass(frozen=True)
class Table:
    """The finished runs that are compared, all scored in the same way on the same pictures."""

    runs: tuple[Run, ...]
    name: str
    unfinished: tuple[str, ...] = ()   # <row>-seed<k>
    paper: str | None = None           # which of the paper's tables belongs beside it
    curve: str | None = None           # the dataset whose labelled pictures are counted, where the table is a curve

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


@dataclass(frozen=True)
class Spread:
    """The mean of a score over seeds and its standard deviation (n − 1; NaN for one seed), in percent."""

    mean: float
    sd: float


@dataclass(frozen=True)
class Difference:
    """By how many points a score is higher than the baseline's, and the 95 % interval of that."""

    value: float
    low: float
    high: float
    less_is_better: bool = False

    @property
    def verdict(self) -> str:
        """``helped`` or ``hurt`` where the whole interval says so, else ``no clear difference``."""
        if self.low <= 0 <= self.high:
            return "no clear difference"
        return "helped" if (self.high < 0) == self.less_is_better else "hurt"


@dataclass(frozen=True)
class Confusion:
    """How much of a label is taken for another one, in percent of its pixels, by two rows; the interval is that of the change."""

    true: str
    answer: str
    before: float
    after: float
    change: Difference


# ------------------------------------------------------------------------------------------------------------------------------------
# Reading


def read_table(places: Sequence[Path], runs: Path = Path("runs")) -> Table:
    """What a person names to be compared: the folder of a table, its name below ``runs``, or run folders.

    Raises:
        UserError: none of these, a damaged run, no finished run, or runs whose numbers do not speak of the same thing.
    """
    if len(places) == 1:
        for folder in (places[0], runs / places[0]):
            if (folder / TABLE).is_file():
                return read_table_folder(folder)
    found = check_comparable([read_run(folder) for folder in places])
    return Table(found, str(found[0].config.get("data", {}).get("name", "")) or ", ".join(found[0].datasets))


def read_table_folder(folder: Path) -> Table:
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
    return Table(check_comparable(found), name, tuple(missing), paper, curve)


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
        if "mm" in scores["pooled"]:
            parts = {name: len(dataset["keypoints"]) for name, dataset in scores["datasets"].items()}
            matrices, units = read_errors(folder / "per_image.npz", parts)
        else:
            labels = {name: len(dataset["labels"]) for name, dataset in scores["datasets"].items()}
            matrices, units = read_matrices(folder / "per_image.npz", labels)
        check_scores(scores, matrices)
        run = Run(folder, row or config["strategy"]["name"], config, scores, matrices, units)
        way_to_score(run)
        domains(run)
    except FileNotFoundError as error:
        raise UserError(f"{folder} is no finished run: it has no {Path(error.filename).name}; name folders below runs/ that do") from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, zipfile.BadZipFile) as error:
        reason = f"it has no {error}" if isinstance(error, KeyError) else shorten(str(error), 200, placeholder=" ...")
        raise UserError(f"{folder} cannot be read as a run ({reason}): train it again, or leave it out") from None
    return run


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


def read_matrices(file: Path, labels: Mapping[str, int]) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Each dataset's confusion matrices (N, L, L) and units of resampling (N,), from a run's ``per_image.npz``.

    Args:
        file: to read. A file that names no sequences is of an older run: its pictures are taken to be independent of each other.
        labels: L of each dataset.
    """
    matrices, units = {}, {}
    with arrays_of(file) as stored:
        for name, count in labels.items():
            matrices[name] = matrix = stored[name]
            if matrix.ndim != 3 or matrix.shape[1:] != (count, count) or not len(matrix) or matrix.dtype.kind not in "iu":
                raise ValueError(f"{file.name} holds {matrix.dtype}s of shape {matrix.shape} for {name}, not counts of {count} labels")
            if (matrix < 0).any():
                raise ValueError(f"{file.name} holds counts below 0 for {name}")
            sequences = stored.get(f"{name}/sequences")
            if sequences is not None and sequences.shape != (len(matrix),):
                raise ValueError(f"{file.name} names {sequences.size} sequences for {len(matrix)} pictures of {name}")
            units[name] = resampling_units(len(matrix), sequences)
    return matrices, units


def read_errors(file: Path, keypoints: Mapping[str, int]) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Each dataset's errors (N, J, 2) in mm and px, and units of resampling (N,), from a run's ``per_image.npz``.

    Args:
        file: to read.
        keypoints: J of each dataset.
    """
    errors, units = {}, {}
    with arrays_of(file) as stored:
        for name, count in keypoints.items():
            errors[name] = found = np.stack([stored[f"{name}/mm"], stored[f"{name}/px"]], -1)
            if found.ndim != 3 or found.shape[1] != count or not len(found) or not (found >= 0).all():
                raise ValueError(f"{file.name} holds numbers of shape {found.shape} for {name}, not errors of {count} keypoints")
            sequences = stored[f"{name}/sequences"]
            if sequences.shape != (len(found),):
                raise ValueError(f"{file.name} names {sequences.size} sequences for {len(found)} pictures of {name}")
            units[name] = resampling_units(len(found), sequences)
    return errors, units


def resampling_units(pictures: int, sequences: Sequence[str] | np.ndarray | None) -> np.ndarray:
    """(N,) the unit that each picture is resampled with: its video where there are at least ten of them, else itself.

    >>> resampling_units(3, ["a", "a", "b"]).tolist()
    [0, 1, 2]
    """
    if sequences is not None:
        names, unit = np.unique(np.asarray(sequences), return_inverse=True)
        if len(names) >= MIN_SEQUENCES:
            return unit
    return np.arange(pictures)


def check_scores(scores: Mapping[str, Any], matrices: Mapping[str, np.ndarray]) -> None:
    """Refuses a ``scores.json`` that says something else than the matrices beside it."""
    if "mm" in scores["pooled"]:
        tallies = {name: frame_tally(found).sum(0) for name, found in matrices.items()}
        for name, said in {"": scores["pooled"], **scores["datasets"]}.items():
            mm = pooled_errors(list(tallies.values()) if not name else [tallies[name]])[0]
            if not abs(said["mm"] - mm) < 1e-6:
                raise ValueError(f"its scores.json says mm {said['mm']}, its per_image.npz {mm}")
        return
    summed = {name: matrix.sum(0) for name, matrix in matrices.items()}
    stated = [scores["pooled"], *scores["datasets"].values()]
    for said, pooled in zip(stated, [list(summed.values()), *([matrix] for matrix in summed.values())], strict=True):
        for key, value in evaluation.scores(pooled).to_json().items():
            if (said[key] is None) != (value is None) or (value is not None and not abs(said[key] - value) < 1e-6):
                raise ValueError(f"its scores.json says {key} {said[key]}, its per_image.npz {value}")


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
    for run in runs[1:]:
        if not common:
            reason = f"they have no dataset in common, {', '.join(run.datasets)} and {', '.join(first.datasets)}"
            raise UserError(f"{run.folder} and {first.folder} cannot be compared: {reason}; compare like with like")
        if (way := way_to_score(run)) != (expected := way_to_score(first)):
            reason = f"their ways to score differ, {way} and {expected}"
            raise UserError(f"{run.folder} and {first.folder} cannot be compared: {reason}; compare like with like")
        for name in common:
            labels = [list(one.scores["datasets"][name]["keypoints" if one.of_keypoints else "labels"]) for one in (run, first)]
            there, here = (one.matrices[name].shape if one.of_keypoints else one.matrices[name].sum(2) for one in (run, first))
            if labels[0] != labels[1] or not np.array_equal(there, here):
                reason = f"they were scored on other pictures or labels of {name}"
                raise UserError(f"{run.folder} and {first.folder} cannot be compared: {reason}; compare like with like")
    return tuple(
        replace(run, matrices={n: run.matrices[n] for n in common}, units={n: run.units[n] for n in common}) for run in runs
    )


def way_to_score(run: Run) -> tuple[str, str, bool]:
    """Which pictures and pixels were scored: runs must agree on it to be compared. Of keypoints all are."""
    way = ("keypoints", False) if run.of_keypoints else (run.scores["scoring"], run.scores["interior"])
    return (split_of(run), *way)


def split_of(run: Run) -> str:
    """Whose pictures were scored, ``test`` or ``val``."""
    return str(run.scores.get("split", "test"))


def domains(run: Run) -> dict[str, str]:
    """The domain of each dataset, as its run's settings tell it; its own name where they do not."""
    forced = run.config.get("data", {}).get("domain")
    yamls = {name: found["yaml"] for name, found in run.config.get("found", {}).items()}
    own = {name: str(yamls.get(name, {}).get("domain", name)) for name in run.datasets}
    return {name: str(forced.get(domain, domain) if isinstance(forced, dict) else forced or domain) for name, domain in own.items()}


# ------------------------------------------------------------------------------------------------------------------------------------
# Scores and their spread


def tally(matrices: np.ndarray) -> np.ndarray:
    """(..., L, L) confusion matrices -> (..., 3, L): pixels of each label that are right, that are there, that were answered."""
    return np.stack([np.diagonal(matrices, axis1=-2, axis2=-1), matrices.sum(-1), matrices.sum(-2)], -2)


def pooled(tallies: Sequence[np.ndarray]) -> np.ndarray:
    """(..., 3): Global, Average and IoU in percent, as :func:`densemtmd.evaluation.scores` pools datasets; NaN where nothing is labelled.

    Args:
        tallies: of each dataset (..., 3, L), with its own L.
    """
    right, true, answered = np.moveaxis(np.concatenate(tallies, -1).astype(float), -2, 0)
    present = true > 0
    with np.errstate(invalid="ignore", divide="ignore"):
        recall = np.where(present, right / true, 0).sum(-1) / present.sum(-1)
        iou = np.where(present, right / (true + answered - right), 0).sum(-1) / present.sum(-1)
        return 100 * np.stack([right.sum(-1) / true.sum(-1), recall, iou], -1)


def frame_tally(errors: np.ndarray) -> np.ndarray:
    """(N, J, 2) errors of keypoints -> (N, 3, 1): of each frame its mean errors in mm and px, and 1, so that sums can be divided."""
    return np.concatenate([errors.mean(1), np.ones((len(errors), 1))], 1)[..., None]


def pooled_errors(tallies: Sequence[np.ndarray]) -> np.ndarray:
    """(..., 2): mean errors in mm and px over all frames; px of several datasets is NaN, as their pictures differ in resolution.

    Args:
        tallies: of each dataset (..., 3, 1), summed over frames.
    """
    mm, px, frames = np.moveaxis(np.concatenate(tallies, -1).astype(float), -2, 0)
    means = np.stack([mm.sum(-1), px.sum(-1) if len(tallies) == 1 else np.full(px.shape[:-1], np.nan)], -1)
    return means / frames.sum(-1)[..., None]


def seed_scores(
    runs: Sequence[Run], columns: Mapping[str, Sequence[str]], pictures: Mapping[str, np.ndarray] | None = None
) -> dict[str, np.ndarray]:
    """The scores of a row's runs, (R, S, 3) for each column: Global, Average, IoU; or of keypoints (R, S, 2): mm, px.

    Args:
        runs: S of them.
        columns: the datasets of each.
        pictures: of each dataset (R, N), how often each picture counts; without it R = 1, and each counts once.
    """
    tallies = {}
    count, pool = (frame_tally, pooled_errors) if runs[0].of_keypoints else (tally, pooled)
    for name in runs[0].datasets:
        own = np.stack([count(run.matrices[name]) for run in runs], 1).astype(float)  # (N, S, 3, L)
        times = np.ones((1, len(own))) if pictures is None else pictures[name]
        tallies[name] = np.tensordot(times.astype(float), own, 1)
    return {column: pool([tallies[name] for name in names]) for column, names in columns.items()}


def spreads(runs: Sequence[Run], columns: Mapping[str, Sequence[str]]) -> dict[tuple[str, str], Spread]:
    """(column, score) -> mean and standard deviation over a row's seeds."""
    found = {}
    for column, values in seed_scores(runs, columns).items():
        for key, seeds in zip(runs[0].measures, values[0].T, strict=True):
            found[column, key] = Spread(float(seeds.mean()), float(seeds.std(ddof=1)) if len(seeds) > 1 else np.nan)
    return found


# ------------------------------------------------------------------------------------------------------------------------------------
# Differences


def paired(a: Sequence[Run], b: Sequence[Run]) -> tuple[list[Run], list[Run]]:
    """The runs of two rows with the seeds that both have, in the same order."""
    common = sorted({run.seed for run in a} & {run.seed for run in b})
    return [next(r for r in a if r.seed == seed) for seed in common], [next(r for r in b if r.seed == seed) for seed in common]


def draws(
    units: Mapping[str, np.ndarray], seeds: int, resamples: int = RESAMPLES, seed: int = 0
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """How often each seed, (R, S), and each picture of each dataset, (R, N), is drawn in each resample: as many as there are, with
    replacement; the pictures of one unit together.

    The pictures drawn do not depend on the number of seeds, so that all rows of a table are compared on the same ones.
    """
    times = {}
    for position, (name, unit) in enumerate(units.items()):
        count = int(unit.max()) + 1
        random = np.random.default_rng([seed, 1, position])
        times[name] = random.multinomial(count, np.full(count, 1 / count), resamples)[:, unit]
    return np.random.default_rng([seed, 0]).multinomial(seeds, np.full(seeds, 1 / seeds), resamples), times


def differences(
    a: Sequence[Run], b: Sequence[Run], columns: Mapping[str, Sequence[str]], resamples: int = RESAMPLES, seed: int = 0
) -> dict[tuple[str, str], Difference]:
    """(column, score) -> by how much row ``b`` is above row ``a``: the mean over the seeds that both have, with the 95 % interval of a
    paired bootstrap over seeds × test pictures.

    A resample draws seeds (the same for both rows) and, in each dataset, test pictures (the same for both rows and all seeds; videos
    where there are at least ten), with replacement, and computes the scores anew from the summed matrices. The interval reaches from
    the 2.5th to the 97.5th percentile of their differences.

    How much it can be trusted was tried on made-up runs whose true difference is known: it held that in 95 % of all cases where the
    pictures make most of the spread; where the seeds do, in 78 % with 3 seeds, 82 % with 5, 89 % with 10, as no resampling can know more
    of other seeds than the few that there are; and in 89 % with 12 test pictures. With one seed it says nothing of other seeds.

    Empty where the rows have no seed in common. A score that does not exist has no entry.
    """
    a, b = paired(a, b)
    if not a:
        return {}
    seeds, pictures = draws(a[0].units, len(a), resamples, seed)
    before, after = (seed_scores(runs, columns) for runs in (a, b))
    resampled_before, resampled_after = (seed_scores(runs, columns, pictures) for runs in (a, b))
    found = {}
    for column in columns:
        value = (after[column] - before[column])[0].mean(0)  # (3,)
        change = np.einsum("rs,rsk->rk", seeds / len(a), resampled_after[column] - resampled_before[column])
        for k, key in enumerate(a[0].measures):
            if not np.isnan(value[k]):
                found[column, key] = interval(value[k], change[:, k], a[0].of_keypoints)
    return found


def interval(value: float, resampled: np.ndarray, less_is_better: bool = False) -> Difference:
    """A difference and its 95 % percentile interval; resamples without a labelled pixel say nothing."""
    low, high = np.nanpercentile(resampled, [2.5, 97.5])
    return Difference(float(value), float(low), float(high), less_is_better)


def confusions(a: Sequence[Run], b: Sequence[Run], dataset: str, resamples: int = RESAMPLES, seed: int = 0) -> list[Confusion]:
    """Every confusion of one label with another on a dataset, in two rows, the most repaired ones first.

    Shares of a label's pixels, averaged over the seeds that both rows have; the intervals of their changes are those of
    :func:`differences`. Empty where the rows have no seed in common.
    """
    a, b = paired(a, b)
    if not a:
        return []
    seeds, pictures = draws(a[0].units, len(a), resamples, seed)
    labels = list(a[0].scores["datasets"][dataset]["labels"])
    before, after = (np.stack([run.matrices[dataset] for run in runs], 1).astype(float) for runs in (a, b))  # (N, S, L, L)
    times = pictures[dataset].astype(float)
    summed = np.einsum("rs,rsij->rij", seeds / len(a), np.tensordot(times, after - before, 1))
    true = before[:, 0].sum(-1)  # (N, L): the pixels of each label, which are the same in all runs
    with np.errstate(invalid="ignore", divide="ignore"):
        resampled = 100 * summed / (times @ true)[:, :, None]
        first, last = (100 * rows.sum(0).mean(0) / true.sum(0)[:, None] for rows in (before, after))
    found = [
        Confusion(
            labels[i], labels[j], float(first[i, j]), float(last[i, j]), interval(last[i, j] - first[i, j], resampled[:, i, j])
        )
        for i in np.flatnonzero(true.sum(0)) for j in range(len(labels)) if i != j
    ]  # fmt: skip
    return sorted(found, key=lambda confusion: confusion.change.value)


# ------------------------------------------------------------------------------------------------------------------------------------
# Budgets, and the paper


def budget(run: Run) -> dict[str, float]:
    """What a run was given: ``{"outputs": 1e6}``, labelled outputs of all its networks together; likewise ``epochs`` and ``minutes``."""
    given = {name: run.config["train"][name] for name in ("outputs", "epochs", "minutes")}
    try:
        share = sum(stage.budget for stage in stages(run.config["strategy"], run.datasets))
    except UserError:  # a strategy of another version
        share = 1.0
    return {name: value * share for name, value in given.items() if value}


@dataclass(frozen=True)
class Point:
    """One point of a curve over the number of labelled pictures of a dataset: its IoU alone and together with other datasets."""

    share: float             # of the pictures that were there to train and validate on, in (0, 1]
    alone: Spread
    joint: Spread
    gain: Difference | None  # of joint over alone; None where they have no seed in common


def along(table: Table) -> list[Point]:
    """The points of a curve (``curve=`` of ``tools/train.py``) at which both of its runs are finished, the fewest pictures first."""
    assert table.curve is not None
    found: dict[float, dict[str, list[Run]]] = {}
    for runs in table.rows.values():
        share = float((runs[0].config["data"].get("share") or {}).get(table.curve, 1.0))
        which = "alone" if list(runs[0].scores["datasets"]) == [table.curve] else "joint"
        found.setdefault(share, {})[which] = runs
    columns, key = {table.curve: (table.curve,)}, (table.curve, "iou")
    return [
        Point(share, spreads(both["alone"], columns)[key], spreads(both["joint"], columns)[key],
              differences(both["alone"], both["joint"], columns).get(key))
        for share, both in sorted(found.items())
        if len(both) == 2
    ]  # fmt: skip


def paper_numbers(table: str) -> dict[tuple[str, str, str], tuple[float, str]]:
    """The numbers of one of the paper's tables, with a note where it is not simply the printed one.

    Args:
        table: as the first column of :data:`PAPER` calls it, e.g. ``table2``, ``table1_kitti7_stanford``, ``table5_siftflow``.

    Returns:
        (row, dataset, score) -> (number, note). ``total`` is the paper's name for all datasets together, ``kitti7`` that for its seven
        subsets of KITTI.

    Raises:
        UserError: a table that the paper does not have.
    """
    lines = paper_lines()
    if table not in (known := dict.fromkeys(line["table"] for line in lines if line["table"] != LATER)):
        raise UserError(f"the paper has no table {table!r}; {nearest(table, known)}")
    return {(x["row"], x["dataset"], x["score"]): (float(x["value"]), x["note"]) for x in lines if x["table"] == table and x["value"]}


def paper_lines() -> list[dict[str, str]]:
    """All lines of :data:`PAPER`, by its columns."""
    with PAPER.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@dataclass(frozen=True)
class Published:
    """What was published of somebody's method, on official test frames."""

    method: str
    errors: Mapping[str, float]  # of each dataset the mean error in mm
    source: str


def published(table: Table) -> list[Published]:
    """What was published of the methods that the paper compares with, and of some later ones; none unless the table is its Table 7."""
    if table.paper != "table7":
        return []
    methods: dict[str, list[dict[str, str]]] = {}
    for line in paper_lines():
        if line["table"] in ("table7", LATER) and line["value"]:
            methods.setdefault(line["method"].replace("Ours,", "the paper,"), []).append(line)

    def source(lines: Sequence[Mapping[str, str]]) -> str:
        notes = [] if lines[0]["row"] in OWN else list(dict.fromkeys(line["note"] for line in lines))
        return ", ".join([*(["Table 7"] if lines[0]["table"] == "table7" else []), *notes])

    return [Published(name, {x["dataset"]: float(x["value"]) for x in lines}, source(lines)) for name, lines in methods.items()]


def beside(table: Table) -> dict[tuple[str, str, str], tuple[float, str]]:
    """(row, column, score) -> the paper's number and its note; a row is looked up by its own name, then by that of its strategy.

    Raises:
        UserError: the table names one that the paper does not have.
    """
    if table.paper is None:
        return {}
    numbers, found = paper_numbers(table.paper), {}
    for row, runs in table.rows.items():
        for column, datasets in table.columns.items():
            total = ["total", "both"] if column == ALL else []  # of pixels and of hands
            names = [*total, "kitti7"] if set(datasets) == KITTI else total or datasets[:1] * (len(datasets) == 1)
            for score in runs[0].measures:
                printed = {"mm": "3d_mm", "px": "2d_px"}.get(score, score)  # as the file calls them
                keys = [(who, name, printed) for who in (row, runs[0].strategy) for name in names]
                if known := [numbers[key] for key in keys if key in numbers]:
                    found[row, column, score] = known[0]
    return found
