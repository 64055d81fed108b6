"""A comparison for people, on the screen and as markdown, and as CSV for programs."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from densemtmd.compare.paper import PUBLISHED, Paper, Published, beside, is_correction, measured_as, published
from densemtmd.compare.reading import ALL, Comparison, Run, budget
from densemtmd.compare.statistics import Confusion, Difference, Differences, Point, clear, confusions, paired, quantile, spreads
from densemtmd.draw.tables import aligned, markdown
from densemtmd.errors import UserError
from densemtmd.kind import Measure
from densemtmd.origin import duration, told
from densemtmd.tasks import nearest

NOT_THOSE = "These runs are of a rendered world: published numbers are of other pictures, and must not be compared with theirs."

MOST_CONFUSIONS = 6
"""Of each kind and dataset, so many are shown."""

SPLITS = {"test": "test", "val": "validation"}
"""What their pictures are called."""

FEW_SEEDS = 5
"""With fewer the table says what that does to its intervals."""

COST = (
    "What the networks of a row came to, with one seed (a pass: as many labelled outputs as one strided pass over the pictures that a "
    "network learns from has outputs; the processor time is that of the whole run, without what others had computed and kept before it):"
)
"""What stands above the table of costs."""

Rows = tuple[list[str], list[list[str]]]
"""A table's head, and its rows."""


@dataclass(frozen=True)
class Shown:
    """What is said of a comparison: on the screen, and in files, by their names."""

    screen: str
    files: Mapping[str, str]


def compared(table: Comparison, base: str, found: Differences) -> Shown:
    """A table of scores, one of differences, and what they say: ``table.md`` and ``table.csv``.

    Args:
        table: the runs.
        base: the name of the baseline, or nothing.
        found: the differences to it, both as :func:`densemtmd.compare.statistics.against` gives them.
    """
    paper = beside(table)
    words = [verdict(row, base, values, table.kind.chief) for row, values in found.items()]
    words += corrections(paper, table.rendered, table.measures)
    screen = [aligned(rows_of(scores_table(table, paper, bold=False)))]
    page = [markdown(*scores_table(table, paper, bold=True))]
    if found:
        title = f"Difference to {base}, with its 95 % interval:"
        screen += [title, aligned(rows_of(differences_table(found, table.measures)))]
        page += [title, markdown(*differences_table(found, table.measures))]
    if others := published(table):
        screen += [PUBLISHED, aligned(rows_of(published_table(table, others)))]
        page += [PUBLISHED, markdown(*published_table(table, others))]
    cost = costs_table(table.rows)
    screen += [*words, how(table, base, found, "marked *"), *([COST, aligned(rows_of(cost))] if cost else []), *made(table.runs)]
    page += [*words, how(table, base, found, "in bold"), *([COST, markdown(*cost)] if cost else []), *made(table.runs)]
    return Shown("\n\n".join(screen), {"table.md": "\n\n".join(page) + "\n", "table.csv": as_csv(table, found, paper, others)})


def curved(table: Comparison, points: Sequence[Point]) -> Shown:
    """What more labelled pictures of a dataset bring, alone and with others: ``table.md`` and ``table.csv``.

    Args:
        table: a curve.
        points: as :func:`densemtmd.compare.statistics.along` gives them.
    """
    chief = table.kind.chief
    head = [f"{table.curve}, {chief.name}", "alone", "with others", "gain"]
    rows = [
        [
            f"{p.share:.0%} of its pictures" + (f": {p.pictures}" if p.pictures else ""),
            mean_and_sd(p.alone.mean, p.alone.sd, chief.digits),
            mean_and_sd(p.joint.mean, p.joint.sd, chief.digits), "" if p.gain is None else signed(p.gain, chief.digits),
        ]
        for p in points
    ]  # fmt: skip
    pairs = {f"{p.share:.0%}": p.seeds for p in points if p.seeds}
    words = worth(table, points)
    sentence = " ".join([*measured(table, ""), *intervals(table, pairs)])
    lines = [["share", "alone", "alone_sd", "joint", "joint_sd", "gain", "low", "high"]]
    for p in points:
        gain = [""] * 3 if p.gain is None else [f"{v:.4f}" for v in (p.gain.value, p.gain.low, p.gain.high)]
        lines.append([str(p.share), *(f"{v:.4f}" for v in (p.alone.mean, p.alone.sd, p.joint.mean, p.joint.sd)), *gain])
    cost = costs_table(table.rows)
    screen = [aligned([head, *rows]), *words, sentence, *([COST, aligned(rows_of(cost))] if cost else []), *made(table.runs)]
    page = [markdown(head, rows), *words, sentence, *([COST, markdown(*cost)] if cost else []), *made(table.runs)]
    return Shown("\n\n".join(screen), {"table.md": "\n\n".join(page) + "\n", "table.csv": csv_of(lines)})


