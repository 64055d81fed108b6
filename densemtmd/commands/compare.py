"""Compare the strategies of a table: means over seeds, and differences that come with an interval.

    python tools/compare.py street7                                  the table in runs/street7, finished or half finished
    python tools/compare.py runs/*-street7-*                         any runs, a row per strategy
    python tools/compare.py street7 --out results/street7            also as table.md, table.csv and figure.png there
    python tools/compare.py street7 --confusions nf jtsc             which confusions jtsc repaired
    python tools/compare.py street7 --mlflow                         the runs of MLflow's experiment street7
    python tools/compare.py table6 --paper table7                    hands, beside what was published of other methods

A curve (curve=A of tools/train.py) shows what more labelled pictures of A are worth, alone and with other datasets.
The runs must have been scored in the same way on the same pictures. Global pools pixels, Average and IoU are means over
labels; "all together" pools as the paper does. The difference to the baseline comes with the 95 % interval of a paired
bootstrap over seeds and test pictures (videos, where there are at least ten), computed from each picture's confusion
matrix. Where the table is one of the paper's, its numbers stand in brackets; beside Table 7 stand the published mean
errors of other methods, with their sources.
"""

from __future__ import annotations

import argparse
import csv
import io
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from densemtmd.commands.cli import make_parser, tool
from densemtmd.errors import UserError

if TYPE_CHECKING:
    from densemtmd.comparison import Confusion, Difference, Published, Run, Table

    Differences = Mapping[str, Mapping[tuple[str, str], Difference]]  # of each row, by column and score
    Paper = Mapping[tuple[str, str, str], tuple[float, str]]          # by row, column and score: the number and a note

NOT_THOSE = "These runs are of a rendered world: published numbers are of other pictures, and must not be compared with theirs."

MOST_CONFUSIONS = 6
"""Of each kind and dataset, so many are shown."""

SPLITS = {"test": "test", "val": "validation"}
"""What their pictures are called."""

FEW_SEEDS = 5
"""With fewer the table says what that does to its intervals."""


@tool
def main(argv: Sequence[str] | None = None) -> int:
    parser = make_parser(__doc__ or "")
    add = parser.add_argument
    add("experiment", nargs="+", metavar="EXPERIMENT", help="a table's folder, its name below runs/, or folders of finished runs")
    add("--out", type=Path, metavar="DIR", help="write table.md, table.csv and figure.png there")
    add("--baseline", metavar="ROW", help="the row that the others are compared to (default: nf)")
    add("--confusions", nargs=2, metavar=("A", "B"), help="show which confusions row B repaired, against row A")
    add("--dataset", metavar="NAME", help="with --confusions: on this dataset alone")
    add("--paper", metavar="TABLE", help="which of the paper's tables to set it beside, such as table7 (default: the experiment's own)")
    add("--mlflow", action="store_true", help="EXPERIMENT is one of MLflow's")
    add("--tracking-uri", metavar="URI", help="MLflow's store (default: sqlite:///mlflow.db, or MLFLOW_TRACKING_URI where it is set)")
    arguments = parser.parse_args(argv)

    from densemtmd.comparison import beside
    from densemtmd.files import atomic_write, check_writable

    if arguments.out:
        check_writable(arguments.out, "--out")
    if arguments.dataset and not arguments.confusions:
        raise UserError(f"--dataset is {arguments.dataset!r} without --confusions A B, whose dataset it names: give both, or neither")
    table = read(arguments)
    if arguments.paper:
        table = replace(table, paper=arguments.paper)
        if not beside(table):
            rows, columns = ", ".join(table.rows), ", ".join(table.columns)
            raise UserError(f"--paper {arguments.paper} has no numbers for the rows {rows} on {columns}: name another table")
    if arguments.confusions:
        files = confusions(table, *arguments.confusions, arguments.dataset)
    elif table.curve is not None and arguments.baseline is None:
        files = curved(table, arguments.out)
    else:
        base, found = against(table, arguments.baseline)
        files = compared(table, base, found)
        if arguments.out and found:
            draw(table, base, found, arguments.out / "figure.png")
    if arguments.out:
        for name, text in files.items():
            with atomic_write(arguments.out / name) as temporary:
                temporary.write_text(text, encoding="utf-8")
        print(f"\nwritten to {arguments.out}")
    return 0


