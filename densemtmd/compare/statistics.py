"""Means over seeds, differences that come with an interval, and what changed from label to label.

An interval has two kinds of parts. Other seeds would give another mean: so much the variance of the differences over seeds tells. Other
videos would too, to all seeds alike: so much the covariance of two seeds' differences over the videos tells, by the jackknife. Studies of
many readers and cases are evaluated so (Obuchowski and Rockette, 1995; Hillis, 2007): here seeds are the readers, and videos the cases.

Shapes: ``N`` pictures, ``L`` labels, ``S`` seeds, ``U`` videos, ``K`` measures of the kind.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import stdtrit

from densemtmd.compare.reading import Comparison, Run, domains
from densemtmd.errors import UserError
from densemtmd.kind import Measure
from densemtmd.tasks import nearest

BASELINE = "nf"


@dataclass(frozen=True)
class Spread:
    """The mean of a score over seeds and its standard deviation (n − 1; NaN for one seed)."""

    mean: float
    sd: float


@dataclass(frozen=True)
class Difference:
    """By how much a score is higher than the baseline's, and the 95 % interval of that; its ends are NaN where nothing is known of it."""

    value: float
    low: float
    high: float
    less_is_better: bool = False

    @property
    def verdict(self) -> str:
        """``helped`` or ``hurt`` where the whole interval says so, else ``no clear difference``."""
        if not (self.low > 0 or self.high < 0):
            return "no clear difference"
        return "helped" if (self.high < 0) == self.less_is_better else "hurt"


Differences = Mapping[str, Mapping[tuple[str, str], Difference]]
"""Of each row, by column and measure."""


@dataclass(frozen=True)
class Confusion:
    """How much of a label is taken for another one, in percent of its pixels, by two rows; the interval is that of the change."""

    true: str
    answer: str
    before: float
    after: float
    change: Difference


def seed_scores(runs: Sequence[Run], columns: Mapping[str, Sequence[str]]) -> dict[str, np.ndarray]:
    """The scores of a row's S runs by their kind's measures, (S, K) for each column of datasets."""
    tallies, kind = {name: tallied(runs, name).sum(0) for name in runs[0].datasets}, runs[0].kind
    return {column: kind.pooled([tallies[name] for name in names]) for column, names in columns.items()}


def tallied(runs: Sequence[Run], dataset: str) -> np.ndarray:
    """What measures need of each picture of a dataset, (N, S, ...)."""
    return np.stack([run.kind.tally(run.found[dataset]) for run in runs], 1).astype(float)


def spreads(runs: Sequence[Run], columns: Mapping[str, Sequence[str]]) -> dict[tuple[str, str], Spread]:
    """(column, measure) -> mean and standard deviation over a row's seeds."""
    found = {}
    for column, values in seed_scores(runs, columns).items():
        for measure, seeds in zip(runs[0].measures, values.T, strict=True):
            found[column, measure.key] = Spread(float(seeds.mean()), float(seeds.std(ddof=1)) if len(seeds) > 1 else np.nan)
    return found


# ------------------------------------------------------------------------------------------------------------------------------------
# Differences


def paired(a: Sequence[Run], b: Sequence[Run]) -> tuple[list[Run], list[Run]]:
    """The runs of two rows with the seeds that both have, in the same order."""
    common = sorted({run.seed for run in a} & {run.seed for run in b})
    return [next(r for r in a if r.seed == seed) for seed in common], [next(r for r in b if r.seed == seed) for seed in common]


@dataclass(frozen=True)
class Together:
    """Datasets that show some of the same videos, and which: videos are drawn for all of them at once."""

    videos: Mapping[str, np.ndarray]  # of each dataset (N,): which of the U videos each picture is of
    pictures: np.ndarray              # (U,)