def worth(table: Comparison, points: Sequence[Point]) -> list[str]:
    """The sentence about where the others' labels help; none where nothing was run alone and with them by one seed."""
    less, known = table.kind.chief.less_is_better, [p for p in points if p.gain is not None]
    if not known:
        return []
    by: dict[str, list[str]] = {"helped at": [], "hurt at": [], "no clear difference at": []}
    for p in known:
        assert p.gain is not None
        low, high = (-p.gain.high, -p.gain.low) if less else (p.gain.low, p.gain.high)
        by["helped at" if low > 0 else "hurt at" if high < 0 else "no clear difference at"].append(f"{p.share:.0%}")
    said = "; ".join(f"{what} {', '.join(shares)}" for what, shares in by.items() if shares)
    return [f"By {table.kind.chief.name}, the labels of the others, to {table.curve}: {said}."]


def confused(table: Comparison, a: str, b: str, dataset: str | None = None) -> Shown:
    """Which confusions row b repaired against row a, and which are new: ``confusions-A-B.md``.

    Args:
        table: the runs.
        a: the name of a row.
        b: of another.
        dataset: on this one alone; by default on all.

    Raises:
        UserError: no such row or dataset, rows without a common seed, or a kind of task that has no confusions.
    """
    rows, datasets = table.rows, table.runs[0].datasets
    if not table.kind.merges:
        raise UserError(f"--confusions are those of labels, but these runs are of {table.kind.name}: leave it out")
    for row in (a, b):
        if row not in rows:
            raise UserError(f"--confusions names {row!r}, which is no finished row; {nearest(row, rows)}")
    if dataset is not None and dataset not in datasets:
        raise UserError(f"--dataset is {dataset!r}; {nearest(dataset, datasets)}")
    of_a, of_b = paired(rows[a], rows[b])
    seeds = [run.seed for run in of_a]
    if not seeds:
        raise UserError(f"{a} and {b} have no seed in common: compare rows that were trained with the same seeds")
    screen, page = [], []
    for name in [dataset] if dataset else datasets:
        head, lines, more = [name, a, b, "change"], [], []
        for kind, some in clear(confusions(rows[a], rows[b], name)).items():
            lines += [confusion_line(kind, one) for one in some[:MOST_CONFUSIONS]]
            more += [f"{len(some) - MOST_CONFUSIONS} more {kind}"] * (len(some) > MOST_CONFUSIONS)
        screen.append(aligned([head, *lines]) if lines else f"{name}: no confusion changed clearly.")
        page.append(markdown(head, lines) if lines else f"{name}: no confusion changed clearly.")
        for part in (screen, page):
            part += [f"{', '.join(more)} on {name}."] * bool(more)
    said = (
        f"Percent of a label's test pixels that got another label, mean over seeds {', '.join(map(str, seeds))}, and the change with its "
        "95 % interval; shown are changes whose interval does not hold 0."
    )
    page += [said, *made([*of_a, *of_b])]
    return Shown("\n\n".join([*screen, said]), {f"confusions-{a}-{b}.md": "\n\n".join(page) + "\n"})


# ------------------------------------------------------------------------------------------------------------------------------------
# Tables


def rows_of(table: Rows) -> list[list[str]]:
    """A table's head and rows as rows."""
    return [table[0], *table[1]]


