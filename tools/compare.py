"""Compare runs: a row per strategy, mean ± standard deviation over seeds, for each dataset and for all together.

    python tools/compare.py runs/*-street7-*                       on screen
    python tools/compare.py runs/*-street7-* --out results/street7 also as table.md and table.csv there

The runs must have been scored in the same way on the same datasets. Scores are those in their scores.json: Global pools
pixels, Average and IoU are means over labels; "all together" pools as the paper does.
"""

from __future__ import annotations

import csv
import io
import json
import statistics
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from textwrap import shorten
from typing import Any

from densemtmd.cli import make_parser, tool
from densemtmd.errors import UserError


@tool
def main(argv: Sequence[str] | None = None) -> int:
    parser = make_parser(__doc__ or "")
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="folders of finished runs")
    parser.add_argument("--out", type=Path, metavar="DIR", help="write table.md and table.csv there")
    arguments = parser.parse_args(argv)

    from densemtmd.files import check_writable
    from densemtmd.report import aligned, markdown
    from densemtmd.runs import write_text

    if arguments.out:
        check_writable(arguments.out, "--out")
    runs = [read_run(folder) for folder in arguments.runs]
    check_comparable(arguments.runs, runs)
    head, rows = compared(runs)
    print(aligned([head, *rows]))
    print(f"\n{how(runs)}")
    if arguments.out:
        write_text(arguments.out / "table.md", f"{markdown(head, rows)}\n\n{how(runs)}\n")
        table = io.StringIO()
        csv.writer(table, lineterminator="\n").writerows([head, *rows])
        write_text(arguments.out / "table.csv", table.getvalue())
        print(f"written to {arguments.out}")
    return 0


def read_run(folder: Path) -> dict[str, Any]:
    """The settings and scores of a run."""
    from densemtmd.files import read_yaml
    from densemtmd.report import SCORES
    from densemtmd.training import TrainSettings, from_plain

    try:
        scores = json.loads((folder / "scores.json").read_text("utf-8"))
        config = read_yaml(folder / "config.yaml", "the settings of a run")
        config["train"] = asdict(from_plain(TrainSettings, config["train"], "train"))
        run = {"config": config, "scores": scores}
        facts(run)
        values = [row[key] for row in (scores["pooled"], *scores["datasets"].values()) for key in SCORES]
        if not isinstance(config["strategy"]["name"], str) or not isinstance(config["seed"], int):
            raise ValueError("its strategy or seed is damaged")
        if not all(value is None or 0 <= value <= 100 for value in values):
            raise ValueError("its scores are damaged")
    except FileNotFoundError as error:
        raise UserError(f"{folder} is no finished run: it has no {Path(error.filename).name}; name folders below runs/ that do") from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        reason = f"it has no {error}" if isinstance(error, KeyError) else shorten(str(error), 200, placeholder=" ...")
        raise UserError(f"{folder} cannot be read as a run ({reason}): train it again, or leave it out") from None
    return run


def check_comparable(folders: Sequence[Path], runs: Sequence[Mapping[str, Any]]) -> None:
    """Refuses runs whose numbers do not speak of the same thing, and two of one strategy and seed."""
    seen: dict[tuple[str, int], Path] = {}
    for folder, run in zip(folders, runs, strict=True):
        which = (run["config"]["strategy"]["name"], run["config"]["seed"])
        if which in seen:
            raise UserError(f"{folder} and {seen[which]} are both {which[0]} with seed {which[1]}: leave one of them out")
        seen[which] = folder
    for folder, run in zip(folders, runs, strict=True):
        for what, value in facts(run).items():
            if value != (expected := facts(runs[0])[what]):
                raise UserError(
                    f"{folder} and {folders[0]} cannot be compared: their {what} differ, {value} and {expected}; compare like with like"
                )


def facts(run: Mapping[str, Any]) -> dict[str, Any]:
    """What runs must share to be compared."""
    scores = run["scores"]
    return {
        "datasets": {name: dataset["pixels"] for name, dataset in scores["datasets"].items()},
        "ways to score": (scores["scoring"], scores["interior"]),
    }


def compared(runs: Sequence[Mapping[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """The table: its head, and three rows per strategy, one for each score."""
    from densemtmd.report import SCORES

    datasets = list(runs[0]["scores"]["datasets"])
    rows = []
    for strategy in dict.fromkeys(run["config"]["strategy"]["name"] for run in runs):
        seeds = [run["scores"] for run in runs if run["config"]["strategy"]["name"] == strategy]
        for key, name in SCORES.items():
            columns = [[s["datasets"][dataset][key] for s in seeds] for dataset in datasets] + [[s["pooled"][key] for s in seeds]]
            rows.append([f"{strategy}, {name}", *(spread(column) for column in columns)])
    return ["", *datasets, "all together"], rows


def spread(values: Sequence[float | None]) -> str:
    """``46.2 ± 0.3``: mean and standard deviation over seeds."""
    numbers = [value for value in values if value is not None]
    if not numbers:
        return "–"
    return f"{statistics.mean(numbers):.1f}" + (f" ± {statistics.stdev(numbers):.1f}" if len(numbers) > 1 else "")


def how(runs: Sequence[Mapping[str, Any]]) -> str:
    """A sentence that says what the numbers are."""
    seeds = {
        s: sorted(r["config"]["seed"] for r in runs if r["config"]["strategy"]["name"] == s)
        for s in {r["config"]["strategy"]["name"] for r in runs}
    }
    scores = runs[0]["scores"]
    budgets = {tuple((n, run["config"]["train"][n]) for n in ("epochs", "minutes", "outputs") if run["config"]["train"][n]) for run in runs}
    budget = ", ".join(f"{value:,} {name}" for name, value in budgets.pop()) if len(budgets) == 1 else "budgets differ"
    interior = ", only pixels whose patch lies inside the picture" if scores["interior"] else ""
    return (
        f"Percent on the test pictures, {scores['scoring']} scoring{interior}; mean ± standard deviation over seeds ("
        + "; ".join(f"{strategy}: {', '.join(map(str, numbers))}" for strategy, numbers in sorted(seeds.items()))
        + f"); budget of each run: {budget}."
    )


if __name__ == "__main__":
    sys.exit(main())
