"""Means over seeds, differences that come with an interval, and what changed from label to label.

Shapes: ``N`` pictures, ``L`` labels of a labelset, ``S`` seeds, ``R`` resamples, ``K`` measures of the kind.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from densemtmd.compare.reading import Comparison, Run
from densemtmd.errors import UserError
from densemtmd.tasks import nearest

BASELINE = "nf"

RESAMPLES = 2000


@dataclass(frozen=True)
class Spread:
    """The mean of a score over seeds and its standard deviation (n − 1; NaN for one seed)."""

    mean: float
    sd: float


@dataclass(frozen=True)
class Difference:
    """By how much a score is higher than the baseline's, and the 95 % interval of that."""

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


def seed_scores(
    runs: Sequence[Run], columns: Mapping[str, Sequence[str]], pictures: Mapping[str, np.ndarray] | None = None
) -> dict[str, np.ndarray]:
    """The scores of a row's runs by their kind's measures, (R, S, K) for each column.

    Args:
        runs: S of them.
        columns: the datasets of each.
        pictures: of each dataset (R, N), how often each picture counts; without it R = 1, and each counts once.
    """
    tallies, kind = {}, runs[0].kind
    for name in runs[0].datasets:
        own = np.stack([kind.tally(run.found[name]) for run in runs], 1).astype(float)  # (N, S, ...)
        times = np.ones((1, len(own))) if pictures is None else pictures[name]
        tallies[name] = np.tensordot(times.astype(float), own, 1)
    return {column: kind.pooled([tallies[name] for name in names]) for column, names in columns.items()}


def spreads(runs: Sequence[Run], columns: Mapping[str, Sequence[str]]) -> dict[tuple[str, str], Spread]:
    """(column, measure) -> mean and standard deviation over a row's seeds."""
    found = {}
    for column, values in seed_scores(runs, columns).items():
        for measure, seeds in zip(runs[0].measures, values[0].T, strict=True):
            found[column, measure.key] = Spread(float(seeds.mean()), float(seeds.std(ddof=1)) if len(seeds) > 1 else np.nan)
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
    """(column, measure) -> by how much row ``b`` is above row ``a``: the mean over the seeds that both have, with the 95 % interval of a
    paired bootstrap over seeds × test pictures.

    A resample draws seeds (the same for both rows) and, in each dataset, test pictures (the same for both rows and all seeds; videos
    where there are at least ten), with replacement, and computes the scores anew from the summed tallies. The interval reaches from
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
        value = (after[column] - before[column])[0].mean(0)  # (K,)
        change = np.einsum("rs,rsk->rk", seeds / len(a), resampled_after[column] - resampled_before[column])
        for k, measure in enumerate(a[0].measures):
            if not np.isnan(value[k]):
                found[column, measure.key] = interval(value[k], change[:, k], measure.less_is_better)
    return found


def interval(value: float, resampled: np.ndarray, less_is_better: bool = False) -> Difference:
    """A difference and its 95 % percentile interval; resamples without a labelled pixel say nothing."""
    low, high = np.nanpercentile(resampled, [2.5, 97.5])
    return Difference(float(value), float(low), float(high), less_is_better)


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


def confusions(a: Sequence[Run], b: Sequence[Run], dataset: str, resamples: int = RESAMPLES, seed: int = 0) -> list[Confusion]:
    """Every confusion of one label with another on a dataset, in two rows, the most repaired ones first.

    Shares of a label's pixels, averaged over the seeds that both rows have; the intervals of their changes are those of
    :func:`differences`. Empty where the rows have no seed in common. For kinds that have confusions: ``kind.merges``.
    """
    a, b = paired(a, b)
    if not a:
        return []
    seeds, pictures = draws(a[0].units, len(a), resamples, seed)
    labels = a[0].kind.parts(a[0].scores["datasets"][dataset])
    before, after = (np.stack([run.found[dataset] for run in runs], 1).astype(float) for runs in (a, b))  # (N, S, L, L)
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


def along(table: Comparison) -> list[Point]:
    """The points of a curve (``curve=`` of ``tools/train.py``) at which both of its runs are finished, the fewest pictures first.

    Raises:
        UserError: the table is no curve, or has no such point yet.
    """
    if table.curve is None:
        raise UserError(f"{table.name} is no curve over labelled pictures: make one with tools/train.py curve=DATASET")
    found: dict[float, dict[str, list[Run]]] = {}
    for runs in table.rows.values():
        share = float((runs[0].config["data"].get("share") or {}).get(table.curve, 1.0))
        which = "alone" if list(runs[0].scores["datasets"]) == [table.curve] else "joint"
        found.setdefault(share, {})[which] = runs
    columns, key = {table.curve: (table.curve,)}, (table.curve, table.kind.chief.key)
    points = [
        Point(share, spreads(both["alone"], columns)[key], spreads(both["joint"], columns)[key],
              differences(both["alone"], both["joint"], columns).get(key))
        for share, both in sorted(found.items())
        if len(both) == 2
    ]  # fmt: skip
    if not points:
        raise UserError(f"no share of {table.curve} has been run alone and with others yet: run the table first")
    return points