def curved(table: Table, out: Path | None) -> dict[str, str]:
    """Shows what more labelled pictures of a dataset bring, alone and with others; draws the figure, and returns the files to write."""
    from densemtmd.comparison import along
    from densemtmd.draw import label_curve_figure
    from densemtmd.report import aligned, markdown

    points = along(table)
    if not points:
        raise UserError(f"no share of {table.curve} has been run alone and with others yet: run the table first")
    head = [f"{table.curve}, IoU", "alone", "with others", "gain"]
    rows = [
        [
            f"{p.share:.0%} of its pictures", mean_and_sd(p.alone.mean, p.alone.sd), mean_and_sd(p.joint.mean, p.joint.sd),
            "" if p.gain is None else signed(p.gain),
        ]
        for p in points
    ]
    print(aligned([head, *rows]))
    sentence = " ".join([*measured(table, ""), "Gains with their 95 % intervals: paired bootstrap over seeds and pictures."])
    print(f"\n{sentence}")
    if out:
        drawn = {
            "alone": {p.share: (p.alone.mean, p.alone.sd) for p in points},
            "with others": {p.share: (p.joint.mean, p.joint.sd) for p in points},
        }
        label_curve_figure(drawn, out / "figure.png", f"What labelled pictures of {table.curve} are worth")
    lines = io.StringIO()
    writer = csv.writer(lines, lineterminator="\n")
    writer.writerow(["share", "alone", "alone_sd", "joint", "joint_sd", "gain", "low", "high"])
    for p in points:
        gain = [""] * 3 if p.gain is None else [f"{v:.4f}" for v in (p.gain.value, p.gain.low, p.gain.high)]
        writer.writerow([p.share, *(f"{v:.4f}" for v in (p.alone.mean, p.alone.sd, p.joint.mean, p.joint.sd)), *gain])
    return {"table.md": f"{markdown(head, rows)}\n\n{sentence}\n", "table.csv": lines.getvalue()}


def read(arguments: argparse.Namespace) -> Table:
    """The runs that the arguments name."""
    from densemtmd.comparison import TABLE, read_table
    from densemtmd.tracking import download_runs

    if not arguments.mlflow:
        return read_table([Path(name) for name in arguments.experiment])
    if len(arguments.experiment) > 1:
        raise UserError(f"--mlflow reads one experiment, found {len(arguments.experiment)}: name one of MLflow's experiments")
    with TemporaryDirectory() as temporary:
        files = ["config.yaml", "scores.json", "per_image.npz"]
        name, folders = download_runs(arguments.experiment[0], Path(temporary), files, arguments.tracking_uri)
        print(f"MLflow: {name}, {len(folders)} runs\n")
        return read_table([Path(temporary)] if (Path(temporary) / TABLE).is_file() else folders)


# ------------------------------------------------------------------------------------------------------------------------------------
# The table


def against(table: Table, baseline: str | None) -> tuple[str, Differences]:
    """The name of the baseline, and the differences of the other rows to it; none where there is no baseline."""
    from densemtmd.comparison import BASELINE, differences
    from densemtmd.tasks import nearest

    rows = table.rows
    if baseline is not None and baseline not in rows:
        raise UserError(f"--baseline is {baseline!r}, which is no finished row; {nearest(baseline, rows)}")
    plain = [row for row, runs in rows.items() if runs[0].strategy == BASELINE]
    base = baseline or (BASELINE if BASELINE in rows else plain[0] if plain else "")
    if not base:
        return "", {}
    others = {row: differences(rows[base], runs, table.columns) for row, runs in rows.items() if row != base}
    return base, {row: values for row, values in others.items() if values}


def compared(table: Table, base: str, found: Differences) -> dict[str, str]:
    """Prints the comparison; returns the files that keep it, by their names."""
    from densemtmd.comparison import beside, published
    from densemtmd.report import aligned, markdown

    paper = beside(table)
    words = [verdict(row, base, values) for row, values in found.items()] + corrections(paper, table.rendered)
    screen = [aligned(rows_of(scores_table(table, paper, bold=False)))]
    page = [markdown(*scores_table(table, paper, bold=True))]
    if found:
        title = f"Difference to {base}, with its 95 % interval:"
        screen += [title, aligned(rows_of(differences_table(found)))]
        page += [title, markdown(*differences_table(found))]
    if others := published(table):
        title = "Mean error in mm, beside what was published for the official test frames of NYU and ICVL:"
        screen += [title, aligned(rows_of(published_table(table, others)))]
        page += [title, markdown(*published_table(table, others))]
    print("\n\n".join([*screen, *words, how(table, base, found, "marked *")]))
    page += [*words, how(table, base, found, "in bold")]
    return {"table.md": "\n\n".join(page) + "\n", "table.csv": as_csv(table, found, paper, others)}


