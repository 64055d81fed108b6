"""Fills in what the README and the pages quote, so that nothing is copied by hand: what stands between ``<!-- SOURCE -->`` and
``<!-- end -->``.

    python docs/blocks.py      # `make docs` does it first; a test says where it is due

SOURCE is a file in results/, as it stands; ``FILE, table 2``, the second table in it; ``FILE, under WORDS``, what stands in a text below a
line of these words; ``settings train``, every setting of a group (or ``settings`` alone: those of no group); ``choices data``, the files of
conf/data and what they begin with; ``terms MODULE:NAME``, what a docstring explains term by term; ``said MODULE:NAME ...``, docstrings as a
list; ``rooms``, the rooms of the package in the order that tests/test_rooms.py holds.
"""

from __future__ import annotations

import ast
import dataclasses
import importlib
import inspect
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
PAPER = ("tasks", "losses", "network", "dense", "strategies", "training")
BLOCK = re.compile(r"<!-- ((?:results/|settings|choices |terms |said |rooms)[^\n]*?) -->\n.*?<!-- end -->", re.DOTALL)


def filled(text: str) -> str:
    """A page with each of its blocks made anew."""
    return BLOCK.sub(lambda found: f"<!-- {found[1]} -->\n{content(found[1]).strip()}\n<!-- end -->", text)


def content(source: str) -> str:
    """What a block holds: its source is a file of results/ or one of ``MAKERS``."""
    name, _, argument = source.partition(" ")
    if not name.startswith("results/"):
        return MAKERS[name](argument)
    file, _, part = source.partition(", ")
    text = (ROOT / file).read_text(encoding="utf-8")
    if part.startswith("table "):
        tables: list[str] = re.findall(r"(?:^\|.*\n?)+", text, re.MULTILINE)
        return tables[int(part.removeprefix("table ")) - 1]
    if part:
        head = part.removeprefix("under ")
        paragraph = next(paragraph for paragraph in text.split("\n\n") if paragraph.startswith(f"{head}\n"))
        return f"```text\n{paragraph.rstrip()}\n```"
    return text


def settings(group: str) -> str:
    """The settings of a group, or those of none, as a table: what each is called, its default and its meaning."""
    from densemtmd.settings import RunSettings

    of: Any = RunSettings
    if group:
        of = next(field for field in dataclasses.fields(RunSettings) if field.name == group).default_factory
    rows = [
        (f"{group}.{field.name}".lstrip("."), shown(field.default), field.metadata["help"])
        for field in dataclasses.fields(of)
        if field.metadata
    ]
    return as_table(("setting", "default", "meaning"), [(f"`{name}`", default, text) for name, default, text in rows])


def shown(default: Any) -> str:
    """A default as a user would write it."""
    if default in (None, "") or default is dataclasses.MISSING:
        return ""
    return f"`{str(default).lower() if isinstance(default, bool) else default}`"


def choices(group: str) -> str:
    """The files of a folder of conf/, each with the first sentences of its first lines of comment."""
    rows = []
    for path in sorted((ROOT / "conf" / group).glob("*.yaml")):
        lines = path.read_text(encoding="utf-8").splitlines()
        comment = []
        for line in lines:
            if not line.startswith("#"):
                break
            line = line.removeprefix("#").strip()
            if line.startswith(("python ", "densemtmd ", "The table")):
                break
            if not line.startswith("@package"):
                comment.append(line)
        rows.append((f"`{path.stem}`", re.split(r": (?:python|densemtmd) | The table: ", " ".join(comment))[0]))
    return as_table((group, "what it is"), rows)


def terms(source: str) -> str:
    """What a docstring explains term by term, as a table: of ``MODULE`` or ``MODULE:NAME``, those that stand as far to the right as the
    number behind it says."""
    where, _, indent = source.partition(" ")
    name = rf"^{' ' * int(indent or 0)}((?:``[\w-]+``(?:, )?)+)"
    deeper = rf"(?:{' ' * int(indent or 0)} +\S.*(?:\n|$))"
    rows = [
        (names.replace("``", "`"), one_line(beside + " " + below))
        for names, beside, below in re.findall(rf"{name}(.*)\n({deeper}*)", docstring(where), re.MULTILINE)
    ]
    return as_table(("key", "meaning"), rows)


def said(sources: str) -> str:
    """A list of docstrings, each ``MODULE:NAME``."""
    return "\n".join(f"- {one_line(docstring(source))}" for source in sources.split())


def docstring(source: str) -> str:
    """Of ``MODULE`` or ``MODULE:NAME``."""
    module, _, name = source.partition(":")
    of = importlib.import_module(module)
    return (inspect.getdoc(getattr(of, name) if name else of) or "") + "\n"


def one_line(text: str) -> str:
    """Text of a docstring, in Markdown, without line breaks."""
    text = re.sub(r"\s+", " ", text).strip()
    return re.sub(r":\w+:`~?(?:\w+\.)*(\w+)`", r"`\1`", text).replace("``", "`")


def rooms(_: str) -> str:
    """The rooms of the package from the top down, each with what its docstring begins with; the six files of the paper are numbered."""
    tree = ast.parse((ROOT / "tests" / "test_rooms.py").read_text(encoding="utf-8"))
    assigned = {ast.unparse(node.targets[0]): node.value for node in tree.body if isinstance(node, ast.Assign)}
    order = ast.literal_eval(assigned["ORDER"])
    lines = []
    for room in order:
        file = ROOT / "densemtmd" / f"{room}.py"
        alone = file.exists()
        about = ast.get_docstring(ast.parse((file if alone else file.with_suffix("") / "__init__.py").read_text(encoding="utf-8"))) or ""
        begins = re.split(r"[:;.](?: |$)| \(|, (?:and|so|from) ", one_line(about).replace("`", "").replace("*", ""))[0]
        number = f"{PAPER.index(room) + 1}" if room in PAPER else " "
        begins = begins if begins[1:2].isupper() else begins[:1].lower() + begins[1:]  # TIFFs
        lines.append(f"{number} {room + ('.py' if alone else '/'):15} {begins}")
    return "\n".join(["```text", *lines, "```"])


def as_table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    """A table in Markdown."""
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join(f"| {' | '.join(map(cell, line))} |" for line in lines)


def cell(text: str) -> str:
    """What stands in a table: bars do not end it; outside code ``<name>`` is no HTML, and ``{a: 1}`` is code."""
    parts = text.replace("|", "\\|").split("`")
    return "`".join(part if n % 2 else re.sub(r"(\{.*?\})", r"`\1`", part.replace("<", "&lt;")) for n, part in enumerate(parts))


MAKERS: dict[str, Callable[[str], str]] = {"settings": settings, "choices": choices, "terms": terms, "said": said, "rooms": rooms}


def main() -> int:
    """Makes the blocks of all pages anew, and says which have changed."""
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        if (new := filled(text)) != text:
            page.write_text(new, encoding="utf-8")
            print(f"{page.relative_to(ROOT)}: blocks made anew")
    return 0


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    sys.exit(main())
