"""What writers leave behind when they are killed."""

import uuid

from densemtmd.files import atomic_write, remove_strays


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