def rows_of(table: tuple[list[str], list[list[str]]]) -> list[list[str]]:
    """A table's head and rows as rows."""
    return [table[0], *table[1]]


def scores_table(table: Table, paper: Paper, bold: bool) -> tuple[list[str], list[list[str]]]:
    """The head, and three rows per row of the table, one for each score; the best of each score and column stands out."""
    from densemtmd.comparison import spreads

    rows, over, less = table.rows, table.columns, table.runs[0].of_keypoints
    found = {row: spreads(runs, over) for row, runs in rows.items()}
    lines = []
    for row in rows:
        for key, name in table.runs[0].measures.items():
            line = [f"{row}, {name}"]
            for column in over:
                values = [spread[column, key].mean for spread in found.values()]
                own = found[row][column, key].mean
                best = len(rows) > 1 and (own <= min(values) + 1e-9 if less else own >= max(values) - 1e-9)
                text = mean_and_sd(own, found[row][column, key].sd, 2 if less else 1)
                text = (f"**{text}**" if best else text) if bold else f"{text}{'*' if best else ' '}"
                printed, note = paper.get((row, column, key), (None, ""))
                line.append(text if printed is None else f"{text} ({printed:.2f}{'†' * is_correction(note)})")
            lines.append(line)
    return ["", *over], lines


def mean_and_sd(mean: float, sd: float, digits: int = 1) -> str:
    """``46.2 ± 0.3``; a dash for a score that does not exist."""
    return "–" if math.isnan(mean) else f"{mean:.{digits}f}" if math.isnan(sd) else f"{mean:.{digits}f} ± {sd:.{digits}f}"


def differences_table(found: Differences) -> tuple[list[str], list[list[str]]]:
    """The head, and a line per dataset with the differences in IoU, or in both errors; of all together those in every score."""
    from densemtmd.comparison import ALL
    from densemtmd.report import ERRORS, SCORES

    keys = list(dict.fromkeys(key for values in found.values() for key in values))
    shown = [(column, score) for column, score in keys if score in ("iou", *ERRORS) or column == ALL]
    names = SCORES | ERRORS
    lines = [
        [f"{column}, {names[score]}", *(signed(values[column, score]) if (column, score) in values else "–" for values in found.values())]
        for column, score in shown
    ]
    return ["", *found], lines


def published_table(table: Table, others: Sequence[Published]) -> tuple[list[str], list[list[str]]]:
    """The head, the table's own rows, and a row per published method."""
    from densemtmd.comparison import spreads

    datasets = list(dict.fromkeys(name for other in others for name in other.errors))
    lines = []
    for row, runs in table.rows.items():
        found = spreads(runs, table.columns)
        own = [mean_and_sd(found[name, "mm"].mean, found[name, "mm"].sd, 2) if (name, "mm") in found else "–" for name in datasets]
        lines.append([row, *own, "these runs, on rendered frames" if table.rendered else "these runs"])
    for other in others:
        lines.append([other.method, *(f"{other.errors[name]:.2f}" if name in other.errors else "–" for name in datasets), other.source])
    return ["", *datasets, "source"], lines


def signed(difference: Difference) -> str:
    """``+7.6 [+6.9, +8.3]``, of errors in mm and px with a digit more."""
    digits = 2 if difference.less_is_better else 1
    return f"{difference.value:+.{digits}f} [{difference.low:+.{digits}f}, {difference.high:+.{digits}f}]".replace("-", "−")


