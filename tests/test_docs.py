"""README and docs/ are true: what they show is run.

The rule, so that nothing slips through unseen. A fenced block is ``sh``, ``python``, ``yaml`` or ``text``.

- Every line of ``sh`` is a command of densemtmd, and is run at toy size, in a folder that holds what the pages speak of: ``photo.jpg``,
  ``crossing.yaml``, ``runs/<run>``. Where the line above the block is ``<!-- not run: why -->`` it is read as far as its settings and
  options go (all are known, and have values that they may have); only there may other commands stand.
- Every block of ``python`` is run, those of a page one behind the other; where it is marked, it is only compiled.
- Every block of ``yaml`` is a dataset, a merged labelset or a strategy, and is read as such.
- A command in running text (`` `densemtmd ...` ``) is read as a marked one is.
"""

from __future__ import annotations

import argparse
import importlib
import os
import re
import shlex
import shutil
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import yaml
from PIL import Image
from toy import undraw, write_run, write_toy

from densemtmd import Predictor, strategies
from densemtmd.datasets.config import load_dataset_config
from densemtmd.merging import load_merged

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
VERBS = [tool.stem.replace("_", "-") for tool in (ROOT / "tools").glob("*.py")]

WORLD = ["data.world={images: 6, frames: 1, width: 96, height: 64}", "data.datasets=[he,kundu,ros,xu]"]
HANDS = ["data.world={frames: 10, test: 21}", "model.size=24", "model.hidden=16", "model.width=4", "train.batch=10", "train.epochs=1"]
ENCODER = ["model.encoder=mobilenetv3_small_050", "model.weights=none", "train.validation_pictures=1"]
FROZEN = [*ENCODER, "model.hidden=8", "train.outputs=1000", "train.epoch_outputs=500", "train.batch=64"]
DECODER = [*ENCODER, "train.epochs=null", "train.outputs=5000", "train.epoch_outputs=2500", "train.batch=2", "train.crop=32"]
SMALL = ["model.widths=[4,6,8]", "model.hidden=8", "train.batch=4", "train.epochs=null", "train.outputs=500", "train.validation_pictures=1"]
TOY = {
    "streets": ["--images", "3", "--frames", "1", "--size", "64x48", "--workers", "1"],
    "otherworld": ["--images", "3", "--size", "64x48", "--workers", "1"],
    "hands": ["--frames", "10", "--test", "21", "--workers", "1"],
}
SHARED = {"jt": "densemtmd train", "nf": "densemtmd train strategy=nf", "hands": "densemtmd train data=hands"}
"""The runs that others start from, ``runs/<jt>`` and so on; ``runs/<run>`` is the first."""


class Block(NamedTuple):
    """A fenced block of a page."""

    page: str
    language: str
    text: str
    why_not: str  # why it is not run; empty where it is
    place: str    # its page and line


def blocks_of(page: Path) -> list[Block]:
    """All fenced blocks of a page."""
    found: list[Block] = []
    before, fence, inside, start = "", None, [], 0
    for number, line in enumerate(page.read_text("utf-8").splitlines(), 1):
        if fence is None and (opened := re.match(r"\s*```(.*)", line)):
            fence, inside, start = opened[1].strip(), [], number
        elif fence is not None and line.strip() == "```":
            marked = re.fullmatch(r"<!-- not run: (.+) -->", before)
            found.append(Block(page.name, fence, "\n".join(inside), marked[1] if marked else "", f"{page.name}:{start}"))
            fence = None
        elif fence is not None:
            inside.append(line)
        if fence is None:
            before = line
    assert fence is None, f"{page.name}: a block has no end"
    return found


BLOCKS = [block for page in PAGES for block in blocks_of(page)]


def commands_of(block: Block) -> list[list[str]]:
    """The commands of a block of sh, without its comments."""
    return [words for line in block.text.replace("\\\n", " ").splitlines() if (words := shlex.split(line, comments=True))]


RUN = {shlex.join(words): words for block in BLOCKS if block.language == "sh" and not block.why_not for words in commands_of(block)}
READ = {shlex.join(words): words for block in BLOCKS if block.language == "sh" and block.why_not for words in commands_of(block)}
IN_TEXT = {
    text: shlex.split(text, comments=True)
    for page in PAGES
    for text in re.findall(r"(?<!`)`(densemtmd [a-z][^`]*)`(?!`)", re.sub(r"```.*?```", "", page.read_text("utf-8"), flags=re.DOTALL))
    if not text.endswith("...")
}


def shown(command: str) -> str:
    """A command as the name of its test."""
    return re.sub(r"\s+", " ", command).replace("densemtmd ", "")


def main_of(verb: str):
    """The function of a verb that takes its arguments."""
    return importlib.import_module(f"densemtmd.commands.{verb.replace('-', '_')}").main


