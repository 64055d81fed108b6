"""``tools/synthesize.py`` as a user runs it."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from PIL import Image

TOOL = Path(__file__).parents[1] / "tools" / "synthesize.py"


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    spec = importlib.util.spec_from_file_location("synthesize", TOOL)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def streets(*arguments: object) -> list[str]:
    return ["streets", "--images", "3", "--frames", "1", "--size", "64x48", "--workers", "1", *map(str, arguments)]


def test_streets_and_preview(tool: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert tool.main(streets("--out", tmp_path / "data", "--preview", tmp_path / "sheet.png")) == 0
    (root,) = (tmp_path / "data").iterdir()
    shown = capsys.readouterr().out
    assert f"{root}: 21 images by 7 annotators" in shown
    assert (root / "he" / "images" / "0002_000000.png").is_file()
    sheet = np.asarray(Image.open(tmp_path / "sheet.png"))
    assert sheet.shape[0] > 7 * 48 and sheet.shape[1] > 9 * 64
    assert len(np.unique(sheet.reshape(-1, 3), axis=0)) > 1000

    before = {path: path.stat().st_mtime_ns for path in root.rglob("*")}
    assert tool.main(streets("--out", tmp_path / "data")) == 0
    assert {path: path.stat().st_mtime_ns for path in root.rglob("*")} == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--size", "big"], "--size is 'big', expected width x height in pixels: 320x128"),
        (["--size", "10x48"], "width of the street world is 10, expected 64 to 4096"),
        (["--images", "2"], "2 images in sequences of 1 frames make 2, expected at least 3"),
        (["--workers", "0"], "--workers is 0, expected 1 or more"),
        (["--preview", "sheet.jpg"], "--preview is 'sheet.jpg', expected a file name that ends in .png"),
    ],
)
def test_mistakes_are_a_sentence(
    tool: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert tool.main(streets("--out", tmp_path, *arguments)) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ") and message in error and error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_otherworld(tool: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert tool.main(["otherworld", "--images", "3", "--size", "64x48", "--workers", "1", "--out", str(tmp_path)]) == 0
    (root,) = tmp_path.iterdir()
    assert f"{root}: 3 images" in capsys.readouterr().out
    assert Image.open(root / "otherworld" / "images" / "0000002.jpg").size == (64, 48)
    assert tool.main(["otherworld", "--images", "3", "--frames", "2", "--out", str(tmp_path)]) == 1
    assert "unrecognized arguments: --frames" in capsys.readouterr().err


def test_unwritable_place(tool: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "data").write_text("not a folder")
    assert tool.main(streets("--out", tmp_path / "data")) == 1
    assert "the street world could not be written" in capsys.readouterr().err


def test_help() -> None:
    shown = subprocess.run([sys.executable, TOOL, "streets", "--help"], capture_output=True, text=True, check=True).stdout
    for option in ("--out", "--images", "--frames", "--size", "--seed", "--workers", "--preview"):
        assert option in shown


def test_hands_and_preview(tool: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["hands", "--out", str(tmp_path), "--frames", "10", "--test", "21", "--workers", "1"]
    assert tool.main([*arguments, "--preview", str(tmp_path / "sheet.png")]) == 0
    (root,) = tmp_path.glob("hands-10-*")
    assert len([*root.rglob("*.png")]) == 62 and "10 + 21 frames each of nyu and icvl" in capsys.readouterr().out
    assert Image.open(tmp_path / "sheet.png").size == (1920, 960)
    assert tool.main(["hands", "--out", str(tmp_path), "--frames", "3"]) == 1
    assert "frames of the hand world is 3" in capsys.readouterr().err
