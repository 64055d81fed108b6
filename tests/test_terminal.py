"""What a person sees in a terminal of 80 columns: help, tables, epochs; and where something is not installed, a sentence."""

from __future__ import annotations

import importlib
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import yaml
from PIL import Image

from densemtmd.commands import cli, densemtmd
from densemtmd.datasets.starter import _fitted, _listed, _name
from densemtmd.draw.lettering import width_of
from densemtmd.draw.tables import aligned
from densemtmd.kinds.pixels import Pixels
from densemtmd.progress import Progress
from densemtmd.runs.run import epoch_lines, score_all
from densemtmd.settings import ScoreSettings
from densemtmd.training import State

BENCHES = ("label", "scale", "many", "giant", "labels", "train", "loading", "tracking", "render", "copies", "coverage")
WORLDS = ("streets", "otherworld", "hands")
PAGES = [[], *([verb] for verb in densemtmd.VERBS), *(["bench", one] for one in BENCHES), *(["synthesize", one] for one in WORLDS)]


@pytest.mark.parametrize("columns", [80, 60])
@pytest.mark.parametrize("called", ["densemtmd", "tools/{}.py"])
@pytest.mark.parametrize("words", PAGES, ids="-".join)
def test_no_page_of_help_is_wider_than_the_terminal(words, called, columns, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", str(columns))
    if called == "densemtmd" or not words:
        monkeypatch.setattr(sys, "argv", ["densemtmd", *words, "--help"])
        main, arguments = densemtmd.main, [*words, "--help"]
    else:
        module = words[0].replace("-", "_")
        monkeypatch.setattr(sys, "argv", [called.format(module), *words[1:], "--help"])
        main, arguments = importlib.import_module(f"densemtmd.commands.{module}").main, [*words[1:], "--help"]
    try:
        assert main(arguments) == 0
    except SystemExit as ended:  # argparse's
        assert ended.code == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) > 4 and not [line for line in lines if width_of(line) > columns]


def test_a_page_says_the_same_however_wide_it_is(monkeypatch):
    """Every word of a description is there once, in its place."""
    for verb in densemtmd.VERBS:
        text = importlib.import_module(f"densemtmd.commands.{verb.replace('-', '_')}").__doc__
        for width in (30, 50, 78, 200):
            assert cli.fitted(text, width).split() == text.split()
    assert cli.fitted(text, 200) == text.rstrip("\n")


def score(value):
    return {"global": value, "average": value / 2, "iou": value / 3}


def epochs(names, width):
    """The head and the lines of some epochs."""
    told = []
    for n, value in enumerate((0.0, 9.5, 100.0)):
        datasets = {name: score(value) for name in names}
        scored = {"kind": "pixels", "pooled": score(value), "datasets": datasets}
        history = [{"epoch": 50 * n, "loss": n / 3 if n else None, "scores": scored}]
        told.append(epoch_lines(State(history=history, best_epoch=100), width))
    assert len({head for head, _ in told}) == 1
    return [told[0][0], *(line for _, line in told)]


SEVEN = ["he", "kundu", "ladicky", "ros", "sengupta", "xu", "zhang"]


@pytest.mark.parametrize("names", [["camvid"], ["he", "ladicky"], SEVEN, [f"set {i}" for i in range(99)]], ids=len)
def test_epochs_are_a_table_as_wide_as_the_terminal(names):
    head, *lines = epochs(names, 80)
    assert len(head) <= 77 and (names != SEVEN or head.split()[3:] == SEVEN) and all(len(line) <= 80 for line in lines)
    ends = [n for n, letter in enumerate(head) if letter != " " and head[n + 1 : n + 2] in ("", " ")]
    for line in lines:  # every value ends where its name does
        numbers = line.removesuffix("  *")
        assert all(numbers[end : end + 1] != " " or not numbers[end + 1 : end + 2].strip() for end in ends[:3] if end < len(numbers))
    assert lines[-1].endswith("*") and not lines[0].endswith("*")
    if len(names) == 99:
        assert head.rstrip().endswith("more") and int(head.split()[-2]) > 80
    wide = epochs(names, 10_000)
    assert all(name in wide[0] for name in (names if len(names) > 1 else ["Global", "Average", "IoU"])) and "more" not in wide[0]


def test_a_wide_table_goes_on_below_itself(monkeypatch):
    rows = [["", *(f"column {n}" for n in range(20))], *([f"row {k}", *(str(n * k) for n in range(20))] for k in range(3))]
    assert len(aligned(rows).splitlines()) == 4
    monkeypatch.setenv("COLUMNS", "80")
    parts = [part.splitlines() for part in aligned(rows).split("\n\n")]
    assert max(len(line) for part in parts for line in part) <= 80 and len(parts) > 2
    assert [word for part in parts for word in part[2].removeprefix("row 1").split()] == rows[2][1:]
    assert aligned([["", "自動車"], ["x", "1"]]) == "   自動車\nx       1"