def together(run: Run, datasets: Sequence[str]) -> list[Together]:
    """The datasets in groups, none of which shows a video of another. Only datasets of one domain can have a video in common."""
    of = domains(run)
    names = {dataset: [(of[dataset], unit) for unit in run.units[dataset].tolist()] for dataset in datasets}
    groups: list[tuple[list[str], set[tuple[str, str]]]] = []
    for dataset in datasets:
        shared = [group for group in groups if group[1] & set(names[dataset])]
        groups = [group for group in groups if group not in shared]
        members = [name for group in shared for name in group[0]]
        groups.append(([*members, dataset], set(names[dataset]).union(*(group[1] for group in shared))))
    found = []
    for members, videos in groups:
        number = {video: n for n, video in enumerate(sorted(videos))}
        which = {dataset: np.array([number[name] for name in names[dataset]]) for dataset in members}
        found.append(Together(which, np.sum([np.bincount(one, minlength=len(number)) for one in which.values()], 0)))
    return found


def without_each(pictures: np.ndarray, video: np.ndarray, count: int) -> np.ndarray:
    """The sums over pictures when one video is left out and the others count for it too, (U, ...).

    Args:
        pictures: (N, ...).
        video: (N,): which of the U videos each is of.
        count: U, at least 2.
    """
    own = np.tensordot((video == np.arange(count)[:, None]).astype(float), pictures, 1)  # (U, ...)
    return (own.sum(0) - own) * (count / (count - 1))


def half_width(changes: np.ndarray, left_out: Sequence[np.ndarray], pictures: Sequence[np.ndarray]) -> np.ndarray:
    """Half the width of the 95 % interval about the mean over seeds of some changes, (...).

    A part of its variance is that over seeds, s² / S, with S − 1 degrees of freedom. The others are of the videos, one for each group of
    datasets that share videos: the mean covariance of two seeds' changes, by leaving out one video after the other; with one seed the
    variance of its change. A group of one video tells nothing of others, and is no part.

    The parts are added, with Satterthwaite's degrees of freedom. Those alone are too many where a part of few degrees makes most of the
    variance and happens to come out small (2 seeds: 87 % of the intervals would hold the truth), so the interval is never shorter than by
    any one part alone. ``tools/bench.py coverage`` measures how often it holds the truth.

    Args:
        changes: (S, ...).
        left_out: of each group of several videos (U, S, ...), the changes with one video left out; NaN where nothing is left to score.
        pictures: of each such group (U,) the pictures of its videos.

    Returns:
        NaN where there is no part, or one cannot be known.
    """
    seeds, parts, freedom = len(changes), [], []
    if seeds > 1:
        parts.append(changes.var(0, ddof=1) / seeds)
        freedom.append(seeds - 1.0)
    for left, size in zip(left_out, pictures, strict=True):
        off, count = left - left.mean(0), len(left)
        common, own = (off.sum(1) ** 2).sum(0), (off**2).sum((0, 1))
        covariance = (common - own) / (seeds * (seeds - 1)) if seeds > 1 else own
        parts.append(np.maximum((count - 1) / count * covariance, 0))
        freedom.append(degrees(size))
    if not parts:
        return np.full(changes.shape[1:], np.nan)
    variance, each = np.stack(parts), np.array(freedom).reshape(-1, *[1] * (changes.ndim - 1))
    whole = variance.sum(0)
    with np.errstate(invalid="ignore", divide="ignore"):
        satterthwaite = whole**2 / (variance**2 / each).sum(0)
    alone = quantile(each) * np.sqrt(variance)
    return np.where(whole == 0, 0.0, np.maximum(quantile(satterthwaite) * np.sqrt(whole), alone.max(0)))


def quantile(freedom: Any) -> Any:
    """Student's 97.5 % quantile for some degrees of freedom.

    >>> round(float(quantile(2)), 2)
    4.3
    """
    return stdtrit(freedom, 0.975)


def degrees(pictures: np.ndarray) -> float:
    """The degrees of freedom of U videos, from the number of their pictures: U − 1 for equally long ones, fewer where some outweigh the
    others, at least 1.

    >>> degrees(np.full(12, 4)), round(degrees(np.arange(1, 13)), 1)
    (11.0, 6.0)
    """
    weight = pictures.astype(float) ** 2
    return max(1.0, float(weight.sum() ** 2 / (weight**2).sum() - 1))


