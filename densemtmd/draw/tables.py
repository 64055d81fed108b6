"""Tables of scores, for the screen and as markdown, from what :func:`densemtmd.evaluation.report` gives."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np

from densemtmd.correlation import Correspondence
from densemtmd.draw.lettering import width_of
from densemtmd.tasks import OutputSpace
from densemtmd.terminal import columns

SCORES = {"global": "Global", "average": "Average", "iou": "IoU"}
"""The paper's names of the three scores, in percent."""


def percent(value: float | None) -> str:
    """``72.0``; a dash for a score that does not exist, because its label never occurs."""
    return "–" if value is None else f"{value:.1f}"


def scores_table(scored: Mapping[str, Any]) -> str:
    """A row per dataset and, where there are several, one for all of them together."""
    rows = [[name, *(percent(row[key]) for key in SCORES), str(row["classes"])] for name, row in _rows(scored)]
    return aligned([["", *SCORES.values(), "classes"], *rows])


def labels_table(scored: Mapping[str, Any]) -> str:
    """For each dataset a row per label: its share of the labelled pixels, how many of its pixels are right, and its IoU."""
    parts = []
    for name, dataset in scored["datasets"].items():
        parts.append(aligned([[name, "share", "right", "IoU"], *_label_rows(dataset)]))
    return "\n\n".join(parts)


def how_scored(scored: Mapping[str, Any]) -> str:
    """``dense scoring``, and what else was special."""
    interior = ", only pixels whose patch lies inside the picture" if scored.get("interior") else ""
    mirrored = ", mirrored too" if scored.get("mirror") else ""
    scales = scored.get("scales", [1.0])
    sizes = f", at {' and '.join(f'{scale:g}' for scale in scales)} times the size" if scales != [1.0] else ""
    return f"{scored['scoring']} scoring{interior}{mirrored}{sizes}"


def scores_markdown(scored: Mapping[str, Any]) -> str:
    """Both tables as markdown, with a line that says how was scored."""
    how = how_scored(scored)
    parts = [f"{how[0].upper()}{how[1:]}; percent."]
    parts.append(
        markdown(
            ["", *SCORES.values(), "classes"],
            [[name, *(percent(r[key]) for key in SCORES), str(r["classes"])] for name, r in _rows(scored)],
        )
    )
    parts += [markdown([name, "share", "right", "IoU"], _label_rows(dataset)) for name, dataset in scored["datasets"].items()]
    return "\n\n".join(parts) + "\n"


def errors_table(scored: Mapping[str, Any]) -> str:
    """Of keypoints a row per dataset and, where there are several, one for all of them together: mean errors, shares of good frames."""
    return aligned(_error_rows(scored))


def keypoints_table(scored: Mapping[str, Any]) -> str:
    """For each dataset a row per keypoint: its mean errors."""
    return "\n\n".join(aligned(_keypoint_rows(name, dataset)) for name, dataset in scored["datasets"].items())


def errors_markdown(scored: Mapping[str, Any]) -> str:
    """Both tables of keypoints as markdown."""
    tables = [_error_rows(scored), *(_keypoint_rows(name, dataset) for name, dataset in scored["datasets"].items())]
    return "\n\n".join(markdown(head, rows) for head, *rows in tables) + "\n"


def error(value: float | None) -> str:
    """``12.24``; a dash for a score that does not exist, such as the pixels of several datasets together."""
    return "–" if value is None else f"{value:.2f}"


def _error_rows(scored: Mapping[str, Any]) -> list[list[str]]:
    thresholds = list(next(iter(scored["datasets"].values()))["within"])
    rows = [
        [name, error(row["mm"]), error(row["px"]), *(percent(row.get("within", {}).get(t)) for t in thresholds), str(row["frames"])]
        for name, row in _rows(scored)
    ]
    return [["", "mm", "px", *(f"% in {t}" for t in thresholds), "frames"], *rows]


def _keypoint_rows(name: str, dataset: Mapping[str, Any]) -> list[list[str]]:
    return [[name, "mm", "px"], *([keypoint, error(row["mm"]), error(row["px"])] for keypoint, row in dataset["keypoints"].items())]


