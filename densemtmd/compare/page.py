"""A comparison as one page for a browser: the tables, what they say, and the figure, in one file that needs no other."""

from __future__ import annotations

import base64
import html
import re
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from densemtmd.compare.figures import draw_budget, draw_curve, draw_differences
from densemtmd.compare.reading import Comparison
from densemtmd.compare.statistics import against, along
from densemtmd.compare.tables import Shown, compared, curved
from densemtmd.draw.attempt import drawing
from densemtmd.files import write_text

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 75em; margin: 1.5em auto; padding: 0 1em; color: #222; background: #fff }
table { border-collapse: collapse; margin: 1em 0 } td, th { padding: .25em .8em; border-bottom: 1px solid #ddd; white-space: nowrap }
td:not(:first-child), th:not(:first-child) { text-align: right } tr:hover td { background: #f4f7fb } img { max-width: 100% }
code { background: #f3f3f3; padding: .15em .4em }
"""


def write_comparison(table: Comparison, out: Path | None = None, baseline: str | None = None, again: str = "") -> Shown:
    """What is said of a comparison, or of a curve; with ``out`` also its files there: ``table.md``, ``table.csv``, ``figure.png``,
    ``budget.png``, where the runs tell how their trainings went, and ``compare.html``.

    Args:
        table: the runs.
        out: a folder.
        baseline: the row that the others are compared to.
        again: the command that repeats all of it.

    Raises:
        UserError: there is no such row.
    """
    if table.curve is not None and baseline is None:
        points = along(table)
        shown, drawn = curved(table, points), True
        draw = partial(draw_curve, table, points)
    else:
        base, found = against(table, baseline)
        shown, drawn = compared(table, base, found), bool(found)
        draw = partial(draw_differences, table, base, found)
    if out:
        for name, text in shown.files.items():
            write_text(out / name, text)
        figures = []
        if drawn:
            with drawing(file := out / "figure.png"):
                draw(file)
                figures.append(file)
        with drawing(file := out / "budget.png"):
            if draw_budget(table, file):
                figures.append(file)
            else:
                file.unlink(missing_ok=True)  # an older one, of other runs
        write_text(out / "compare.html", page(table.name, shown.files["table.md"], figures, again))
    return shown


def page(title: str, text: str, figures: Sequence[Path] = (), again: str = "") -> str:
    """HTML of a comparison.

    Args:
        title: what is compared.
        text: ``table.md``, of which a link to it and to ``table.csv`` speaks too.
        figures: PNGs; they become part of the page.
        again: the command that repeats it.
    """
    pictures = "".join(
        f'<img alt="{file.stem}" src="data:image/png;base64,{base64.b64encode(file.read_bytes()).decode()}">' for file in figures
    )
    repeat = f"<p>Again: <code>{html.escape(again)}</code></p>" if again else ""
    links = '<p>As files beside this one: <a href="table.md">table.md</a>, <a href="table.csv">table.csv</a>.</p>'
    first, _, rest = text.strip().partition("\n\n")  # the scores, then the figure, then all else
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}</title><style>{STYLE}</style></head>\n'
        f"<body><h1>{html.escape(title)}</h1>\n{html_of(first)}\n{pictures}\n{html_of(rest)}\n{repeat}{links}</body></html>\n"
    )


def html_of(text: str) -> str:
    """Markdown as comparisons are written in it: paragraphs, tables and bold words.

    >>> html_of("By **IoU**:")
    '<p>By <b>IoU</b>:</p>'
    >>> html_of("| a | b |" + chr(10) + "| --- | --: |" + chr(10) + "| c | **1** |")
    '<table><tr><th>a</th><th>b</th></tr><tr><td>c</td><td><b>1</b></td></tr></table>'
    """
    found = []
    for block in filter(None, re.sub(r"\*\*(.+?)\*\*", r"<b>\1</b>", html.escape(text, quote=False)).split("\n\n")):
        if not block.startswith("|"):
            found.append(f"<p>{block}</p>")
            continue
        rows = [cells_of(line) for n, line in enumerate(block.splitlines()) if n != 1]
        tags = ["th", *["td"] * (len(rows) - 1)]
        tagged = ["".join(f"<{tag}>{cell}</{tag}>" for cell in cells) for cells, tag in zip(rows, tags, strict=True)]
        found.append(f"<table>{''.join(f'<tr>{row}</tr>' for row in tagged)}</table>")
    return "\n".join(found)


def cells_of(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip().removeprefix("|").removesuffix("|").split("|")]