@dataclass(frozen=True)
class Level:
    """A row's scores in a column, and what they would be without some of the videos."""

    scores: np.ndarray                 # (S, K) of its seeds, by their kind's measures
    left_out: Sequence[np.ndarray]     # of each group of several videos (U, S, K): with one of them left out
    pictures: Sequence[np.ndarray]     # of each such group (U,) the pictures of its videos


def levels(runs: Sequence[Run], columns: Mapping[str, Sequence[str]]) -> dict[str, Level]:
    """A row's scores in each column, with and without each video; a picture that is of no video is one by itself."""
    kind, tallies, found = runs[0].kind, {name: tallied(runs, name) for name in runs[0].datasets}, {}
    for column, names in columns.items():
        groups = [group for group in together(runs[0], names) if len(group.pictures) > 1]
        left_out = []
        for group in groups:
            count = len(group.pictures)
            left = [
                without_each(tallies[name], group.videos[name], count) if name in group.videos
                else np.broadcast_to(tallies[name].sum(0), (count, *tallies[name].shape[1:]))
                for name in names
            ]  # fmt: skip
            left_out.append(kind.pooled(left))
        found[column] = Level(kind.pooled([tallies[name].sum(0) for name in names]), left_out, [group.pictures for group in groups])
    return found


def differences(a: Sequence[Run], b: Sequence[Run], columns: Mapping[str, Sequence[str]]) -> dict[tuple[str, str], Difference]:
    """(column, measure) -> by how much row ``b`` is above row ``a``: the mean over the seeds that both have, with the 95 % interval of
    :func:`half_width`, over seeds and over videos.

    With one seed the interval says nothing of other seeds, and where the pictures of a dataset are of one video nothing of other videos.

    Empty where the rows have no seed in common. A score that does not exist has no entry.
    """
    a, b = paired(a, b)
    if not a:
        return {}
    before, after = levels(a, columns), levels(b, columns)
    changes = {
        column: Level(
            one.scores - before[column].scores,
            [left - other for left, other in zip(one.left_out, before[column].left_out, strict=True)],
            one.pictures,
        )
        for column, one in after.items()
    }
    return means(changes, a[0].measures)


def estimates(runs: Sequence[Run], columns: Mapping[str, Sequence[str]]) -> dict[tuple[str, str], Difference]:
    """(column, measure) -> a row's mean score, with an interval as that of :func:`differences`."""
    return means(levels(runs, columns), runs[0].measures)


def means(found: Mapping[str, Level], measures: Sequence[Measure]) -> dict[tuple[str, str], Difference]:
    """(column, measure) -> the mean over seeds with its interval; of what does not exist nothing."""
    told = {}
    for column, one in found.items():
        value, half = one.scores.mean(0), half_width(one.scores, one.left_out, one.pictures)
        for k, measure in enumerate(measures):
            if not np.isnan(value[k]):
                told[column, measure.key] = interval(value[k], half[k], measure.less_is_better)
    return told


def interval(value: float, half: float, less_is_better: bool = False) -> Difference:
    """A difference and its interval."""
    return Difference(float(value), float(value - half), float(value + half), less_is_better)


def against(table: Comparison, baseline: str | None = None) -> tuple[str, Differences]:
    """The baseline of a table, and the differences of its other rows to it.

    Args:
        table: whose rows are compared.
        baseline: the name of a row; by default ``nf``, or the first row of that strategy.

    Returns:
        Its name, or nothing where there is none; and of each other row that has a seed in common with it the differences.

    Raises:
        UserError: there is no such row.
    """
    rows = table.rows
    if baseline is not None and baseline not in rows:
        raise UserError(f"--baseline is {baseline!r}, which is no finished row; {nearest(baseline, rows)}")
    plain = [row for row, runs in rows.items() if runs[0].strategy == BASELINE]
    base = baseline or (BASELINE if BASELINE in rows else plain[0] if plain else "")
    if not base:
        return "", {}
    others = {row: differences(rows[base], runs, table.columns) for row, runs in rows.items() if row != base}
    return base, {row: values for row, values in others.items() if values}