def _rows(scored: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    together = [("all together", scored["pooled"])] if len(scored["datasets"]) > 1 else []
    return [*scored["datasets"].items(), *together]


def _label_rows(dataset: Mapping[str, Any]) -> list[list[str]]:
    pixels = max(1, dataset["pixels"])
    return [
        [label, percent(100 * row["pixels"] / pixels), percent(row["accuracy"]), percent(row["iou"])]
        for label, row in dataset["labels"].items()
    ]


def cross_errors_table(scored: Mapping[str, Any]) -> str:
    """Mean errors of each keypoint set's answers (rows) on each dataset's pictures (columns), and of each keypoint: what
    :func:`densemtmd.keypoints.cross_report` gives."""
    return "\n\n".join(aligned(rows) for rows in _cross_error_rows(scored))


def cross_errors_markdown(scored: Mapping[str, Any]) -> str:
    """The same as markdown, with a line that says what it is."""
    head = "Mean errors in mm, against the full truth. Rows: which keypoints are answered; columns: whose pictures."
    return "\n\n".join([head, *(markdown(rows[0], rows[1:]) for rows in _cross_error_rows(scored))]) + "\n"


def _cross_error_rows(scored: Mapping[str, Any]) -> list[list[list[str]]]:
    pictures = list(dict.fromkeys(dataset for on in scored["answers"].values() for dataset in on))
    tables = []
    for key, name in (("mm", "mean, mm"), ("worst", "worst keypoint, mm")):
        rows = [[name, *pictures]]
        rows += [[task, *(error(on[d][key]) if d in on else "" for d in pictures)] for task, on in scored["answers"].items()]
        tables.append(rows)
    for task, on in scored["answers"].items():
        names = next(iter(on.values()))["keypoints"]
        rows = [[name, *(error(on[d]["keypoints"][name]["mm"]) if d in on else "" for d in pictures)] for name in names]
        tables.append([[f"{task}, mm", *pictures], *rows])
    return tables


def cross_tables(scored: Mapping[str, Any]) -> str:
    """Global and IoU of each labelset's answers (rows) on each annotator's pictures (columns): what ``cross_report`` gives."""
    return "\n\n".join(aligned(rows) for rows in _cross_rows(scored))


def cross_markdown(scored: Mapping[str, Any]) -> str:
    """The same as markdown, with a line that says how was scored."""
    how = how_scored(scored)
    head = f"{how[0].upper()}{how[1:]}, against the full truth; percent. Rows: which labelset answers; columns: whose pictures."
    return "\n\n".join([head, *(markdown(rows[0], rows[1:]) for rows in _cross_rows(scored))]) + "\n"


def _cross_rows(scored: Mapping[str, Any]) -> list[list[list[str]]]:
    pictures = list(dict.fromkeys(dataset for on in scored["answers"].values() for dataset in on))
    tables = []
    for key in ("global", "iou"):
        rows = [[SCORES[key], *pictures, "all pictures"]]
        for name, on in scored["answers"].items():
            rows.append([name, *(percent(on[d][key]) if d in on else "" for d in pictures), percent(scored["all"][name][key])])
        tables.append([*rows, ["all labelsets", *("" for _ in pictures), percent(scored["pooled"][key])]])
    return tables


def correspondences_text(found: Sequence[Correspondence], absent: Sequence[tuple[str, str]], space: OutputSpace) -> str:
    """For each pair of labelsets what is the same, what is part of what, where the pictures do not tell, and which labels have no
    partner; then those that never occur.

    Args:
        found: the relation of every pair of labels.
        absent: labels that no pixel has, (labelset, label).
        space: the labelsets.
    """
    pairs: dict[tuple[str, str], list[Correspondence]] = {}
    for c in found:
        pairs.setdefault((c.a[0], c.b[0]), []).append(c)
    parts = []
    for a, b in combinations(space.names, 2):
        if (a, b) not in pairs:
            continue
        related = [c for c in pairs[a, b] if c.relation != "none"]
        partnered = {label for c in related for label in (c.a, c.b)}
        every = dict.fromkeys([c.a for c in pairs[a, b]] + [c.b for c in pairs[a, b]])
        doubtful = [c for c in pairs[a, b] if c.doubtful and not (c.a in partnered and c.b in partnered)]
        unsure = {label for c in doubtful for label in (c.a, c.b)}
        lonely = [".".join(label) for label in every if label not in partnered | unsure]
        lines = [f"{a} and {b}"]
        for title, relations in (("same", ("same",)), ("part of", ("part_of", "contains"))):
            lines += [f"  {title + ':':12}{c}" for c in related if c.relation in relations]
        lines += [f"  {'undecided:':12}{'.'.join(c.a)} and {'.'.join(c.b)}" for c in doubtful]
        parts.append("\n".join([*lines, *([f"  {'no partner:':12}{', '.join(lonely)}"] if lonely else [])]))
    if absent:
        parts.append("unknown, since no pixel of these pictures has them: " + ", ".join(map(".".join, absent)))
    return "\n\n".join(parts)


def correspondence_scores(scored: Mapping[str, Any], mostly: Mapping[str, Any]) -> str:
    """Precision and recall of the correspondences, by relation, and the mistakes: what :func:`densemtmd.correlation.score` gives at
    :data:`~densemtmd.correlation.WHOLE` and, in one line, at :data:`~densemtmd.correlation.MOSTLY`."""
    head, rows = _correspondence_rows(scored)
    lines = [f"against the truth, over {scored['pairs']} pairs of labels:", aligned([head, *rows])]
    lines += [_at_mostly(mostly), "", aligned(_reliability_rows(mostly)), ""]
    for one in scored["mistakes"]:
        a, b = ".".join(one["a"]), ".".join(one["b"])
        said, true = (one[key].replace("_", " ") for key in ("relation", "truth"))
        lines.append(f"  mistake: {a}, {b}: {said} ({one['confidence']:.2f}), in truth {true}")
    return "\n".join(lines)


def correspondence_markdown(scored: Mapping[str, Any], mostly: Mapping[str, Any]) -> str:
    """The same as markdown, without the mistakes."""
    head, *rows = _reliability_rows(mostly)
    return (
        f"{markdown(*_correspondence_rows(scored))}\n\nAgainst the truth, over {scored['pairs']} pairs of labels.\n\n"
        f"{markdown(*_correspondence_rows(mostly))}\n\n{_at_mostly(mostly)}\n\n{markdown(head, rows)}\n"
    )


def _at_mostly(mostly: Mapping[str, Any]) -> str:
    shown = ("–" if mostly[key] is None else f"{mostly[key]:.2f}" for key in ("precision", "recall"))
    return "With 85 % of a label's pixels for a part: precision {}, recall {}; how often a stated confidence is right:".format(*shown)


def _reliability_rows(scored: Mapping[str, Any]) -> list[list[str]]:
    rows = [
        [f"{one['from']:.2f} to {one['to']:.2f}", str(one["found"]), f"{one['confidence']:.2f}", f"{one['right']:.2f}"]
        for one in scored["reliability"]
    ]
    return [["stated", "found", "mean", "right"], *rows]


def _correspondence_rows(scored: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    rows = []
    for name, row in {**scored["relations"], "all": scored}.items():
        shown = ("–" if row[key] is None else f"{row[key]:.2f}" for key in ("precision", "recall"))
        rows.append([name.replace("_", " "), str(row["true"]), str(row["found"]), str(row["right"]), *shown])
    return ["", "true", "found", "right", "precision", "recall"], rows


def confusion_csv(matrix: np.ndarray, labels: Sequence[str]) -> str:
    """A confusion matrix (L, L) as CSV: in each row a true label, then the pixels that got each label."""
    text = io.StringIO()
    rows = [[label, *row] for label, row in zip(labels, matrix.tolist(), strict=True)]
    csv.writer(text, lineterminator="\n").writerows([["", *labels], *rows])
    return text.getvalue()


def matrix_csv(matrix: np.ndarray, space: OutputSpace, pixels: np.ndarray) -> str:
    """A matrix over all labels as CSV: in each row ``labelset.label``, its pixels, then the values; empty where there is none."""
    labels = [f"{task.name}.{label}" for task in space.tasks for label in task.channel_names]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["", "pixels", *labels])
    for label, count, row in zip(labels, pixels, matrix, strict=True):
        writer.writerow([label, int(count), *("" if np.isnan(value) else f"{value:.5f}" for value in row)])
    return text.getvalue()


def aligned(rows: Sequence[Sequence[str]], width: int | None = None) -> str:
    """Rows as columns for the screen: the first to the left, the others to the right.

    Columns for which a line has no place stand below, with the first column once more.

    Args:
        rows: of equal length.
        width: of a line; None: the terminal's.

    >>> print(aligned([["", "a", "bcd"], ["row", "10", "2"]]))
          a  bcd
    row  10    2
    >>> print(aligned([["", "a", "bcd"], ["row", "10", "2"]], 9))
          a
    row  10
    <BLANKLINE>
         bcd
    row    2
    """
    width = columns() if width is None else width
    widths = [max(map(width_of, column)) for column in zip(*rows, strict=True)]
    parts: list[list[int]] = [[]]
    for n in range(1, len(widths)):
        if parts[-1] and widths[0] + sum(2 + widths[k] for k in [*parts[-1], n]) > width:
            parts.append([])
        parts[-1].append(n)

    def line(row: Sequence[str], part: Sequence[int]) -> str:
        first = row[0] + " " * (widths[0] - width_of(row[0]))
        return "  ".join([first, *(" " * (widths[n] - width_of(row[n])) + row[n] for n in part)])

    return "\n\n".join("\n".join(line(row, part) for row in rows) for part in parts)


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A markdown table, numbers to the right."""
    lines = [head, ["---", *("--:" for _ in head[1:])], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
