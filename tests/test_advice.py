"""What errors advise is done as it stands, and then it works."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image
from toy import write_toy

from densemtmd import composing
from densemtmd.commands import check_data
from densemtmd.datasets.config import load_dataset_config
from densemtmd.datasets.folder import open_dataset
from densemtmd.errors import UserError


@pytest.fixture
def mine(tmp_path, monkeypatch):
    """The YAML of a small dataset in the working folder."""
    monkeypatch.chdir(tmp_path)
    return write_toy(Path(), "squares", "square")


def change(path: Path, **changes: Any) -> None:
    content = yaml.safe_load(path.read_text()) | changes
    path.write_text(yaml.safe_dump({key: value for key, value in content.items() if value is not None}))


def load_all(path: Path) -> list[np.ndarray]:
    dataset = open_dataset(load_dataset_config(path), Path())
    return [dataset.load(item).target for items in dataset.splits.values() for item in items]


def advice(path: Path) -> str:
    with pytest.raises(UserError) as caught:
        load_all(path)
    return str(caught.value)


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("data.datasets=[/my data (2)/a.yaml]", ["/my data (2)/a.yaml"]),
        ("data.datasets=[/my data (2)/a.yaml, b.yaml]", ["/my data (2)/a.yaml", "b.yaml"]),
        ("data.datasets=['/it's (2)/a.yaml']", ["/it's (2)/a.yaml"]),
        ("data_root=/a (b)", "/a (b)"),
        ("data_root=/it's here (b)", "/it's here (b)"),
    ],
)
def test_the_quotes_that_are_shown_are_those_that_are_read(argument, value):
    """Copied from the message into a shell."""
    with pytest.raises(UserError) as caught:
        composing.parse(argument)
    (shown,) = re.findall(r'quotes of both kinds, (".*")$', str(caught.value))
    (word,) = shlex.split(shown)
    assert composing.parse(word).value() == value


def test_a_mask_in_colours_is_told_to_be_one(mine):
    before = load_all(mine)
    for path in Path("squares/labels").iterdir():
        Image.open(path).convert("RGB").save(path)
    assert "if its colours are the codes, write encoding: colour, and their colours" in advice(mine)
    labelset = [{"label": "other", "colour": [0, 0, 0]}, {"label": "square", "colour": [1, 1, 1]}]
    change(mine, encoding="colour", labelset=labelset, void=[[255, 255, 255]])
    assert all(np.array_equal(one, other) for one, other in zip(before, load_all(mine), strict=True))


@pytest.mark.parametrize("kind", ["16 bits", "floats"])
def test_a_mask_in_numbers_is_told_to_be_one(mine, kind):
    before = load_all(mine)
    change(mine, encoding="colour", labelset=[{"label": "a", "colour": [0, 0, 0]}, {"label": "b", "colour": [1, 1, 1]}], void=[[9, 9, 9]])
    for path in sorted(Path("squares/labels").iterdir()):
        codes = np.asarray(Image.open(path))
        Image.fromarray(codes.astype(np.float32 if kind == "floats" else np.uint16)).save(path.with_suffix(".tif"))
        path.unlink()
    change(mine, labels="labels/*.tif")
    assert "if its values are the codes, write encoding: index, and which they are" in advice(mine)
    change(mine, encoding="index", labelset=["other", "square"], void=[255])
    assert all(np.array_equal(one, other) for one, other in zip(before, load_all(mine), strict=True))


def test_a_code_that_no_label_has(mine):
    change(mine, void=None)
    message = advice(mine)
    (code,) = re.findall(r"of the code (\d+)", message)
    assert message.endswith("add it to the codes of a label or to void")
    change(mine, void=[int(code)])
    assert load_all(mine)


def test_a_key_that_was_meant(mine):
    change(mine, lables="labels/*.png", labels=None)
    (meant,) = re.findall(r"did you mean '(\w+)'\?", advice(mine))
    change(mine, lables=None, **{meant: "labels/*.png"})
    assert load_all(mine)


def test_a_text_that_yaml_takes_for_something_else(mine):
    text = mine.read_text()
    mine.write_text(text.replace("- square", "- yes"))
    mine.write_text(mine.read_text().replace("name: squares", "name: 2020-01-01"))
    assert "name is datetime.date(2020, 1, 1), expected a text; put quotes around one" in advice(mine)
    mine.write_text(mine.read_text().replace("2020-01-01", "'squares'"))
    assert load_dataset_config.__name__ and "expected" in advice(mine)
    mine.write_text(mine.read_text().replace("- yes", "- 'yes'"))
    assert load_all(mine)


def test_what_a_draft_says_to_do_next(mine, capsys):
    for path in Path("squares/labels").iterdir():  # an object and the rest: 0 and 255
        codes = np.asarray(Image.open(path))
        Image.fromarray(np.where(codes == 1, 255, 0).astype(np.uint8)).save(path)
    assert check_data.main(["--new", "squares", "--out", "drafts"]) == 0
    (command,) = re.findall(r"^  (?:python tools/check_data.py|densemtmd check-data) (.*)$", capsys.readouterr().out, re.M)
    assert check_data.main(shlex.split(command)) == 0
    config = load_dataset_config(command)
    assert config.codes.labels == ((0,), (255,)) and config.codes.void == ()
    assert check_data.main(["--new", "squares", "--out", "drafts"]) == 1
    assert "choose another folder with --out" in capsys.readouterr().err
    assert check_data.main(["--new", "squares", "--out", "others"]) == 0


def test_a_finding_is_acknowledged_as_it_is_printed(mine, capsys):
    (Path("squares/images/extra.png")).write_bytes(Path("squares/images/000.png").read_bytes())
    change(mine, labelset=["other", "square", "nothing"])
    assert check_data.main([str(mine), "--data-root", "."]) == 0
    shown = re.findall(r"^warning: .* \[(.*)\]$", capsys.readouterr().out, re.MULTILINE)
    assert {"without-labels", "unused:nothing"} <= {*shown}
    change(mine, known=shown)
    assert check_data.main([str(mine), "--data-root", "."]) == 0
    assert f"0 errors, 0 warnings, {len(shown)} known" in capsys.readouterr().out


def test_the_same_photo_twice(mine, capsys):
    """``--exclude-duplicates``, then ``exclude``."""
    photo, labels = Path("squares/images/000.png").read_bytes(), Path("squares/labels/000.png").read_bytes()
    for n in range(20, 30):
        Path(f"squares/images/{n:03}.png").write_bytes(photo)
        Path(f"squares/labels/{n:03}.png").write_bytes(labels)
    assert check_data.main([str(mine), "--data-root", "."]) == 1
    assert "leave one out (--exclude-duplicates)" in (out := capsys.readouterr().out) and f"'sequence' in {mine}" in out
    assert check_data.main([str(mine), "--data-root", ".", "--exclude-duplicates", "twice.txt"]) == 1
    assert "name it as 'exclude' in the YAMLs" in capsys.readouterr().out
    change(mine, exclude="twice.txt")
    assert check_data.main([str(mine), "--data-root", "."]) == 0