def scores_table(table: Comparison, paper: Paper, bold: bool) -> Rows:
    """For each row of the table a row for each measure; the best of each measure and column stands out."""
    rows, over = table.rows, table.columns
    found = {row: spreads(runs, over) for row, runs in rows.items()}
    lines = []
    for row in rows:
        for measure in table.measures:
            key, line = measure.key, [f"{row}, {measure.name}"]
            for column in over:
                values = [spread[column, key].mean for spread in found.values()]
                own = found[row][column, key].mean
                best = len(rows) > 1 and (own <= min(values) + 1e-9 if measure.less_is_better else own >= max(values) - 1e-9)
                text = mean_and_sd(own, found[row][column, key].sd, measure.digits)
                text = (f"**{text}**" if best else text) if bold else f"{text}{'*' if best else ' '}"
                printed, note = paper.get((row, column, key), (None, ""))
                line.append(text if printed is None else f"{text} ({printed:.2f}{'†' * is_correction(note)})")
            lines.append(line)
    return ["", *over], lines


def differences_table(found: Differences, measures: Sequence[Measure]) -> Rows:
    """A row per column and measure, of all together with every measure that there is."""
    keys = list(dict.fromkeys(key for values in found.values() for key in values))
    named = {measure.key: measure for measure in measures}
    lines = []
    for column, key in keys:
        measure = named[key]
        if measure.pooled_only and column != ALL:
            continue
        shown = (signed(values[column, key], measure.digits) if (column, key) in values else "–" for values in found.values())
        lines.append([f"{column}, {measure.name}", *shown])
    return ["", *found], lines


def published_table(table: Comparison, others: Sequence[Published]) -> Rows:
    """The table's own rows, and a row per published method."""
    datasets = list(dict.fromkeys(name for other in others for name in other.values))
    measure = measured_as(others[0].score, table.measures)
    key, digits, lines = measure.key, measure.digits, []
    for row, runs in table.rows.items():
        found = spreads(runs, table.columns)
        own = [mean_and_sd(found[name, key].mean, found[name, key].sd, digits) if (name, key) in found else "–" for name in datasets]
        lines.append([row, *own, "these runs, on rendered frames" if table.rendered else "these runs"])
    for other in others:
        shown = (f"{other.values[name]:.{digits}f}" if name in other.values else "–" for name in datasets)
        lines.append([other.method, *shown, other.source])
    return ["", *datasets, "source"], lines


def confusion_line(kind: str, one: Confusion) -> list[str]:
    return [f"{kind}: {one.true} taken for {one.answer}", f"{one.before:.1f} %", f"{one.after:.1f} %", signed(one.change)]


def mean_and_sd(mean: float, sd: float, digits: int = 1) -> str:
    """``46.2 ± 0.3``; a dash for a score that does not exist.

    >>> mean_and_sd(46.21, 0.34), mean_and_sd(46.21, math.nan), mean_and_sd(math.nan, math.nan)
    ('46.2 ± 0.3', '46.2', '–')
    """
    return "–" if math.isnan(mean) else f"{mean:.{digits}f}" if math.isnan(sd) else f"{mean:.{digits}f} ± {sd:.{digits}f}"


def signed(difference: Difference, digits: int = 1) -> str:
    """``+7.6 [+6.9, +8.3]``

    >>> signed(Difference(-7.62, -8.3, 0.04))
    '−7.6 [−8.3, +0.0]'
    >>> signed(Difference(1.2, math.nan, math.nan))
    '+1.2 [–, –]'
    """
    ends = ("–" if math.isnan(end) else f"{end:+.{digits}f}" for end in (difference.low, difference.high))
    return f"{difference.value:+.{digits}f} [{', '.join(ends)}]".replace("-", "−")


def as_csv(table: Comparison, found: Differences, paper: Paper, others: Sequence[Published]) -> str:
    """A line per row, column and measure; and one per published error, which has no mean but only the number in ``paper``."""
    lines = [["row", "dataset", "score", "mean", "sd", "seeds", "difference", "low", "high", "paper"]]
    for row, runs in table.rows.items():
        spread, seeds = spreads(runs, table.columns), " ".join(str(run.seed) for run in runs)
        for column in table.columns:
            for measure in table.measures:
                key = measure.key
                own, difference = spread[column, key], found.get(row, {}).get((column, key))
                ends = [difference.value, difference.low, difference.high] if difference else [math.nan] * 3
                printed = f"{paper[row, column, key][0]:.2f}" if (row, column, key) in paper else ""
                lines.append([row, column, key, number(own.mean), number(own.sd), seeds, *map(number, ends), printed])
    for one in others:
        key = measured_as(one.score, table.measures).key
        lines += [[one.method, name, key, *[""] * 6, f"{value:.2f}"] for name, value in one.values.items()]
    return csv_of(lines)