def verdict(row: str, base: str, values: Mapping[tuple[str, str], Difference]) -> str:
    """Which datasets a row helped and which it hurt."""
    from densemtmd.comparison import ALL

    key, what = ("mm", "mean error in mm") if any(one.less_is_better for one in values.values()) else ("iou", "IoU")
    by: dict[str, list[str]] = {"helped": [], "hurt": [], "no clear difference": []}
    for (column, score), difference in values.items():
        if score == key and not column.endswith("together"):
            by[difference.verdict].append(column)
    parts = [f"helped {', '.join(by['helped']) or 'no dataset'}", f"hurt {', '.join(by['hurt']) or 'no dataset'}"]
    if unclear := by["no clear difference"]:
        parts.append(f"no clear difference on {', '.join(unclear)}")
    together = f"; {ALL} {signed(values[ALL, key])}" if (ALL, key) in values else ""
    return f"By {what}, {row} against {base}: {'; '.join(parts)}{together}."


def corrections(paper: Paper, rendered: bool) -> list[str]:
    """What the paper's numbers are, and what a † beside them means."""
    from densemtmd.report import ERRORS, SCORES

    notes: dict[str, list[str]] = {}
    for (row, column, score), (_, note) in paper.items():
        if is_correction(note):
            notes.setdefault(note, []).append(f"{row}, {column}, {(SCORES | ERRORS)[score]}")
    found = [f"{'; '.join(places)}: {note}" for note, places in notes.items()]
    own = f"In brackets: the paper's numbers{', of real pictures' * rendered}."
    return [" ".join([own, *[NOT_THOSE] * rendered, *(f"† {one}." for one in found)])] if paper else []


def is_correction(note: str) -> bool:
    """Whether a number of the paper is not simply one that it prints, be it in another of its tables."""
    return bool(note) and not note.startswith("from Table")


def measured(table: Table, best: str) -> list[str]:
    """Sentences that say how the numbers of a table were measured."""
    from densemtmd.comparison import split_of

    rows, scores = table.rows, table.runs[0].scores
    seeds = same({row: ", ".join(str(run.seed) for run in runs) for row, runs in rows.items()})
    interior = ", only pixels whose patch lies inside the picture" if scores.get("interior") else ""
    split = SPLITS[split_of(table.runs[0])]
    what = f"Mean errors of keypoints on the {split} frames" if table.runs[0].of_keypoints else (
        f"Percent on the {split} pictures, {scores['scoring']} scoring{interior}"
    )
    return [
        f"{what}; mean ± standard deviation over seeds ({seeds})"
        + (f", the best {best}." if best else "."),
        f"Budget of a row's networks together: {same({row: budgets(runs) for row, runs in rows.items()})}; "
        f"training: {same({row: protocols(runs) for row, runs in rows.items()})}.",
    ]


def how(table: Table, base: str, found: Differences, best: str) -> str:
    """Sentences that say what the numbers are."""
    rows = table.rows
    one = len(rows) == 1
    sentences = measured(table, "" if one else best)
    if found:
        sentences.append(resampled(rows, base, found))
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
    return " ".join(sentences)


def resampled(rows: Mapping[str, Sequence[Run]], base: str, found: Differences) -> str:
    """The sentence about the intervals."""
    from densemtmd.comparison import RESAMPLES, paired

    first = rows[base][0]
    videos = [name for name, unit in first.units.items() if unit.max() + 1 < len(unit)]
    what = "pictures" if not videos else "videos" if len(videos) == len(first.units) else f"pictures (videos of {', '.join(videos)})"
    common = {row: len(paired(rows[base], rows[row])[0]) for row in found}
    alone = [row for row, count in common.items() if count == 1]
    who = "" if len(alone) == len(common) else f" for {', '.join(alone)}"
    exception = f"; of {what} alone{who}, with one seed: other seeds may differ by more" if alone else ""
    few = min((count for count in common.values() if count > 1), default=FEW_SEEDS)
    short = f" {few} seeds tell little of others: where seeds differ more than pictures do, the intervals are too short."
    return f"Intervals: paired bootstrap, {RESAMPLES:,} resamples of seeds and test {what}{exception}.{short * (few < FEW_SEEDS)}"


def same(values: Mapping[str, str]) -> str:
    """One text where all rows have the same, else each row with its own."""
    return next(iter(values.values())) if len(set(values.values())) == 1 else "; ".join(f"{row}: {text}" for row, text in values.items())


def budgets(runs: Sequence[Run]) -> str:
    """``1,000,000 labelled outputs``"""
    from densemtmd.comparison import budget

    units = {"outputs": "labelled outputs", "epochs": "epochs", "minutes": "minutes"}
    texts = [" or ".join(f"{value:,.10g} {units[name]}" for name, value in budget(run).items()) for run in runs]
    return " / ".join(dict.fromkeys(texts))


