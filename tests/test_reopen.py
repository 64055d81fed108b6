"""A run is resumed and evaluated from its own folder and the pictures alone: the YAMLs of its datasets, and the lists beside them, may
be gone."""

import json
import shutil
import signal
from pathlib import Path

import pytest
import yaml
from toy import write_toy

from densemtmd import checkpoint, training
from densemtmd.commands import evaluate, train
from densemtmd.errors import UserError
from densemtmd.runs import run as runs
from densemtmd.runs.folder import reopen

pytestmark = pytest.mark.usefixtures("undrawn")


def write_home(root: Path) -> Path:
    """A folder with YAMLs and lists, apart from the data: a dataset split by lists, with one picture excluded, and one that derives from
    it and takes a half of its pictures; returns it."""
    home = root / "home"
    home.mkdir()
    content = yaml.safe_load(write_toy(root, "squares", "square").read_text())
    parts = {"train": range(6), "val": range(6, 8), "test": range(8, 12)}
    for part, numbers in parts.items():
        (home / f"{part}.txt").write_text("".join(f"{n:03}\n" for n in numbers))
    (home / "blurred.txt").write_text("002\n")
    content |= {"split": {"lists": {part: f"{part}.txt" for part in parts}}, "exclude": "blurred.txt"}
    (home / "squares.yaml").write_text(yaml.safe_dump(content))
    derive = {"from": "squares.yaml", "map": {"thing": "square", "rest": "rest"}, "take": {"part": 1, "of": 2}}
    (home / "half.yaml").write_text(yaml.safe_dump({"name": "half", "derive": derive}))
    return home


@pytest.fixture
def interrupted(tmp_path, monkeypatch):
    """A run that was stopped after ten steps, by a relative data root, and the home of its datasets."""
    home = write_home(tmp_path)
    monkeypatch.chdir(tmp_path)
    arguments = [
        "data=own", "model=patchnet",
        f"data.datasets=[{home / 'squares.yaml'},{home / 'half.yaml'}]", "data_root=.", "runs=runs", "tracking=none",
        "model.widths=[4,6,8]", "model.hidden=8", "train.crop=24", "train.batch=4", "train.epochs=null", "train.outputs=3000",
        "train.epoch_outputs=1000",
    ]  # fmt: skip
    fit = training.fit

    def stopped(*given, losses, **rest):
        def stop(step, values):
            losses(step, values)
            signal.raise_signal(signal.SIGINT)

        return fit(*given, losses=stop, **rest)

    monkeypatch.setattr(runs, "fit", stopped)
    assert train.main(arguments) == 130
    monkeypatch.setattr(runs, "fit", fit)
    (run,) = (tmp_path / "runs").iterdir()
    return run, home


def test_the_yamls_and_their_lists_may_be_gone(interrupted, tmp_path, monkeypatch):
    run, home = interrupted
    listed = {path.relative_to(run): path.read_text() for path in (run / "splits").rglob("*.txt")}
    assert listed[Path("splits/squares/train.txt")].split() == ["000", "001", "003", "004", "005"]
    assert len(listed[Path("splits/half/train.txt")].split()) in (2, 3)
    shutil.rmtree(home)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert train.main([f"resume={run}"]) == 0
    assert checkpoint.load(run / "last.safetensors")[1]["state"]["done"]
    assert evaluate.main([str(run)]) == 0
    own, again = (json.loads((folder / "scores.json").read_text()) for folder in (run, run / "evaluations" / "own-test-dense"))
    assert own == {**again, "training": own["training"]}
    assert list((tmp_path / "elsewhere").iterdir()) == []
    _, datasets = reopen(run)
    for dataset in datasets:
        for split, items in dataset.splits.items():
            assert [item.key for item in items] == listed[Path("splits", dataset.name, f"{split}.txt")].split()


def test_pictures_that_came_later_are_no_part_of_it(interrupted, tmp_path):
    run, _ = interrupted
    for folder in ("images", "labels"):
        shutil.copy(tmp_path / "squares" / folder / "000.png", tmp_path / "squares" / folder / "100.png")
    _, datasets = reopen(run)
    assert sum(len(items) for items in datasets[0].splits.values()) == 11


@pytest.mark.parametrize("folder", ["images", "labels"])
def test_missing_pictures_are_refused(interrupted, tmp_path, capsys, folder):
    run, _ = interrupted
    (tmp_path / "squares" / folder / "004.png").unlink()
    capsys.readouterr()
    assert train.main([f"resume={run}"]) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "1 of 5 pictures in" in error and "are no longer in" in error and "'004'" in error


def test_what_a_link_leads_to_is_not_quoted(interrupted, tmp_path):
    """The folder of a run may be a stranger's."""
    run, _ = interrupted
    (tmp_path / "secret").write_text("password\n")
    (run / "splits" / "half" / "val.txt").unlink()
    (run / "splits" / "half" / "val.txt").symlink_to(tmp_path / "secret")
    with pytest.raises(UserError, match=r"1 of 1 pictures in .* are no longer in") as caught:
        reopen(run)
    assert "password" not in str(caught.value)


def test_a_list_that_is_gone_is_refused(interrupted):
    run, _ = interrupted
    (run / "splits" / "half" / "val.txt").unlink()
    with pytest.raises(UserError, match=r"half/val\.txt cannot be read: .*; expected the keys of val"):
        reopen(run)


@pytest.mark.parametrize("change", [{"labelset": "private.yaml"}, {"derive": {"from": "private.yaml"}}])
def test_a_stranger_s_run_opens_no_yaml_of_its_choice(tmp_path, change):
    """Its own config.yaml holds all that its datasets say."""
    import yaml

    from densemtmd.runs.folder import reopen

    (tmp_path / "private.yaml").write_text("secret: 3")
    found = {"mine": {"folder": str(tmp_path), "path": str(tmp_path / "mine.yaml"), "yaml": {"name": "mine"} | change}}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump({"found": found}))
    with pytest.raises(UserError, match="names the YAML of another dataset") as caught:
        reopen(tmp_path)
    assert "secret" not in str(caught.value)
