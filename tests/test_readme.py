"""README and docs/ hold no number typed by hand: their tables are those that the tools wrote, their lists those of the code."""

import importlib.util
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


@pytest.fixture(scope="module")
def blocks():
    """docs/blocks.py, which lies outside the package."""
    spec = importlib.util.spec_from_file_location("blocks", ROOT / "docs" / "blocks.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def quoted(page):
    """What stands between the markers of a page: (source, text)."""
    return re.findall(r"<!-- ([^\n]+) -->\n((?:(?!<!--).)*?)<!-- end -->", page.read_text("utf-8"), re.DOTALL)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_tables_are_those_in_results(page):
    for source, text in quoted(page):
        file, _, part = source.partition(", ")
        if file.startswith("results/"):
            whole = (ROOT / file).read_text("utf-8")
            text = text.strip().removeprefix("```text\n").removesuffix("\n```")
            assert text == whole.strip() if not part else text in whole, f"{file} has changed: python docs/blocks.py copies it"


def test_the_readme_quotes_real_pictures():
    assert [source for source, _ in quoted(ROOT / "README.md")] == [
        "results/cars_people/merged/scores.md, table 2", "results/camvid7_frozen/against_nf_full/table.md, table 2",
        "results/stanford_camvid_labelmefacade_curve/table.md, table 1", "rooms",
    ]  # fmt: skip


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_what_is_filled_in_is_up_to_date(page, blocks):
    text = page.read_text("utf-8")
    assert text.count("<!-- end -->") == len(quoted(page)) == len(blocks.BLOCK.findall(text))
    assert blocks.filled(text) == text, "python docs/blocks.py fills it in"


def test_a_part_of_a_file_is_quoted(blocks):
    assert blocks.content("results/street7/table.md, table 2").startswith("|  | jt | jt_de")
    assert blocks.cell("a|b <name> `c<d>` {e: 1}") == "a\\|b &lt;name> `c<d>` `{e: 1}`"
    scores = (ROOT / "results" / "stanford" / "scores.md").read_text("utf-8").strip()
    for old in ("", "old\n"):
        page = f"x\n<!-- results/stanford/scores.md -->\n{old}<!-- end -->\ny"
        assert blocks.filled(page) == f"x\n<!-- results/stanford/scores.md -->\n{scores}\n<!-- end -->\ny"


def test_every_tool_is_named():
    page = (ROOT / "docs" / "getting-started.md").read_text("utf-8")
    for tool in (ROOT / "tools").glob("*.py"):
        assert f"| `{tool.stem.replace('_', '-')}` |" in page, tool.name