def test_drafts_and_sentences_are_no_wider_than_a_terminal(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    folder = tmp_path / "mine"
    random = np.random.default_rng(0)
    for place in range(12):
        street = folder / f"street {place:02}, at night"
        (street / "labels").mkdir(parents=True)
        for number in range(2):
            Image.fromarray(random.integers(0, 256, (24, 32, 3), np.uint8)).save(street / f"{place}_{number}.jpg")
            codes = np.where(np.arange(32) < 16, 3, 200 + place).astype(np.uint8)[None].repeat(24, 0)
            Image.fromarray(codes).save(street / "labels" / f"{place}_{number}.png")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["densemtmd"])
    assert densemtmd.main(["check-data", "--new", "mine"]) == 0
    assert densemtmd.main(["check-data", "mine.yaml"]) == 0
    assert densemtmd.main(["check-data", "--figure3"]) == 0
    assert densemtmd.main(["check-data", "mine.yaml", "--split", "of another dataset that is not named"]) == 1
    printed = capsys.readouterr()
    lines = [*printed.out.splitlines(), *printed.err.splitlines(), *(tmp_path / "mine.yaml").read_text("utf-8").splitlines()]
    assert len(lines) > 90 and not [line for line in lines if width_of(line) > 80 and str(folder) not in line]
    assert "  densemtmd check-data mine.yaml" in lines and printed.err.count("\n") > 1


def test_a_draft_says_the_same_in_lines_of_80():
    """Values are what they were, nothing is left out, and what has a place stays where it is."""
    names = [f"it's a \"folder\", no. {n}  # {n}" for n in range(9)]
    lines = [
        "# " + "words of a comment " * 9 + "end", f"images: {_listed([f'{name}/*.jpg' for name in names])}", "name: short  # as it is",
        f"void: [{', '.join(map(_name, names))}]  # {'why ' * 30}", "# void: [0]  # " + "as words " * 20, "labelset:",
        "  - {label: " + "very " * 18 + "long, codes: [1]}  # 3 %, 1/2 files", "  - {label: b, codes: [2]}  # 3 %, 1/2 files",
    ]
    text = _fitted(lines)
    assert yaml.safe_load(text) == yaml.safe_load("\n".join(lines)) and "name: short  # as it is\n" in text
    assert sorted(text.replace("#", "").split()) == sorted(" ".join(lines).replace("#", "").split())
    assert [line for line in text.splitlines() if len(line) > 80] == [line for line in text.splitlines() if "very very" in line]
    assert "\n  # 3 %, 1/2 files\n  - {label: very" in text and "\n# void: [0]\n" in text


ALONE = """
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "torch":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Absent())
from densemtmd.commands.densemtmd import main
for verb in sys.argv[1].split():
    print(main([verb, *({"train": [], "bench": ["label"]}.get(verb, ["nothing"]))]))
"""


def test_without_torch_every_verb_says_so_in_a_sentence(tmp_path):
    verbs = "train infer evaluate compare correlate bench"
    told = subprocess.run([sys.executable, "-c", ALONE, verbs], capture_output=True, text=True, cwd=tmp_path)
    assert told.stderr.splitlines() == [
        f"error: torch, which densemtmd needs, is not installed for {sys.executable}: install densemtmd there with all that it needs, as "
        "make demo does in a clone, or call it by the Python that it is installed for"
    ] * 6
    assert told.stdout.splitlines() == ["1"] * 6


def test_a_python_without_any_library_says_so_in_a_sentence():
    """``-S``: without site-packages, as that of a system has none of ours."""
    root = Path(__file__).parents[1]
    call, where = [sys.executable, "-S", str(root / "tools" / "infer.py")], {"PYTHONPATH": str(root)}
    for options, said in (([], "which densemtmd needs, is not installed for "), (["--nonsense"], "--nonsense")):
        told = subprocess.run([*call, "nothing.png", *options], capture_output=True, text=True, env=where, check=False)
        assert told.returncode == 1 and told.stderr.startswith("error: ") and said in told.stderr and "Traceback" not in told.stderr


def test_what_is_made_first_is_not_taken_for_the_speed_of_scoring(monkeypatch):
    """As a frozen trunk's features are, of which the later pictures need none."""
    with Progress("scoring", 10) as scoring:
        with scoring.paused():
            time.sleep(0.02)
        assert scoring.waited >= 0.02
        scoring.waited, scoring.due = 100.0, 8.0
        scoring.tick(5)
        assert scoring.said(110) == "scoring: 5 of 10 pictures, about 10 s left"

    def first(*_):
        time.sleep(0.02)

    seen = []
    monkeypatch.setattr(Pixels, "before_scoring", first)
    monkeypatch.setattr(Pixels, "score", lambda *_, **__: seen.append(Progress.going_on[-1].waited))
    data = [SimpleNamespace(name=name, dataset=SimpleNamespace(splits={"test": [1, 2]})) for name in "ab"]
    score_all(SimpleNamespace(space=SimpleNamespace(kind="labelset")), data, ScoreSettings("strided"), None)
    assert len(seen) == 2 and seen[0] == seen[1] >= 0.04
