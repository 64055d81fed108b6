"""What comes with the package: the notebook runs, the container is made by commands that there are, an index shows a whole README."""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PARAMETERS = """
IMAGES, MODEL = 6, "patchnet"
import densemtmd
whole, toy = densemtmd.compose, [
    "data.world.width=96", "data.world.height=64", "data.world.frames=1", "model.widths=[4,6,8]", "model.hidden=8", "train.batch=4",
    "train.minutes=null", "train.outputs=400", "train.validation_pictures=1", "cache=none",
]
densemtmd.compose = lambda overrides: whole([*overrides, *toy])
"""
"""Put behind the cell of parameters: the same at toy size."""


@pytest.fixture
def notebook():
    return json.loads((ROOT / "notebooks" / "quickstart.ipynb").read_text("utf-8"))


def test_the_notebook_is_a_valid_one_without_outputs(notebook):
    pytest.importorskip("nbformat").validate(notebook)
    assert all(not cell["outputs"] and cell["execution_count"] is None for cell in notebook["cells"] if cell["cell_type"] == "code")


def test_the_notebook_runs_from_top_to_bottom(notebook, tmp_path, monkeypatch, undrawn):
    """Each cell in the same names, as a kernel does; what a cell ends with is what would be shown."""
    import densemtmd

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(densemtmd, "compose", densemtmd.compose)  # put back at the end
    names, shown = {}, []
    for cell in notebook["cells"]:
        if cell["cell_type"] != "code":
            continue
        text = "".join(cell["source"])
        if "curves.png" in text:  # which is not drawn here
            continue
        *lines, last = text.splitlines()
        try:
            compile(last, "last", "eval")
        except SyntaxError:
            lines.append(last)
            last = "None"
        exec(compile("\n".join(lines), cell["id"], "exec"), names)
        shown.append(eval(last, names))
        if "parameters" in cell["metadata"].get("tags", ()):
            exec(PARAMETERS, names)
    pictures = [one for one in shown if one is not None]
    assert [picture.mode for picture in pictures] == ["RGB", "L"]
    assert pictures[0].width > 800 and pictures[1].size == (96, 64) and len(names["answers"]) == 7
    assert (names["run"] / "scores.json").is_file()


def test_the_container_is_made_by_the_two_commands_of_the_readme():
    text = (ROOT / "Dockerfile").read_text("utf-8")
    commands = " ".join(re.findall(r"^(?:RUN|CMD) (.*)$", text, re.MULTILINE)).replace('", "', " ")
    targets = set(re.findall(r"make ([\w./]+)", commands))
    assert targets == {".venv/.installed", "demo", "test"}
    make, readme = ((ROOT / name).read_text("utf-8") for name in ("Makefile", "README.md"))
    assert "VENV := .venv" in make and "INSTALLED := $(VENV)/.installed" in make
    for target in ("demo", "test"):
        assert f"\n{target}: " in make and f"\nmake {target} " in readme
    assert re.findall(r"^FROM .* AS (\w+)$", text, re.MULTILINE) == ["installed", "test"] and "\nCOPY . .\n" in text
    ignored = (ROOT / ".dockerignore").read_text("utf-8").split()
    assert not {"densemtmd", "conf", "tests", "tools", "docs", "results"} & {*ignored} and {".git", ".venv", "data", "runs"} <= {*ignored}


@pytest.fixture(scope="module")
def on_an_index():
    spec = importlib.util.spec_from_file_location("setup_script", ROOT / "setup.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.on_an_index


RELATIVE = re.compile(r"\]\((?!https?://|#)")


def test_an_index_shows_a_readme_without_broken_links_and_pictures(on_an_index):
    readme = (ROOT / "README.md").read_text("utf-8")
    assert RELATIVE.search(readme)
    alone = on_an_index(readme, (ROOT / "pyproject.toml").read_text("utf-8"))
    assert not RELATIVE.search(alone) and "![" not in alone and "<!--" not in alone and "Getting started" in alone
    project = 'Repository = "https://example.org/densemtmd/"'
    linked = on_an_index(readme, project)
    assert "![One network, one picture, seven labelsets](https://example.org/densemtmd/raw/HEAD/docs/images/sheet.png)" in linked
    assert "[Getting started](https://example.org/densemtmd/blob/HEAD/docs/getting-started.md)" in linked and not RELATIVE.search(linked)
    rendering = pytest.importorskip("readme_renderer.markdown")
    for text in (alone, linked):  # as the index does
        page = rendering.render(text)
        assert page and "<table>" in page and not re.search(r'(?:src|href)="(?!https?://|#)', page)
    assert "<img" not in rendering.render(alone) and 'src="https://example.org/densemtmd/raw/' in rendering.render(linked)