# ------------------------------------------------------------------------------------------------------------------------------------
# Confusions


def confusions(a: Sequence[Run], b: Sequence[Run], dataset: str) -> list[Confusion]:
    """Every confusion of one label with another on a dataset, in two rows, the most repaired ones first.

    Shares of a label's pixels, averaged over the seeds that both rows have; the intervals of their changes are those of
    :func:`differences`. Empty where the rows have no seed in common. For kinds that have confusions: ``kind.merges``.
    """
    a, b = paired(a, b)
    if not a:
        return []
    labels = a[0].kind.parts(a[0].scores["datasets"][dataset])
    groups = [group for group in together(a[0], [dataset]) if len(group.pictures) > 1]  # one, or none

    def shares(counts: np.ndarray) -> np.ndarray:
        """(..., L, L) counts as percent of each label's pixels."""
        with np.errstate(invalid="ignore", divide="ignore"):
            return 100 * counts / counts.sum(-1, keepdims=True)

    counts = [np.stack([run.found[dataset] for run in runs], 1).astype(float) for runs in (a, b)]  # (N, S, L, L)
    before, after = (shares(row.sum(0)) for row in counts)
    left = [[shares(without_each(row, g.videos[dataset], len(g.pictures))) for row in counts] for g in groups]
    half = half_width(after - before, [last - first for first, last in left], [g.pictures for g in groups])
    first, last = before.mean(0), after.mean(0)
    found = [
        Confusion(labels[i], labels[j], float(first[i, j]), float(last[i, j]), interval(last[i, j] - first[i, j], half[i, j]))
        for i in range(len(labels)) for j in range(len(labels))
        if i != j and not np.isnan(first[i, j])
    ]  # fmt: skip
    return sorted(found, key=lambda confusion: confusion.change.value)


def clear(found: Sequence[Confusion]) -> dict[str, list[Confusion]]:
    """The confusions that became rarer and those that became more frequent, beyond doubt, the largest changes first."""
    return {"repaired": [one for one in found if one.change.high < 0], "new": [one for one in reversed(found) if one.change.low > 0]}


# ------------------------------------------------------------------------------------------------------------------------------------
# Curves


@dataclass(frozen=True)
class Point:
    """One point of a curve over the number of labelled pictures of a dataset: its chief measure alone and together with other datasets."""

    share: float             # of the pictures that were there to train and validate on, in (0, 1]
    alone: Spread
    joint: Spread
    gain: Difference | None  # of joint over alone; None where they have no seed in common
    seeds: int               # that they have in common
    pictures: int | None     # that were learned from; None where the runs do not say so


def along(table: Comparison) -> list[Point]:
    """The points of a curve (``curve=`` of ``tools/train.py``) at which both of its runs are finished, the fewest pictures first.

    Raises:
        UserError: the table is no curve, or has no such point yet.
    """
    if table.curve is None:
        raise UserError(f"{table.name} is no curve over labelled pictures: make one with tools/train.py curve=DATASET")
    found: dict[float, dict[str, list[Run]]] = {}
    for runs in table.rows.values():
        share = float((runs[0].config.get("data", {}).get("share") or {}).get(table.curve, 1.0))
        which = "alone" if list(runs[0].scores["datasets"]) == [table.curve] else "joint"
        found.setdefault(share, {})[which] = runs
    columns, key = {table.curve: (table.curve,)}, (table.curve, table.kind.chief.key)
    points = [
        Point(share, spreads(both["alone"], columns)[key], spreads(both["joint"], columns)[key],
              differences(both["alone"], both["joint"], columns).get(key), len(paired(both["alone"], both["joint"])[0]),
              both["alone"][0].pictures(table.curve))
        for share, both in sorted(found.items())
        if len(both) == 2
    ]  # fmt: skip
    if not points:
        raise UserError(f"no share of {table.curve} has been run alone and with others yet: run the table first")
    return points
