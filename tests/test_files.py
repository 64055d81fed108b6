"""Files and paths: what writers leave behind when they are killed, and that a path may be a text."""

import uuid

import pytest

from densemtmd import Predictor, checkpoint
from densemtmd.datasets.config import load_dataset_config
from densemtmd.datasets.pictures import read_picture
from densemtmd.errors import UserError
from densemtmd.files import atomic_write, read_json, read_yaml, remove_strays, write_json, write_text
from densemtmd.poses import read_any_depth
from densemtmd.runs.folder import reopen
from densemtmd.runs.run import resume
from densemtmd.runs.table import read_experiment


def test_strays_of_killed_writers_are_removed_and_nothing_else(tmp_path):
    (tmp_path / "below").mkdir()
    strays = [tmp_path / f".{uuid.uuid4().hex}.safetensors", tmp_path / "below" / f".{uuid.uuid4().hex}"]
    kept = [tmp_path / ".hidden.json", tmp_path / "below" / f"{uuid.uuid4().hex}.png", tmp_path / ".0123"]
    for file in strays + kept:
        file.write_text("x")
    remove_strays(tmp_path)
    assert not any(file.exists() for file in strays) and all(file.exists() for file in kept)


def test_the_names_of_strays_are_those_that_atomic_write_uses(tmp_path):
    with atomic_write(tmp_path / "scores.json") as temporary:
        temporary.write_text("{}")
        remove_strays(tmp_path)
        assert not temporary.exists()
        temporary.write_text("{}")
    assert [file.name for file in tmp_path.iterdir()] == ["scores.json"]


@pytest.mark.parametrize(
    "door",
    [checkpoint.load, checkpoint.load_network, Predictor.load, load_dataset_config, lambda path: read_yaml(path, "one"), read_json,
     read_picture, read_any_depth, reopen, resume, read_experiment],
    ids=lambda door: door.__name__,
)  # fmt: skip
def test_a_path_may_be_a_text(door, tmp_path):
    """Whatever takes a path: both are refused with the same sentence, where there is nothing."""
    sentences = []
    for path in (tmp_path / "nowhere.yaml", str(tmp_path / "nowhere.yaml")):
        with pytest.raises(UserError, match="nowhere") as caught:
            door(path)
        sentences.append(str(caught.value))
    assert sentences[0] == sentences[1]


def test_what_is_written_to_a_text(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_json("a/scores.json", {"iou": 1})
    write_text("a/table.yaml", "name: a\n")
    assert read_json("a/scores.json") == {"iou": 1} and read_yaml("a/table.yaml", "a table") == {"name": "a"}