def csv_of(lines: Sequence[Sequence[str]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(lines)
    return text.getvalue()


def number(value: float) -> str:
    """As a program reads it: nothing where there is none."""
    return "" if math.isnan(value) else f"{value:.4f}"


# ------------------------------------------------------------------------------------------------------------------------------------
# Sentences


def verdict(row: str, base: str, values: Mapping[tuple[str, str], Difference], chief: Measure) -> str:
    """Which datasets a row helped and which it hurt, by the chief measure."""
    by: dict[str, list[str]] = {"helped": [], "hurt": [], "no clear difference": []}
    for (column, key), difference in values.items():
        if key == chief.key and not column.endswith("together"):
            by[difference.verdict].append(column)
    parts = [f"helped {', '.join(by['helped']) or 'no dataset'}", f"hurt {', '.join(by['hurt']) or 'no dataset'}"]
    if unclear := by["no clear difference"]:
        parts.append(f"no clear difference on {', '.join(unclear)}")
    together = f"; {ALL} {signed(values[ALL, chief.key], chief.digits)}" if (ALL, chief.key) in values else ""
    return f"By {chief.full or chief.name}, {row} against {base}: {'; '.join(parts)}{together}."


def corrections(paper: Paper, rendered: bool, measures: Sequence[Measure]) -> list[str]:
    """What the paper's numbers are, and what a † beside them means."""
    names = {measure.key: measure.name for measure in measures}
    notes: dict[str, list[str]] = {}
    for (row, column, key), (_, note) in paper.items():
        if is_correction(note):
            notes.setdefault(note, []).append(f"{row}, {column}, {names[key]}")
    found = [f"{'; '.join(places)}: {note}" for note, places in notes.items()]
    own = f"In brackets: the paper's numbers{', of real pictures' * rendered}."
    return [" ".join([own, *[NOT_THOSE] * rendered, *(f"† {one}." for one in found)])] if paper else []


def measured(table: Comparison, best: str) -> list[str]:
    """Sentences that say how the numbers of a table were measured."""
    rows, first = table.rows, table.runs[0]
    seeds = same({row: ", ".join(str(run.seed) for run in runs) for row, runs in rows.items()})
    what = table.kind.measured(first.scores, SPLITS[first.split])
    return [
        f"{what}; mean ± standard deviation over seeds ({seeds})" + (f", the best {best}." if best else "."),
        f"Budget of a row's networks together: {same({row: budgets(runs) for row, runs in rows.items()})}; "
        f"training: {same({row: protocols(runs) for row, runs in rows.items()})}.",
        *probes(rows),
    ]


def costs_table(rows: Mapping[str, Sequence[Run]]) -> Rows | None:
    """Of each row how many networks a seed has, what the training of each came to, and what all of it cost; none where no run says so."""
    lines = []
    for row, runs in rows.items():
        each = [one for run in runs for one in run.training.values()]
        made = [sum(one.core_seconds for one in run.made) for run in runs if run.made]
        if not each:
            continue
        networks = " or ".join(dict.fromkeys(str(len(run.training)) for run in runs))
        steps, passes = (span([getattr(one, key) for one in each], digits) for key, digits in (("steps", 0), ("passes", 1)))
        early = sum(one.stopped_early for one in each)
        stopped = "none" if not early else "all" if early == len(each) else f"{early} of {len(each)}"
        lines.append([row, networks, steps, passes, stopped, duration(sum(made) / len(made)) if made else "–"])
    return (["", "networks", "steps of each", "passes of each", "stopped early", "processor time"], lines) if lines else None


def made(runs: Sequence[Run]) -> list[str]:
    """The sentence about how runs were made; none where none of them says so."""
    sentence = told([one for run in runs for one in run.made], f"{len(runs)} runs, made by")
    return [sentence] if sentence else []


def probes(rows: Mapping[str, Sequence[Run]]) -> list[str]:
    """The sentence about how far the domains can still be told apart by the features; none where no row learned from several."""
    found = {row: [run.probe for run in runs if run.probe is not None] for row, runs in rows.items()}
    each, chances = [], []
    for row, pairs in found.items():
        if pairs:
            accuracy, chance = np.array(pairs).T
            each.append(f"{row} {mean_and_sd(accuracy.mean(), accuracy.std(ddof=1) if len(pairs) > 1 else math.nan)}")
            chances += chance.tolist()
    if not each:
        return []
    return [f"Domains that a fresh classifier names right by the features, percent (chance: {span(chances, 1)}): {', '.join(each)}."]


def span(values: Sequence[float], digits: int) -> str:
    """``140``, or ``138 to 152`` where they differ.

    >>> span([980, 1200, 1100], 0), span([2.04, 2.01], 1)
    ('980 to 1,200', '2.0')
    """
    return " to ".join(dict.fromkeys(f"{value:,.{digits}f}" for value in (min(values), max(values))))


def how(table: Comparison, base: str, found: Differences, best: str) -> str:
    """Sentences that say what the numbers are."""
    rows = table.rows
    one = len(rows) == 1
    sentences = measured(table, "" if one else best)
    if found:
        sentences += intervals(table, {row: len(paired(rows[base], rows[row])[0]) for row in found})
    elif not one:
        sentences.append(
            f"No row has a seed in common with {base}, so there are no differences."
            if base
            else "There is no row nf to compare the others to: name one with --baseline."
        )
    if table.left_out:
        sentences.append(f"Not scored by every row, and so left out: {', '.join(table.left_out)}.")
    if table.unfinished:
        sentences.append(f"Not finished: {', '.join(table.unfinished)}.")
    if table.passed_over:
        sentences.append(f"Passed over, no runs: {', '.join(table.passed_over)} (a table is compared by itself).")
    return " ".join(sentences)


def intervals(table: Comparison, seeds: Mapping[str, int]) -> list[str]:
    """The sentences about the intervals of some rows, of which so many seeds were compared."""
    videos, units = table.runs[0].videos, table.runs[0].units
    what = "pictures" if not videos else "videos" if len(videos) == len(units) else f"pictures (videos of {', '.join(videos)})"
    alone = [row for row, count in seeds.items() if count == 1]
    who = "" if len(alone) == len(seeds) else f" for {', '.join(alone)}"
    exception = f"; over {what} alone{who}, with one seed: other seeds may differ by more" if alone else ""
    found = [f"Intervals: the variances over seeds and over test {what}, taken apart, with Student's quantiles{exception}."]
    few = min((count for count in seeds.values() if count > 1), default=FEW_SEEDS)
    if few < FEW_SEEDS:
        reach = f"at least {quantile(few - 1):.1f} standard errors over seeds to either side"
        found.append(f"With {few} seeds an interval reaches {reach}: more seeds make it shorter.")
    if videos:
        several = len(videos) == len(units) > 1 and len(set(videos.values())) == 1
        count = f"{next(iter(videos.values()))} of each dataset" if several else ", ".join(f"{name} {n}" for name, n in videos.items())
        found.append(f"Test videos: {count}.")
    single = [name for name, of in units.items() if len(set(of.tolist())) == 1]
    for thing, names in (("video", [n for n in single if n in videos]), ("picture", [n for n in single if n not in videos])):
        if names:
            found.append(f"Of {', '.join(names)} there is 1 {thing}: nothing can be said of other {thing}s.")
    return found


def same(values: Mapping[str, str]) -> str:
    """One text where all rows have the same, else each row with its own."""
    return next(iter(values.values())) if len(set(values.values())) == 1 else "; ".join(f"{row}: {text}" for row, text in values.items())


def budgets(runs: Sequence[Run]) -> str:
    """``1,000,000 labelled outputs``"""
    units = {"outputs": "labelled outputs", "epochs": "epochs", "minutes": "minutes"}
    texts = [" or ".join(f"{value:,.10g} {units[name]}" for name, value in budget(run).items()) for run in runs]
    return " / ".join(dict.fromkeys(texts))


def protocols(runs: Sequence[Run]) -> str:
    """``strided``, ``single patches, as the paper``, ``cells of kept features``, ..."""
    models = [run.config.get("model", {}).get("name", run.kind.model) for run in runs]
    return " / ".join(dict.fromkeys(run.kind.protocol(run.config["train"], model) for run, model in zip(runs, models, strict=True)))
