"""The paper's own numbers, and what was published of other people's methods, to stand beside a table."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from densemtmd.compare.reading import ALL, Comparison
from densemtmd.errors import UserError
from densemtmd.kind import Measure
from densemtmd.tasks import nearest

PAPER = Path(__file__).with_name("paper_tables.csv")
"""The tables of the paper: a line per number, with a note where it was corrected, derived from others, or cannot be known. Of other
people's methods the note says where and when they were published; those that came after the paper are under :data:`LATER`."""

LATER = "table7_later"
"""What stands in :data:`PAPER` beside Table 7 and is not of the paper."""

OWN = ("nf", "jt", "jtsc")
"""The rows of Table 7 that are the paper's own method."""

PUBLISHED = "Mean error in mm, beside what was published for the official test frames of NYU and ICVL:"
"""The title of Table 7's other methods."""

KITTI = {"he", "kundu", "ladicky", "ros", "sengupta", "xu", "zhang"}
"""The datasets that the paper's tables call "7 KITTI" together."""

Paper = Mapping[tuple[str, str, str], tuple[float, str]]
"""By row, column and measure: the paper's number and a note."""


@dataclass(frozen=True)
class Published:
    """What was published of somebody's method, on official test frames."""

    method: str
    score: str                   # as the paper's tables call it
    values: Mapping[str, float]  # of each dataset
    source: str


def paper_lines() -> list[dict[str, str]]:
    """All lines of :data:`PAPER`, by its columns."""
    with PAPER.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


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


def published(table: Comparison) -> list[Published]:
    """What was published of the methods that the paper compares with, and of some later ones; none unless the table is its Table 7."""
    if table.paper != "table7":
        return []
    methods: dict[str, list[dict[str, str]]] = {}
    scores = {measure.paper or measure.key for measure in table.measures}
    for line in paper_lines():
        if line["table"] in ("table7", LATER) and line["value"] and line["score"] in scores:
            methods.setdefault(line["method"].replace("Ours,", "the paper,"), []).append(line)

    def source(lines: Sequence[Mapping[str, str]]) -> str:
        notes = [] if lines[0]["row"] in OWN else list(dict.fromkeys(line["note"] for line in lines))
        return ", ".join([*(["Table 7"] if lines[0]["table"] == "table7" else []), *notes])

    return [
        Published(name, lines[0]["score"], {x["dataset"]: float(x["value"]) for x in lines}, source(lines))
        for name, lines in methods.items()
    ]


def measured_as(score: str, measures: Sequence[Measure]) -> Measure:
    """The measure that the paper's tables call so."""
    return next(measure for measure in measures if (measure.paper or measure.key) == score)


def beside(table: Comparison) -> dict[tuple[str, str, str], tuple[float, str]]:
    """(row, column, measure) -> the paper's number and its note; a row is looked up by its own name, then by that of its strategy.

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
            for measure in table.measures:
                keys = [(who, name, measure.paper or measure.key) for who in (row, runs[0].strategy) for name in names]
                if known := [numbers[key] for key in keys if key in numbers]:
                    found[row, column, measure.key] = known[0]
    return found


def with_paper(table: Comparison, paper: str) -> Comparison:
    """The same runs beside another of the paper's tables.

    Raises:
        UserError: the paper has no such table, or that has no numbers for these rows and datasets.
    """
    table = replace(table, paper=paper)
    if not beside(table):
        rows, columns = ", ".join(table.rows), ", ".join(table.columns)
        raise UserError(f"--paper {paper} has no numbers for the rows {rows} on {columns}: name another table")
    return table


def is_correction(note: str) -> bool:
    """Whether a number of the paper is not simply one that it prints, be it in another of its tables."""
    return bool(note) and not note.startswith("from Table")
