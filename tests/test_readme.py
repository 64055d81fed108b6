"""The README holds no number typed by hand: its tables are those that the tools wrote."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text("utf-8")


def test_tables_are_those_in_results():
    found = re.findall(r"<!-- (results/\S+) -->\n(.*?)<!-- end -->", README, re.DOTALL)
    assert found
    for file, text in found:
        assert text.strip() == (ROOT / file).read_text("utf-8").strip(), f"{file} has changed: copy it into the README"


def test_pictures_and_files_exist():
    for link in re.findall(r"\]\(([^)#:]+)\)", README):
        assert (ROOT / link).exists(), link


def test_every_tool_is_named():
    for tool in (ROOT / "tools").glob("*.py"):
        assert f"tools/{tool.name}" in README or tool.stem in README, tool.name
