"""Compare the strategies of a table: means over seeds, and differences that come with an interval.

    python tools/compare.py street7                                  the table in runs/street7, finished or half finished
    python tools/compare.py runs/*-street7-*                         any runs that are finished, a row per strategy
    python tools/compare.py street7 --out results/street7            also as compare.html, table.md, ... and figures there
    python tools/compare.py street7 --confusions nf jtsc             which confusions jtsc repaired
    python tools/compare.py street7 --mlflow                         the runs of MLflow's experiment street7
    python tools/compare.py table6 --paper table7                    hands, beside what was published of other methods

A curve (curve=A of tools/train.py) shows what more labelled pictures of A are worth, alone and with other datasets.
The runs must have been scored in the same way on the same pictures. Global pools pixels, Average and IoU are means over
labels; "all together" pools as the paper does. The difference to the baseline comes with a 95 % interval: the variances
over seeds and over test videos (a picture that is of no video is one by itself), taken apart, with Student's quantiles;
how often it holds the truth is in results/coverage. Where the table is one of the paper's, its numbers stand in
brackets; beside Table 7 stand the published mean errors of other methods, with their sources.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from densemtmd.commands.cli import make_parser, say, tool
from densemtmd.errors import UserError

if TYPE_CHECKING:
    from densemtmd.compare.reading import Comparison


@tool
def main(argv: Sequence[str] | None = None) -> int:
    parser = make_parser(__doc__ or "")
    add = parser.add_argument
    add("experiment", nargs="+", metavar="EXPERIMENT", help="a table's folder, its name below runs/, or folders of finished runs")
    add("--out", type=Path, metavar="DIR", help="write table.md, table.csv, figures and compare.html, which shows all of it, there")
    add("--baseline", metavar="ROW", help="the row that the others are compared to (default: nf)")
    add("--confusions", nargs=2, metavar=("A", "B"), help="show which confusions row B repaired, against row A")
    add("--dataset", metavar="NAME", help="with --confusions: on this dataset alone")
    add("--paper", metavar="TABLE", help="which of the paper's tables to set it beside, such as table7 (default: the experiment's own)")
    add("--mlflow", action="store_true", help="EXPERIMENT is one of MLflow's")
    add("--tracking-uri", metavar="URI", help="MLflow's store (default: sqlite:///mlflow.db, or MLFLOW_TRACKING_URI where it is set)")
    arguments = parser.parse_args(argv)

    from densemtmd.compare.paper import with_paper
    from densemtmd.files import check_writable

    if arguments.out:
        check_writable(arguments.out, "--out")
    if arguments.dataset and not arguments.confusions:
        raise UserError(f"--dataset is {arguments.dataset!r} without --confusions A B, whose dataset it names: give both, or neither")
    table = read(arguments)
    if arguments.paper:
        table = with_paper(table, arguments.paper)
    show(table, arguments)
    if arguments.out:
        say(f"\nwritten to {arguments.out}")
    return 0


def read(arguments: argparse.Namespace) -> Comparison:
    """The runs that the arguments name."""
    from densemtmd.compare.reading import read_mlflow, read_table

    if not arguments.mlflow:
        return read_table(arguments.experiment)
    if len(arguments.experiment) > 1:
        raise UserError(f"--mlflow reads one experiment, found {len(arguments.experiment)}: name one of MLflow's experiments")
    table, found = read_mlflow(arguments.experiment[0], arguments.tracking_uri)
    say(f"{found}\n")
    return table


def show(table: Comparison, arguments: argparse.Namespace) -> None:
    """Prints what is asked for, and writes it with ``--out``."""
    from densemtmd.compare.page import write_comparison
    from densemtmd.compare.tables import confused
    from densemtmd.files import write_text

    if arguments.confusions:
        a, b = arguments.confusions
        shown = confused(table, a, b, arguments.dataset)
        say(shown.screen)
        if arguments.out:
            for name, text in shown.files.items():
                write_text(arguments.out / name, text)
    else:
        say(write_comparison(table, arguments.out, arguments.baseline).screen)


if __name__ == "__main__":
    sys.exit(main())