def protocols(runs: Sequence[Run]) -> str:
    """``strided``, or ``single patches, as the paper``"""
    texts = [
        f"batches of {run.config['train']['batch']} hands" if run.of_keypoints
        else "single patches, as the paper" if run.config["train"]["crop"] == 1 else "strided"
        for run in runs
    ]  # fmt: skip
    return " / ".join(dict.fromkeys(texts))


def as_csv(table: Table, found: Differences, paper: Paper, others: Sequence[Published]) -> str:
    """A line per row, column and score, for programs; and one per published error, which has no mean but only the number in ``paper``."""
    from densemtmd.comparison import spreads

    lines = [["row", "dataset", "score", "mean", "sd", "seeds", "difference", "low", "high", "paper"]]
    for row, runs in table.rows.items():
        spread, seeds = spreads(runs, table.columns), " ".join(str(run.seed) for run in runs)
        for column in table.columns:
            for key in table.runs[0].measures:
                own, difference = spread[column, key], found.get(row, {}).get((column, key))
                ends = [difference.value, difference.low, difference.high] if difference else [math.nan] * 3
                printed = f"{paper[row, column, key][0]:.2f}" if (row, column, key) in paper else ""
                lines.append([row, column, key, number(own.mean), number(own.sd), seeds, *map(number, ends), printed])
    lines += [[one.method, name, "mm", *[""] * 6, f"{value:.2f}"] for one in others for name, value in one.errors.items()]
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(lines)
    return text.getvalue()


def number(value: float) -> str:
    """As a program reads it: nothing where there is none."""
    return "" if math.isnan(value) else f"{value:.4f}"


def draw(table: Table, base: str, found: Differences, file: Path) -> None:
    """The figure of the differences in IoU, or in mean error."""
    from densemtmd.draw import differences_figure

    first = table.runs[0]
    shown = {
        row: {column: (one.value, one.low, one.high) for (column, score), one in values.items() if score == first.first_measure}
        for row, values in found.items()
    }
    unit, below = ("mm of mean error", True) if first.of_keypoints else ("points of IoU", False)
    differences_figure(shown, file, table.name, base, unit, below)


# ------------------------------------------------------------------------------------------------------------------------------------
# Confusions


def confusions(table: Table, a: str, b: str, dataset: str | None) -> dict[str, str]:
    """Prints which confusions row b repaired against row a, and which are new; returns the file that keeps it."""
    from densemtmd.comparison import confusions as found_between
    from densemtmd.comparison import paired
    from densemtmd.report import aligned, markdown
    from densemtmd.tasks import nearest

    rows, datasets = table.rows, table.runs[0].datasets
    if table.runs[0].of_keypoints:
        raise UserError("--confusions are those of labels, but these runs find keypoints: leave it out")
    for row in (a, b):
        if row not in rows:
            raise UserError(f"--confusions names {row!r}, which is no finished row; {nearest(row, rows)}")
    if dataset is not None and dataset not in datasets:
        raise UserError(f"--dataset is {dataset!r}; {nearest(dataset, datasets)}")
    seeds = [run.seed for run in paired(rows[a], rows[b])[0]]
    if not seeds:
        raise UserError(f"{a} and {b} have no seed in common: compare rows that were trained with the same seeds")
    screen, page = [], []
    for name in [dataset] if dataset else datasets:
        head, lines, more = [name, a, b, "change"], [], []
        for kind, some in clear(found_between(rows[a], rows[b], name)).items():
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
    print("\n\n".join([*screen, said]))
    return {f"confusions-{a}-{b}.md": "\n\n".join([*page, said]) + "\n"}


def clear(found: Sequence[Confusion]) -> dict[str, list[Confusion]]:
    """The confusions that became rarer and those that became more frequent, beyond doubt, the largest changes first."""
    return {"repaired": [one for one in found if one.change.high < 0], "new": [one for one in reversed(found) if one.change.low > 0]}


def confusion_line(kind: str, one: Confusion) -> list[str]:
    return [f"{kind}: {one.true} taken for {one.answer}", f"{one.before:.1f} %", f"{one.after:.1f} %", signed(one.change)]


if __name__ == "__main__":
    sys.exit(main())