def toy(words: list[str]) -> list[str]:
    """A command, at toy size."""
    _, verb, *rest = words
    if verb == "synthesize":
        return [verb, *rest, *TOY[rest[0]]]
    if verb == "train" and not any(word.startswith("resume=") for word in rest):
        chosen = {name: value for name, _, value in (word.partition("=") for word in rest)}
        data = chosen.get("data", "street7")
        model = chosen.get("model", {"hands": "handnet", "nyu_icvl": "handnet"}.get(data, "frozen"))
        smaller = {"handnet": HANDS, "frozen": FROZEN, "patchnet": SMALL}.get(model, DECODER) + (WORLD if data == "street7" else [])
        return [verb, *rest, *smaller, "tracking=none", "runs=others"]
    if verb == "demo":
        return [verb, *rest, "--port", "0"]
    return [verb, *rest]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """What the pages speak of."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("docs"))
        undraw(patch)
        fill()
        yield


def fill() -> None:
    """Puts it there, in the folder where we stand."""
    for world in (["streets", "--images", "6", "--frames", "1", "--size", "96x64", "--workers", "1"], ["hands", *TOY["hands"]]):
        assert main_of("synthesize")(world) == 0
    for name, command in SHARED.items():
        verb, *arguments = toy(command.split())
        assert main_of(verb)(arguments) == 0
        (run,) = Path("others").iterdir()
        run.rename(f"runs-of-{name}")
    Path("runs").mkdir()
    for name in SHARED:
        Path(f"runs-of-{name}").rename(f"runs/of-{name}")
    os.utime("runs/of-jt/scores.json", (2e9, 2e9))  # the last finished run

    pictures = sorted(Path("data").glob("streets-*/kundu/images/*.png"))
    Path("holiday").mkdir()
    for place, picture in zip(("photo.jpg", "holiday/1.jpg", "holiday/2.jpg"), pictures, strict=False):
        Image.open(picture).convert("RGB").save(place)
    shutil.copy(next(Path("data").glob("hands-*/nyu/test/depth_1_*.png")), "DEPTH.png")

    write_toy(Path("data"), "cars", "square", size=(60, 70)).rename("cars.yaml")
    random = np.random.default_rng(0)
    for kind in ("frames", "masks"):
        Path("data", "crossing", kind).mkdir(parents=True)
    for n in range(12):
        Image.fromarray(random.integers(0, 256, (60, 70, 3), np.uint8)).save(f"data/crossing/frames/cam{n % 4}_{n:04}.jpg")
        Image.fromarray(random.choice([0, 1, 2, 255], (60, 70)).astype(np.uint8)).save(f"data/crossing/masks/cam{n % 4}_{n:04}.png")
    for block in BLOCKS:
        if block.language == "yaml" and not block.page.startswith("README"):
            Path(f"{yaml.safe_load(block.text)['name']}.yaml").write_text(block.text)

    rows = ("nf", "jt", "jt_de")
    for row in rows:
        for seed in range(2):
            right = {name: random.integers(50, 90, 6) for name in ("he", "xu")}
            matrices = {name: np.array([[[r, 100 - r], [100 - r, r]] for r in some]) for name, some in right.items()}
            write_run(Path("runs/street7", f"{row}-seed{seed}"), row, seed, matrices)
    table = {"name": "street7", "rows": {row: [f"strategy={row}"] for row in rows}, "seeds": [0, 1]}
    Path("runs/street7/table.yaml").write_text(yaml.safe_dump(table))


def test_blocks_are_of_a_kind_that_is_looked_at():
    for block in BLOCKS:
        assert block.language in ("sh", "python", "yaml", "text"), f"{block.place} is {block.language!r}"
        assert not block.why_not or block.language in ("sh", "python"), f"{block.place} is marked, but nothing of it would be run"


@pytest.mark.parametrize("command", RUN, ids=shown)
def test_commands_run(folder, command, monkeypatch, capsys):
    assert RUN[command][0] == "densemtmd" and RUN[command][1] in VERBS, "mark its block: <!-- not run: why -->"
    if command in SHARED.values():
        return  # as the others were set up
    placed = [re.sub(r"runs/<(\w+)>", lambda of: f"runs/of-{'jt' if of[1] == 'run' else of[1]}", word) for word in RUN[command]]
    verb, *arguments = toy(placed)
    monkeypatch.setattr("socketserver.BaseServer.serve_forever", lambda server: None)  # as if Ctrl-C were pressed at once
    assert main_of(verb)(arguments) == 0, capsys.readouterr().err


SWEEPER = "hydra.core.plugins.Plugins.instantiate_sweeper"
"""What ``-m`` comes to once its launcher is known and its settings are read."""


class Understood(Exception):
    """A command has been read."""


@pytest.mark.parametrize("command", [*READ, *IN_TEXT], ids=shown)
def test_commands_that_are_not_run_are_understood(command, tmp_path, monkeypatch, capsys):
    words = {**READ, **IN_TEXT}[command]
    if words[0] == "torchrun":  # what it starts in each process
        words = words[words.index("-m") + 1 :]
    program, verb, *arguments = words
    if program != "densemtmd":
        assert program in ("make", "python", "mlflow")
        assert program != "make" or f"\n{verb}:" in (ROOT / "Makefile").read_text()
        return

    def stop(*_, **__):
        raise Understood

    parse = argparse.ArgumentParser.parse_known_args

    def parse_and_stop(self, *given, **named):
        parse(self, *given, **named)
        raise Understood

    monkeypatch.chdir(tmp_path)
    if verb == "train":  # its settings are read by itself
        for there in ("densemtmd.runs.run.run", "densemtmd.runs.run.resume", "densemtmd.runs.table.run_table", SWEEPER):
            monkeypatch.setattr(there, stop)
        monkeypatch.setattr("densemtmd.runs.run.check", lambda *_: None)
    else:
        monkeypatch.setattr(argparse.ArgumentParser, "parse_known_args", parse_and_stop)
    arguments = [re.sub(r"<\w+>", "some", argument) for argument in arguments]
    if arguments == ["--help"]:
        return
    if "--cfg" in arguments:
        assert main_of(verb)(arguments) == 0, capsys.readouterr().err
        return
    if any(word.startswith(("experiment=", "curve=")) for word in arguments) and "seeds=" not in command:
        arguments.append("seeds=[0]")  # the others have the same settings
    with pytest.raises(Understood):
        code = main_of(verb)(arguments)
        assert code == 0, capsys.readouterr().err


@pytest.mark.parametrize("page", dict.fromkeys(block.page for block in BLOCKS if block.language == "python"))
def test_python_runs(folder, page):
    names: dict[str, object] = {"TOY": [*FROZEN, *WORLD, "runs=others"]}
    for block in BLOCKS:
        if (block.page, block.language) == (page, "python"):
            text = block.text.replace("runs/<run>", "runs/of-jt").replace("compose([", "compose([*TOY, ")
            code = compile(text, f"{page}: {block.text.splitlines()[0]}", "exec")
            if not block.why_not:
                exec(code, names)


@pytest.mark.parametrize("block", [block for block in BLOCKS if block.language == "yaml"], ids=lambda block: block.place)
def test_yaml_is_what_it_says(folder, block):
    data, file = yaml.safe_load(block.text), Path("some.yaml")  # beside those that it may name
    file.write_text(block.text)
    if "stages" in data:
        assert strategies.stages(data, ["a", "b", "c"])
    elif isinstance(data.get("labels"), dict):
        assert load_merged(file, Predictor.load("runs/of-jt").space).labelset.channels == len(data["labels"])
    else:
        assert load_dataset_config(file).name == data["name"]


def headings(page: Path) -> set[str]:
    """The anchors of a page's headings."""
    text = re.sub(r"```.*?```", "", page.read_text("utf-8"), flags=re.DOTALL)
    return {re.sub(r"[^\w\- ]", "", found.lower()).strip().replace(" ", "-") for found in re.findall(r"^#+ (.*)$", text, re.MULTILINE)}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_and_pictures_exist(page):
    for link in re.findall(r"\]\(([^)]+)\)", re.sub(r"```.*?```", "", page.read_text("utf-8"), flags=re.DOTALL)):
        assert "://" not in link, f"{page.name} leads elsewhere, which cannot be checked: {link}"
        name, _, anchor = link.partition("#")
        place = page.parent / name if name else page
        assert place.exists(), link
        assert not anchor or anchor in headings(place), link


def test_what_the_python_page_documents_exists():
    named = re.findall(r"^::: ([\w.]+)$", (ROOT / "docs" / "python-api.md").read_text("utf-8"), re.MULTILINE)
    assert len(named) > 10
    for name in named:
        module, _, last = name.rpartition(".")
        try:
            assert hasattr(importlib.import_module(module), last), name
        except ModuleNotFoundError:
            pytest.fail(f"there is no {module}")


def test_every_page_is_in_the_contents():
    listed = set(re.findall(r": ([\w.-]+\.md)\b", (ROOT / "mkdocs.yml").read_text("utf-8")))
    assert {page.name for page in PAGES[1:]} | {"index.md", "CHANGELOG.md"} == listed
    readme = (ROOT / "README.md").read_text("utf-8")
    for page in PAGES[1:]:
        assert f"docs/{page.name}" in readme, page.name
